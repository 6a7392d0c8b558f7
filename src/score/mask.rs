//! Masks that a caller gives element by element, and what all masks together leave of a tile: one bit for each pair.

use core::{num::NonZeroUsize, ops::Range};

use super::{
    band::{self, below},
    custom::Position,
    function::Score,
    head::{Head, Queries},
};
use crate::{
    Error, Shape, View,
    error::Operand,
    kv::expect_shape,
    scalar::Scalar,
    simd::{Bf16Pairs, CACHE_LINE, Simd, Task, prefetch_early},
    view::Rows,
};

/// Which keys each query may attend to, told element by element: `true`, or a set bit, attends.
///
/// An extent of 1 is repeated along `batch`, `heads` and the queries, and so is a stride of 0.
///
/// ```
/// use simd_attention::{Attention, Kv, Mask, View, ViewMut, scratch_len};
///
/// // Two queries, three keys, one head of dimension 1. The first query sees keys 0 and 2, the second key 1.
/// let mask = [true, false, true, false, true, false];
/// let (q, k, v) = ([0f32; 2], [0f32; 3], [1f32, 5.0, 3.0]);
/// let mut out = [0f32; 2];
/// Attention::new().mask(Mask::new(View::matrix(&mask, [2, 3])?)).forward(
///     View::matrix(&q, [2, 1])?,
///     Kv::new(View::matrix(&k, [3, 1])?, View::matrix(&v, [3, 1])?)?,
///     ViewMut::matrix(&mut out, [2, 1])?,
///     &mut [0.0; scratch_len(1, 1)],
/// )?;
/// assert_eq!(out, [2.0, 5.0]);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    elements: Elements<'a>,
    /// Queries and keys that one element speaks for.
    block: [usize; 2],
}

#[derive(Clone, Copy, Debug)]
enum Elements<'a> {
    Bools(View<'a, bool>),
    Bits(View<'a, u8>),
}

impl<'a> Mask<'a> {
    /// `[batch, q_heads, q_len, kv_len]`. A `dim` of 1 is repeated along the keys.
    #[must_use]
    pub const fn new(elements: View<'a, bool>) -> Self {
        Self { elements: Elements::Bools(elements), block: [1, 1] }
    }

    /// `[batch, q_heads, q_len, kv_len / 8, rounded up]`: bit `j % 8` (counted from the lowest) of byte `j / 8` of a row is key
    /// `j`. Bits past `kv_len` don't matter.
    ///
    /// ```
    /// # use simd_attention::{Mask, View};
    /// // Two queries, three keys. The first query sees keys 0 and 2, the second key 1.
    /// let mask = Mask::bits(View::matrix(&[0b101, 0b010], [2, 1])?);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn bits(elements: View<'a, u8>) -> Self {
        Self { elements: Elements::Bits(elements), block: [1, 1] }
    }

    /// Lets each element speak for a block of `queries` by `keys` (block-sparse attention): the mask's extents are then those of the
    /// grid of blocks, `q_len / queries` and `kv_len / keys`, rounded up.
    ///
    /// ```
    /// # use simd_attention::{Mask, View};
    /// // 256 queries, 384 keys in blocks of 128: the second block of queries sees the last two blocks of keys.
    /// let blocks = [true, false, false, false, true, true];
    /// let mask = Mask::new(View::matrix(&blocks, [2, 3])?).blocks(128, 128);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn blocks(self, queries: usize, keys: usize) -> Self {
        Self { block: [queries, keys], ..self }
    }

    /// Repeated along the axes in which it has an extent of 1, so that it fits `q` and `kv_len`.
    pub(crate) fn fit(self, operand: Operand, q: Shape, kv_len: usize) -> Result<Fitted<'a>, Error> {
        let [Some(queries), Some(keys)] = self.block.map(NonZeroUsize::new) else { return Err(Error::ZeroBlock) };
        let (len, blocks) = (q.len.div_ceil(queries.get()), kv_len.div_ceil(keys.get()));
        let elements = match self.elements {
            Elements::Bools(view) => Elements::Bools(view.broadcast(operand, Shape { len, dim: blocks, ..q })?),
            Elements::Bits(view) => {
                let shape = Shape { len, dim: blocks.div_ceil(8), ..q };
                // A byte that is repeated would not be any mask.
                expect_shape(operand, Shape { dim: shape.dim, ..view.shape() }, view.shape())?;
                Elements::Bits(view.broadcast(operand, shape)?)
            }
        };
        Ok(Fitted { elements, block: [queries, keys] })
    }
}

/// A [`Mask`] that is known to fit.
#[derive(Clone, Copy)]
pub(crate) struct Fitted<'a> {
    elements: Elements<'a>,
    block: [NonZeroUsize; 2],
}

impl<'a> Fitted<'a> {
    /// Whether it lets a query attend to a key.
    pub(crate) fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        let (row, column) = (query / self.block[0], key / self.block[1]);
        match &self.elements {
            Elements::Bools(view) => match view.rows(batch, head).map_or(&[][..], |rows| rows.row(row)) {
                [only] => *only,
                row => row.get(column).is_some_and(|seen| *seen),
            },
            Elements::Bits(view) => {
                let byte = view.rows(batch, head).and_then(|rows| rows.row(row).get(column / 8));
                byte.is_some_and(|byte| byte >> (column % 8) & 1 == 1)
            }
        }
    }

    /// What it says of one head; `None` if there is no such.
    pub(crate) fn rows(&self, batch: usize, head: usize) -> Option<MaskRows<'a>> {
        let rows = match self.elements {
            Elements::Bools(view) => ElementRows::Bools(view.rows(batch, head)?),
            Elements::Bits(view) => ElementRows::Bits(view.rows(batch, head)?),
        };
        Some(MaskRows { rows, block: self.block })
    }
}

/// The mask of one head.
#[derive(Clone, Copy)]
pub(crate) struct MaskRows<'a> {
    rows: ElementRows<'a>,
    block: [NonZeroUsize; 2],
}

#[derive(Clone, Copy)]
enum ElementRows<'a> {
    Bools(Rows<'a, bool>),
    Bits(Rows<'a, u8>),
}

impl<'a> MaskRows<'a> {
    #[inline(always)]
    fn row(&self, query: usize) -> MaskRow<'a> {
        let [queries, keys] = self.block;
        let row = if queries == NonZeroUsize::MIN { query } else { query / queries };
        let elements = match &self.rows {
            ElementRows::Bools(rows) => ElementRow::Bools(rows.row(row)),
            ElementRows::Bits(rows) => ElementRow::Bits(rows.row(row)),
        };
        MaskRow { elements, keys }
    }
}

/// What a mask says of one query.
#[derive(Clone, Copy)]
struct MaskRow<'a> {
    elements: ElementRow<'a>,
    /// That one element speaks for.
    keys: NonZeroUsize,
}

#[derive(Clone, Copy)]
enum ElementRow<'a> {
    Bools(&'a [bool]),
    Bits(&'a [u8]),
}

impl MaskRow<'_> {
    /// Takes from words of 32 keys each, from `key` on, the first in the lowest bit, what it forbids; all past the last.
    #[inline(always)]
    fn restrict<'w, S: Simd>(self, simd: S, key: usize, words: impl Iterator<Item = &'w mut u32>) {
        match self.elements {
            ElementRow::Bools(row) if self.keys == NonZeroUsize::MIN && row.len() > 1 => {
                let (chunks, rest) = row.get(key..).unwrap_or_default().as_chunks();
                let mut last = [false; 32];
                last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                let bits = chunks.iter().chain([&last]).map(|chunk| simd.bitmask(chunk)).chain(core::iter::repeat(0));
                words.zip(bits).for_each(|(word, bits)| *word &= bits);
            }
            _ => words.zip((key..).step_by(32)).for_each(|(word, key)| *word &= self.word(key)),
        }
    }

    /// The keys `key .. key + 32`; an only element is repeated.
    #[inline(always)]
    fn word(self, key: usize) -> u32 {
        let keys = self.keys;
        match self.elements {
            ElementRow::Bools([only]) => return if *only { u32::MAX } else { 0 },
            ElementRow::Bits(row) if keys == NonZeroUsize::MIN => return bits(row, key),
            _ => {}
        }
        let (mut word, mut done) = (0, 0);
        while done < u32::BITS {
            let at = key + done as usize;
            let left = keys.get() - at % keys;
            let run = u32::try_from(left).unwrap_or(u32::MAX).min(u32::BITS - done);
            if self.sees(at / keys) {
                word |= below(run as i32) << done;
            }
            done += run;
        }
        word
    }

    #[inline(always)]
    fn sees(self, column: usize) -> bool {
        match self.elements {
            ElementRow::Bools(row) => row.get(column).is_some_and(|seen| *seen),
            ElementRow::Bits(row) => bits(row, column) & 1 == 1,
        }
    }

    /// Asks for what it says of some keys, if each has an element of its own; but for the line in which that begins, as what it says of those before ends there.
    #[inline(always)]
    fn prefetch(self, keys: Range<usize>) {
        if self.keys == NonZeroUsize::MIN {
            for key in keys.step_by(CACHE_LINE) {
                let last = key + (CACHE_LINE - 1);
                match self.elements {
                    ElementRow::Bools(row) => prefetch_early(row.as_ptr().wrapping_add(last)),
                    ElementRow::Bits(row) => prefetch_early(row.as_ptr().wrapping_add(last / 8)),
                }
            }
        }
    }
}

/// 32 bits from bit `first` on.
#[inline(always)]
fn bits(row: &[u8], first: usize) -> u32 {
    let row = row.get(first / 8..).unwrap_or_default();
    let mut bytes = [0; 8];
    match row.first_chunk() {
        Some(eight) => bytes = *eight,
        None => bytes.iter_mut().zip(row).for_each(|(to, from)| *to = *from),
    }
    (u64::from_le_bytes(bytes) >> (first % 8)) as u32
}

/// What a vector of queries sees of some keys, to be found out.
pub(crate) struct Look<'t, 'a, S: Simd, F> {
    pub(crate) simd: S,
    pub(crate) head: &'t Head<'a, F, S::Scalar>,
    pub(crate) queries: Queries,
    /// Which of them is in the first lane; lanes past the last repeat it.
    pub(crate) first: usize,
    /// At most as many as a tile has.
    pub(crate) keys: Range<usize>,
    pub(crate) words: &'t mut Words<S>,
}

impl<S: Simd, F: Score> Task for Look<'_, '_, S, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, head, queries, first, ref keys, .. } = self;
        let [base, _] = queries.ends(first, S::LANES);
        let at: [[usize; 2]; 16] = core::array::from_fn(|lane| queries.at(first + lane));
        let mut offsets = [0; 16];
        offsets.iter_mut().zip(&at).for_each(|(offset, [_, query])| *offset = (query - base) as i32);
        let ends = head.band.ends(base, keys.start);
        let mut lanes = [[0; 16]; MAX_WORDS];
        let firsts = || (0..keys.len()).step_by(32);
        for (lanes, first) in lanes.iter_mut().zip(firsts()) {
            *lanes = band::words(ends, &offsets, first as i32);
        }
        if !head.is_band() {
            self.mask(&at, lanes.get_mut(..keys.len().div_ceil(32)).unwrap_or_default());
        }
        let words = &mut *self.words;
        (words.any, words.all) = (false, true);
        for (((vector, common), lanes), first) in words.lanes.iter_mut().zip(&mut words.common).zip(lanes).zip(firsts())
        {
            let existing = below((keys.len() - first) as i32);
            let (mut some, mut all) = (0, u32::MAX);
            let mut bits = [S::Scalar::ZERO; 16];
            for (bits, lane) in bits.iter_mut().zip(lanes).take(S::LANES) {
                some |= lane;
                all &= lane;
                *bits = S::Scalar::from_word(lane);
            }
            words.any |= some & existing != 0;
            words.all &= all & existing == existing;
            (*common, *vector) = (all, simd.load(&bits));
        }
    }
}

impl<S: Simd, F: Score> Look<'_, '_, S, F> {
    /// Takes from words of the keys, of each 32 one for each lane, what masks forbid, the caller's own among them.
    #[inline(always)]
    fn mask(&self, at: &[[usize; 2]; 16], words: &mut [[u32; 16]]) {
        let Self { simd, head, ref keys, .. } = *self;
        let [first_query, first_key] = head.origin();
        let lanes = || at.iter().copied().enumerate().take(S::LANES);
        for mask in head.call.masks.iter().flatten() {
            let (mut rows, mut rows_of) = (None, None);
            for (lane, [of, query]) in lanes() {
                if rows_of != Some(of) {
                    (rows, rows_of) = (mask.rows(head.sequence.batch, of), Some(of));
                }
                let Some(rows) = &rows else { continue };
                let (row, next) = (rows.row(first_query + query), first_key + keys.end);
                row.restrict(simd, first_key + keys.start, words.iter_mut().filter_map(|words| words.get_mut(lane)));
                row.prefetch(next..next + keys.len());
            }
        }
        if F::MASKS {
            for (lane, at) in lanes() {
                for (words, key) in words.iter_mut().zip((keys.start..).step_by(32)) {
                    words.get_mut(lane).into_iter().for_each(|word| *word &= custom(head, at, key));
                }
            }
        }
    }
}

/// Which of the keys `key .. key + 32` a caller's own mask lets a query see.
#[inline(always)]
fn custom<F: Score, E: Scalar>(of: &Head<'_, F, E>, [head, query]: [usize; 2], key: usize) -> u32 {
    let existing = u32::try_from(of.band.kv_len.saturating_sub(key)).unwrap_or(u32::MAX);
    (0..existing.min(u32::BITS)).fold(0, |word, bit| {
        let key = key + bit as usize;
        let at = Position { sequence: of.sequence.index, head, query, key };
        word | u32::from(of.score.sees(at)) << bit
    })
}

/// Words of 32 keys that a tile has at most.
const MAX_WORDS: usize = 8;

/// For each lane's query, which keys of a tile it sees.
#[derive(Clone, Copy)]
pub(crate) struct Words<S: Simd> {
    lanes: [S::Vector; MAX_WORDS],
    /// The keys that all see.
    common: [u32; MAX_WORDS],
    /// Whether any query sees any key, and whether all see all.
    pub(crate) any: bool,
    pub(crate) all: bool,
}

impl<S: Simd> Words<S> {
    const FIT: () = assert!(S::KEY_TILE <= 32 * MAX_WORDS && S::Bf16Pairs::KEY_TILE <= 32 * MAX_WORDS);

    /// All see all.
    #[inline(always)]
    pub(crate) fn all(simd: S) -> Self {
        let () = Self::FIT;
        Self {
            lanes: [simd.broadcast(S::Scalar::from_word(u32::MAX)); MAX_WORDS],
            common: [u32::MAX; MAX_WORDS],
            any: true,
            all: true,
        }
    }

    /// Whether all see these keys of the tile, of which there are at most 16 and the first is a multiple of as many as a vector has lanes.
    #[inline(always)]
    pub(crate) fn all_see(&self, keys: &Range<usize>) -> bool {
        let word = self.common[(keys.start / 32).min(MAX_WORDS - 1)];
        !word >> (keys.start % 32) & below(keys.len() as i32) == 0
    }

    /// Which of 32 keys, key `j` of the tile among them, each query sees.
    #[inline(always)]
    pub(crate) fn bits(&self, j: usize) -> S::Vector {
        self.lanes[(j / 32).min(MAX_WORDS - 1)]
    }
}

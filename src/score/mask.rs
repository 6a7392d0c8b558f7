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
    simd::{Bf16Pairs, Simd, Task, prefetch},
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

impl MaskRows<'_> {
    /// The keys `key .. key + 32`, the first in the lowest bit; nothing is seen past the last.
    #[inline(always)]
    pub(crate) fn word(&self, query: usize, key: usize) -> u32 {
        let [queries, keys] = self.block;
        if self.block == [NonZeroUsize::MIN; 2] {
            return self.elements(query, key);
        }
        let row = query / queries;
        let (mut word, mut done) = (0, 0);
        while done < u32::BITS {
            let at = key + done as usize;
            let left = keys.get() - at % keys;
            let run = u32::try_from(left).unwrap_or(u32::MAX).min(u32::BITS - done);
            if self.elements(row, at / keys) & 1 == 1 {
                word |= below(run as i32) << done;
            }
            done += run;
        }
        word
    }

    /// Asks for what will be looked at next, where each key has an element of its own.
    #[inline(always)]
    fn prefetch(&self, query: usize, key: usize) {
        if self.block == [NonZeroUsize::MIN; 2] {
            match &self.rows {
                ElementRows::Bools(rows) => prefetch(rows.row_ptr(query).wrapping_add(key)),
                ElementRows::Bits(rows) => prefetch(rows.row_ptr(query).wrapping_add(key / 8)),
            }
        }
    }

    #[inline(always)]
    fn elements(&self, row: usize, first: usize) -> u32 {
        match &self.rows {
            ElementRows::Bools(rows) => bools(rows.row(row), first),
            ElementRows::Bits(rows) => bits(rows.row(row), first),
        }
    }
}

/// 32 elements from `first` on as bits; an only one is repeated.
#[inline(always)]
fn bools(row: &[bool], first: usize) -> u32 {
    if let [only] = row {
        return if *only { u32::MAX } else { 0 };
    }
    let row = row.get(first..).unwrap_or_default();
    if let Some(row) = row.first_chunk::<32>()
        && let ([a, b, c, d], _) = row.as_chunks::<8>()
    {
        return gather(*a) | gather(*b) << 8 | gather(*c) << 16 | gather(*d) << 24;
    }
    row.iter().take(32).rev().fold(0, |bits, seen| bits << 1 | u32::from(*seen))
}

/// The product with the factor has them all in its topmost byte.
#[inline(always)]
fn gather(eight: [bool; 8]) -> u32 {
    (u64::from_le_bytes(eight.map(u8::from)).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
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
}

impl<S: Simd, F: Score> Task for Look<'_, '_, S, F> {
    type Output = Words<S>;

    #[inline(always)]
    fn run(self) -> Words<S> {
        let Self { simd, head, queries, first, ref keys } = self;
        let [base, _] = queries.ends(first, S::LANES);
        let at: [[usize; 2]; 16] = core::array::from_fn(|lane| queries.at(first + lane));
        let offsets = at.map(|[_, query]| (query - base) as i32);
        let ends = head.band.ends(base, keys.start);
        let mut words = Words { any: false, ..Words::all(simd) };
        for ((vector, common), first) in words.lanes.iter_mut().zip(&mut words.common).zip((0..keys.len()).step_by(32))
        {
            let mut lanes = band::words(ends, &offsets, first as i32);
            if !head.is_band() {
                self.mask(&at, keys.start + first, &mut lanes);
            }
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
        words
    }
}

impl<S: Simd, F: Score> Look<'_, '_, S, F> {
    /// Takes from words of the keys from `key` on, one for each lane, what masks forbid, the caller's own among them.
    #[inline(always)]
    fn mask(&self, at: &[[usize; 2]; 16], key: usize, lanes: &mut [u32; 16]) {
        let head = self.head;
        let [first_query, first_key] = head.origin();
        let mut start = 0;
        while let Some(&[head_of_lane, _]) = at.get(start).filter(|_| start < S::LANES) {
            let same_head = at.iter().take(S::LANES).skip(start).take_while(|[other, _]| *other == head_of_lane);
            let end = start + same_head.count();
            let (lanes, queries) =
                (lanes.get_mut(start..end).unwrap_or_default(), at.get(start..end).unwrap_or_default());
            for mask in head.masks(head_of_lane).iter().flatten() {
                for (lane, [_, query]) in lanes.iter_mut().zip(queries) {
                    *lane &= mask.word(first_query + query, first_key + key);
                    mask.prefetch(first_query + query, first_key + key + S::KEY_TILE);
                }
            }
            if F::MASKS {
                for (lane, at) in lanes.iter_mut().zip(queries) {
                    *lane &= custom(head, *at, key);
                }
            }
            start = end;
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

    /// The queries that see key `j` of the tile.
    #[inline(always)]
    pub(crate) fn lanes(&self, simd: S, j: usize) -> S::Mask {
        simd.has_bit(self.lanes[(j / 32).min(MAX_WORDS - 1)], j as u32 % 32)
    }
}

//! A tile of keys with their values.

use core::{num::NonZeroUsize, ops::Range};

use super::{
    MatricesOf, Products, is_zero,
    matrices::TransposeValues,
    pairs::{Gather, PairValues},
};
use crate::{
    element::Load,
    floats::{FloatStrip, with_floats},
    scalar::Scalar,
    scratch::{Scratch, spacing},
    simd::{Bf16Pairs, Matrices, Pairs, Simd, Task},
    store::{Strips, with_elements},
    view::{Ask, ByAddress, Pair, Reader, Rows, Soon, Strip, Walk},
};

/// Keys and values of a head, and room for a tile of each as the kernels for many queries want them: scalars, evenly spaced.
pub(super) struct Tiles<'s, E> {
    keys: Side<'s, E>,
    values: Side<'s, E>,
}

impl<'s, E: Scalar> Tiles<'s, E> {
    /// Those from row `origin` of the strips on. If they are [plain](crate::kv::Cache::is_plain), they stay where they are, but for values that are to be
    /// copied. `None` only if the scratch is too short.
    #[inline(always)]
    pub(super) fn new<S: Simd<Scalar = E>, const COLS: usize>(
        [keys, values]: [Strips<'s, E>; 2],
        origin: usize,
        products: Products,
        is_plain: bool,
        copies_values: bool,
        scratch: &mut Scratch<'s, S, COLS>,
    ) -> Option<Self> {
        let mut side = |strips: Strips<'s, E>, is_copied: bool| {
            let dim = NonZeroUsize::new(strips.dim())?;
            let is_in_place = is_plain && !is_copied;
            let room = if is_in_place { Default::default() } else { scratch.staging(products, dim.get())? };
            let is_raw = strips.has_plain_rows() && (products.take_bytes::<S>() || !strips.have_scales());
            Some(Side { strips, dim, origin, is_raw, is_copied, room, staged: 0..0, is_whole: false })
        };
        Some(Self { keys: side(keys, false)?, values: side(values, copies_values)? })
    }

    /// Whether few queries attend to keys and values as they are.
    #[inline(always)]
    pub(super) const fn are_raw(&self) -> bool {
        self.keys.is_raw && self.values.is_raw
    }

    /// The tile of these keys. What comes before `first` nobody sees.
    #[inline(always)]
    pub(super) fn tile(&mut self, range: Range<usize>, first: usize) -> KeyTile<'_, 's, E> {
        let seen = range.start.max(first)..range.end;
        KeyTile { tiles: self, range, seen, is_finite: None }
    }
}

/// Keys or values. Ranges are of keys.
struct Side<'s, E> {
    strips: Strips<'s, E>,
    dim: NonZeroUsize,
    /// Row of the first key.
    origin: usize,
    /// Whether few queries are multiplied with rows as they are.
    is_raw: bool,
    /// Whether a tile of them is copied though they could be read where they are.
    is_copied: bool,
    room: &'s mut [E],
    /// What is in the room.
    staged: Range<usize>,
    /// Whether all of its numbers are, those too that are not finite.
    is_whole: bool,
}

impl<E: Scalar> Side<'_, E> {
    #[inline(always)]
    fn row_numbers(&self, range: &Range<usize>) -> Range<usize> {
        range.start + self.origin..range.end + self.origin
    }

    /// Has `put` fill the room with a tile's rows, given their numbers, unless they are there already.
    #[inline(always)]
    fn stage(&mut self, tile: &Range<usize>, put: impl FnOnce(Range<usize>, &mut [E])) {
        if self.staged != *tile {
            put(self.row_numbers(tile), self.room);
            self.staged = tile.clone();
        }
    }

    /// Those of a range within the tile, which is at most as long as there is room for.
    #[inline(always)]
    fn rows<S: Simd<Scalar = E>>(&mut self, simd: S, tile: &Range<usize>, range: &Range<usize>) -> Option<Rows<'_, E>> {
        if let Strips::Floats(FloatStrip::Scalars(strip)) = &self.strips
            && !self.is_copied
            && let Some(rows) = strip.rows(&self.row_numbers(range))
        {
            return Some(rows);
        }
        let (from, spacing) = (self.strips, spacing::<S>(self.dim.get()));
        self.stage(tile, |rows, to| simd.call(Stage { simd, from: &from, rows, spacing, to }));
        let rows = Rows::of(self.room, NonZeroUsize::new(spacing)?)?.range(range.start - tile.start, range.len())?;
        rows.columns(0, self.dim.get())
    }

    /// Those of a range within the tile, in pairs of elements.
    #[inline(always)]
    fn pairs_of_elements<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        tile: &Range<usize>,
        range: &Range<usize>,
    ) -> Option<Rows<'_, Pair>> {
        let (from, pairs) = (self.strips.bf16()?, simd.bf16_pairs()?);
        if let Some(rows) = from.rows(&self.row_numbers(range)).and_then(|rows| rows.pairs()) {
            return Some(rows);
        }
        let row_len = NonZeroUsize::new(self.dim.get() / 2)?;
        self.stage(tile, |rows, to| pairs.call(Gather { simd, pairs, from, rows, row_len, least: 0, to }));
        Rows::of(self.room, row_len)?.range(range.start - tile.start, range.len())?.as_pairs()
    }

    /// Those of a range within the tile in pairs of rows, an even one and the next, with zeros for what is not of the tile.
    #[inline(always)]
    fn pairs_of_rows<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        tile: &Range<usize>,
        range: &Range<usize>,
    ) -> Option<Rows<'_, Pair>> {
        let (from, unseen, pairs) = (self.strips.bf16()?, tile.start % 2, simd.bf16_pairs()?);
        self.stage(tile, |rows, to| pairs.call(PairValues { simd, pairs, from, rows, unseen, to }));
        let (first, end) = (range.start / 2, range.end.div_ceil(2));
        Rows::of(self.room, self.dim)?.range(first - tile.start / 2, end - first)?.as_pairs()
    }

    /// Those of a tile as rows of a matrix's left factor: of whole rows of it, and as many as it has at least.
    #[inline(always)]
    fn matrix_rows<S: Simd<Scalar = E>>(&mut self, simd: S, tile: &Range<usize>) -> Option<Rows<'_, Pair>> {
        let (from, pairs, least) = (self.strips.bf16()?, simd.bf16_pairs()?, MatricesOf::<S>::ROWS);
        let row_len = NonZeroUsize::new(self.dim.get().div_ceil(2).next_multiple_of(least))?;
        if tile.len() >= least
            && self.dim.get() == 2 * row_len.get()
            && let Some(rows) = from.rows(&self.row_numbers(tile)).and_then(|rows| rows.pairs())
        {
            return Some(rows);
        }
        self.stage(tile, |rows, to| {
            pairs.call(Gather { simd, pairs, from, rows, row_len, least, to });
        });
        Rows::of(self.room, row_len)?.range(0, tile.len().max(least))?.as_pairs()
    }

    /// Those of a range within the tile, their numbers side by side: a row for each of their columns. The range begins and ends with multiples of the
    /// keys that matrices take at once, or where the tile does.
    #[inline(always)]
    fn matrix_columns<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        tile: &Range<usize>,
        range: &Range<usize>,
        only_finite: bool,
    ) -> Option<Rows<'_, Pair>> {
        let keys = Products::ManyInMatrices.keys_in_one::<S>();
        let (from, matrices, unseen) = (self.strips.bf16()?, simd.bf16_pairs()?.matrices()?, tile.start % keys);
        let row_len = NonZeroUsize::new(S::Bf16Pairs::KEY_TILE / 2)?;
        if self.is_whole == only_finite {
            (self.is_whole, self.staged) = (!only_finite, 0..0);
        }
        self.stage(tile, |rows, to| {
            simd.call(TransposeValues { simd, matrices, from, rows, unseen, only_finite, row_len, to });
        });
        let (first, end) = (range.start / keys, range.end.div_ceil(keys.get()));
        let pairs_of = |groups: usize| groups * (keys.get() / 2);
        let columns = Rows::of(self.room, row_len)?.as_pairs()?;
        columns.columns(pairs_of(first - tile.start / keys), pairs_of(end - first))
    }

    /// Those of a range within the tile: as they are, or made scalars.
    #[inline(always)]
    fn strips<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        tile: &Range<usize>,
        range: &Range<usize>,
    ) -> Option<RawRows<'_, E>> {
        if range.is_empty() {
            None
        } else if self.is_raw {
            Some(RawRows { strips: self.strips, first: self.row_numbers(range).start })
        } else {
            let rows = Strip::one_page(self.rows(simd, tile, range)?)?;
            Some(RawRows { strips: Strips::Floats(FloatStrip::Scalars(rows)), first: 0 })
        }
    }
}

/// Rows as memory has them, those from number `first` on.
#[derive(Clone, Copy)]
pub struct RawRows<'t, E> {
    pub(super) strips: Strips<'t, E>,
    pub(super) first: usize,
}

/// Consecutive keys, with their values.
pub(super) struct KeyTile<'t, 's, E> {
    tiles: &'t mut Tiles<'s, E>,
    pub(super) range: Range<usize>,
    /// Those of them that anybody may see.
    seen: Range<usize>,
    /// Whether every value is, once that is known.
    is_finite: Option<bool>,
}

impl<E: Scalar> KeyTile<'_, '_, E> {
    /// Which keys are its own from number `first` on, at most `len`.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, len: usize) -> Range<usize> {
        let start = (self.range.start + first).min(self.range.end);
        start..self.range.end.min(start + len)
    }

    /// Keys of this range, which somebody sees; `None` where there are none.
    #[inline(always)]
    pub(super) fn keys<S: Simd<Scalar = E>>(&mut self, simd: S, range: &Range<usize>) -> Option<Rows<'_, E>> {
        self.tiles.keys.rows(simd, &self.seen, range)
    }

    /// Values of this range, which somebody sees; `None` where there are none.
    #[inline(always)]
    pub(super) fn values<S: Simd<Scalar = E>>(&mut self, simd: S, range: &Range<usize>) -> Option<Rows<'_, E>> {
        self.tiles.values.rows(simd, &self.seen, range)
    }

    /// Keys of this range, which somebody sees, in pairs of elements; `None` where there are none, or they are not [so multiplied](Products::are_many_in_pairs).
    #[inline(always)]
    pub(super) fn keys_in_pairs<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        range: &Range<usize>,
    ) -> Option<Rows<'_, Pair>> {
        self.tiles.keys.pairs_of_elements(simd, &self.seen, range)
    }

    /// Values of all pairs of keys, an even one and the next, of which one is in this range; `None` likewise.
    #[inline(always)]
    pub(super) fn values_in_pairs<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        range: &Range<usize>,
    ) -> Option<Rows<'_, Pair>> {
        self.tiles.values.pairs_of_rows(simd, &self.seen, range)
    }

    /// All keys that somebody sees, for matrices, and the row of the first one of this range; `None` likewise.
    #[inline(always)]
    pub(super) fn matrix_keys<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        range: &Range<usize>,
    ) -> Option<(Rows<'_, Pair>, usize)> {
        if range.is_empty() {
            return None;
        }
        let first = range.start - self.seen.start;
        Some((self.tiles.keys.matrix_rows(simd, &self.seen)?, first))
    }

    /// Values of all keys that matrices take together with those of this range, a row for each column; `None` likewise.
    #[inline(always)]
    pub(super) fn matrix_values<S: Simd<Scalar = E>>(
        &mut self,
        simd: S,
        range: &Range<usize>,
        only_finite: bool,
    ) -> Option<Rows<'_, Pair>> {
        self.tiles.values.matrix_columns(simd, &self.seen, range, only_finite)
    }

    /// Keys of this range, which somebody sees, for few queries.
    #[inline(always)]
    pub(super) fn raw_keys<S: Simd<Scalar = E>>(&mut self, simd: S, range: &Range<usize>) -> Option<RawRows<'_, E>> {
        self.tiles.keys.strips(simd, &self.seen, range)
    }

    /// Values of this range, likewise.
    #[inline(always)]
    pub(super) fn raw_values<S: Simd<Scalar = E>>(&mut self, simd: S, range: &Range<usize>) -> Option<RawRows<'_, E>> {
        self.tiles.values.strips(simd, &self.seen, range)
    }

    /// Whether a value is known to be infinite or NaN.
    #[inline(always)]
    pub(super) fn is_known_unbounded(&self) -> bool {
        self.is_finite == Some(false)
    }

    /// Whether no value is infinite or NaN.
    #[inline(always)]
    pub(super) fn is_finite<S: Simd<Scalar = E>>(&mut self, simd: S) -> bool {
        let is_finite = match self.is_finite {
            Some(known) => known,
            None => {
                let values = &self.tiles.values;
                simd.call(AreFinite { simd, values: &values.strips, rows: values.row_numbers(&self.seen) })
            }
        };
        self.is_finite = Some(is_finite);
        is_finite
    }
}

/// How long before it becomes scalars a row is asked for.
const ROWS_AHEAD: usize = 12;

/// Makes rows scalars, so many elements apart.
struct Stage<'t, 'a, S: Simd> {
    simd: S,
    from: &'t Strips<'a, S::Scalar>,
    rows: Range<usize>,
    spacing: usize,
    to: &'t mut [S::Scalar],
}

impl<S: Simd> Task for Stage<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, from, rows, spacing, to } = self;
        with_elements!(*from, strip => {
            let (dim, later) = (strip.dim(), rows.start + ROWS_AHEAD);
            let mut walk = ByAddress::<_, _, Soon<1>>::new(|row| strip.walk(row), [rows.start, later]);
            each(to, spacing, rows.len(), |to| {
                let row = walk.next();
                walk.ask([row], dim);
                // SAFETY: there are as many rows.
                convert(simd, unsafe { core::slice::from_raw_parts(row, dim) }, to);
            });
        });
        if let Strips::I8(_, scales) = from {
            let (mut walk, groups) = (scales.walk(rows.start), NonZeroUsize::new(scales.dim()));
            let per_group = groups.map_or(0, |groups| from.dim() / groups);
            each(to, spacing, rows.len(), |row| {
                let row = row.get_mut(..from.dim()).unwrap_or_default();
                // SAFETY: as above.
                let mut scales = unsafe { walk.next_row() }.iter();
                each(row, per_group, usize::MAX, |group| {
                    let scale = simd.splat(scales.next().copied().unwrap_or_default());
                    let mut t = 0;
                    while let Some(chunk @ [_, ..]) = group.get_mut(t..) {
                        simd.store(simd.mul(simd.load(chunk), scale), chunk);
                        t += S::LANES;
                    }
                });
            });
        }
    }
}

/// Does something to at most so many pieces of a slice, each of this length.
#[inline(always)]
pub(super) fn each<E>(mut of: &mut [E], len: usize, count: usize, mut f: impl FnMut(&mut [E])) {
    for _ in 0..count {
        match core::mem::take(&mut of).split_at_mut_checked(len) {
            Some((piece, rest)) if len > 0 => {
                f(piece);
                of = rest;
            }
            _ => return,
        }
    }
}

#[inline(always)]
fn convert<S: Simd, T: Load>(simd: S, from: &[T], to: &mut [S::Scalar]) {
    let mut t = 0;
    while let (Some(from @ [_, ..]), Some(to)) = (from.get(t..), to.get_mut(t..)) {
        simd.store(T::load(simd, from), to);
        t += S::LANES;
    }
}

/// Whether none of some values is infinite or NaN.
struct AreFinite<'t, 'a, S: Simd> {
    simd: S,
    values: &'t Strips<'a, S::Scalar>,
    rows: Range<usize>,
}

impl<S: Simd> Task for AreFinite<'_, '_, S> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { simd, values, rows } = self;
        // SAFETY: there are as many rows.
        unsafe {
            match *values {
                // Nor what numbers may be multiplied with them.
                Strips::I8(_, scales) => are_finite(simd, 128.0, scales.walk(rows.start), rows.len()),
                Strips::Floats(floats) => with_floats!(FloatStrip::floats, strip => {
                    are_finite(simd, 1.0, strip.walk(rows.start), rows.len())
                }),
            }
        }
    }
}

/// Whether all elements of the next rows are, times `factor`.
///
/// # Safety
///
/// There are as many.
#[inline(always)]
unsafe fn are_finite<S: Simd, T: Load>(simd: S, factor: f32, mut walk: Walk<'_, T>, rows: usize) -> bool {
    let (zero, factor) = (simd.splat(0.0), simd.splat(factor));
    let load = |from| simd.mul(T::load(simd, from), factor);
    // Several sums, so that one need not wait for the other. Times zero, what is not finite is NaN.
    let [mut a, mut b, mut c, mut d] = [zero; 4];
    for _ in 0..rows {
        // SAFETY: the caller's promise.
        let row = unsafe { walk.next_row() };
        let fours = row.chunks_exact(4 * S::LANES);
        for x in fours.remainder().chunks(S::LANES) {
            a = simd.mul_add(load(x), zero, a);
        }
        for four in fours {
            let (front, back) = four.split_at(2 * S::LANES);
            let ([w, x], [y, z]) = (halves(front), halves(back));
            a = simd.mul_add(load(w), zero, a);
            b = simd.mul_add(load(x), zero, b);
            c = simd.mul_add(load(y), zero, c);
            d = simd.mul_add(load(z), zero, d);
        }
    }
    is_zero(simd, simd.add(simd.add(a, b), simd.add(c, d)))
}

#[inline(always)]
fn halves<T>(chunk: &[T]) -> [&[T]; 2] {
    let (front, back) = chunk.split_at(chunk.len() / 2);
    [front, back]
}

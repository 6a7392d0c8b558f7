//! Few queries, as in decoding, where reading keys and values decides the speed.
//!
//! Lanes hold not queries but keys, or elements of a row, so that none is idle; each element is loaded once for all queries. What happens to
//! scores between the product and the softmax is that of [prefill](super::prefill), on a tile that is turned over; it is seldom asked for.

use core::{
    array::from_fn,
    num::NonZeroUsize,
    ops::Range,
    slice::{from_mut, from_ref},
};

mod dots;
mod in_order;
mod product;
mod readers;
mod rounded;
mod sums;

pub(super) use self::rounded::Rounded;
use self::{
    in_order::in_order_products,
    product::fours,
    rounded::{ExactScores, ExactSums, Numbers, Round},
};
pub(crate) use self::{
    product::{add_values, multiply_keys, products_of_rows},
    sums::Weights,
};
use super::{
    Products,
    block::{Block, Room, Seen},
    has_i8_pairs,
    key_tile::{KeyTile, RawRows},
};
use crate::{
    Stage,
    element::{Load, Store},
    scalar::Scalar,
    score::{
        function::Score,
        mask::Words,
        modify::{Apply, Column, Mark},
    },
    scratch,
    simd::{CACHE_LINE, Pairs, Simd},
    softmax::{FEW_TILES, FewScores, MOST_KEYS},
    store::Strips,
    view::RowsMut,
};

impl Products {
    /// Keys that are attended to at once.
    #[inline(always)]
    pub(super) const fn keys_at_once<S: Simd>(self, are_raw: bool) -> NonZeroUsize {
        let tiles = if self.are_of_rows() && are_raw { FEW_TILES } else { 1 };
        self.key_tile::<S>().saturating_mul(NonZeroUsize::MIN.saturating_add(tiles - 1))
    }

    /// Rows of scratch for `count` queries of `key_dim` elements, and for what they gather of `value_dim`.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(self, count: usize, [key_dim, value_dim]: [usize; 2]) -> [usize; 2] {
        let whole_vectors = |dim: usize| rows::<S>(count) * dim.div_ceil(S::LANES);
        match self {
            Self::Many | Self::ManyInPairs => [key_dim, value_dim],
            // Queries as they are, then in pairs.
            Self::ManyInMatrices => {
                [key_dim.max(key_dim.div_ceil(2).next_multiple_of(S::LANES)), value_dim.next_multiple_of(S::LANES)]
            }
            Self::FewInOrder => [key_dim, whole_vectors(value_dim)],
            Self::Few => [whole_vectors(key_dim), whole_vectors(value_dim)],
            // Queries as they are, and in pairs.
            Self::FewInPairs => [whole_vectors(key_dim) + whole_vectors(key_dim.div_ceil(2)), whole_vectors(value_dim)],
        }
    }
}

/// How many queries products are computed for at once where there are `count`: 1, or 4. Keys and values are read anew for the next four, then from a cache.
#[inline(always)]
const fn room<S: Simd>(count: usize) -> usize {
    if count == 1 || S::FEW == 1 { 1 } else { 4 }
}

/// Rows of queries there is room for where there are `count`.
#[inline(always)]
const fn rows<S: Simd>(count: usize) -> usize {
    count.next_multiple_of(room::<S>(count))
}

/// Queries as [`multiply_keys`] wants them, scaled: as many as there is [`room`] for, then the next ones; past the last one, it is repeated.
///
/// # Safety
///
/// `row(i)` is where row `i` of `len` begins, and has `dim` elements.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, T: Load>(
    simd: S,
    row: impl Fn(usize) -> *const T,
    [len, dim]: [usize; 2],
    scale: S::Scalar,
    to: &mut [S::Vector],
) {
    let (scale, mut to) = (simd.broadcast(scale), to.iter_mut());
    for first in (0..len).step_by(4) {
        for t in (0..dim).step_by(S::LANES) {
            for i in first..first + room::<S>(len) {
                // SAFETY: the caller's promise.
                let elements =
                    unsafe { core::slice::from_raw_parts(row(i.min(len - 1)).add(t), S::LANES.min(dim - t)) };
                if let Some(to) = to.next() {
                    *to = simd.mul(T::load(simd, elements), scale);
                }
            }
        }
    }
}

/// `to[query] = output[query] * factor[query]`
#[inline(always)]
pub(super) fn store<S: Simd, T: Store>(simd: S, output: &[S::Vector], factor: S::Vector, to: &mut RowsMut<'_, T>) {
    let mut factors = [S::Scalar::ZERO; 16];
    simd.store(factor, &mut factors);
    let per_query = to.dim().div_ceil(S::LANES);
    for (i, factor) in factors.into_iter().enumerate().take(to.len()) {
        let (to, row) = (to.row_mut(i), output.get(i * per_query..).unwrap_or_default());
        for (from, first) in row.iter().take(per_query).zip((0..).step_by(S::LANES)) {
            // Which zero a zero is depends on keys that are masked; here it becomes the positive one.
            let x = simd.mul_add(*from, simd.broadcast(factor), simd.splat(0.0));
            T::store(simd, x, to.get_mut(first..).unwrap_or_default());
        }
    }
}

/// [`Round`] of so many rows and vectors, for products with some keys or values.
#[inline(always)]
fn round<S: Simd>(
    simd: S,
    strips: &Strips<'_, S::Scalar>,
    numbers: Numbers,
    size: [usize; 2],
    from: &[S::Vector],
    to: &mut [S::Vector],
) -> Rounded<S::Scalar> {
    if let Strips::Floats(_) = strips {
        simd.bf16_pairs().map(|pairs| pairs.call(Round::new(simd, pairs, numbers, size, from, to)))
    } else if let Some(fours) = fours(simd, size[0], strips.dim()) {
        Some(simd.call(Round::new(simd, fours, numbers, size, from, to)))
    } else {
        simd.i8_pairs().map(|pairs| simd.call(Round::new(simd, pairs, numbers, size, from, to)))
    }
    .unwrap_or(Rounded::NOT)
}

/// Room for what happens between the products.
struct PartRoom<'t, S: Simd> {
    /// For a tile of scores or weights that is turned over, or pairs of weights.
    tile: &'t mut [S::Vector],
    words: &'t mut Words<S>,
}

impl<S: Simd, F: Score, const COLS: usize> Block<'_, S, F, COLS> {
    /// Makes pairs of queries, if that is what they are multiplied as, behind them.
    #[inline(always)]
    pub(super) fn round_queries(&mut self) {
        let Self { simd, head, .. } = *self;
        let Some([keys, _]) = head.kv().filter(|_| self.products == Products::FewInPairs) else { return };
        let (rows, vectors) = (rows::<S>(self.of.len), keys.dim().div_ceil(S::LANES));
        let Some((from, to)) = self.queries.as_flattened_mut().split_at_mut_checked(rows * vectors) else { return };
        self.rounded = round(simd, &keys, Numbers::OfQueries, [rows, vectors], from, to);
        self.rounded.factors.iter_mut().for_each(|factor| *factor = *factor * head.call.query_factor);
    }

    /// Attends to some tiles of keys at once. The room for scores is room for those, and for another tile.
    #[inline(always)]
    pub(super) fn attend_few(&mut self, tiles: &mut KeyTile<'_, '_, S::Scalar>, room: &mut Room<'_, S, COLS>) {
        let Some((tile, scores)) = room.scores.as_flattened_mut().split_at_mut_checked(S::KEY_TILE) else { return };
        let Some(words) = room.words.first_mut() else { return };
        let mut scores = FewScores::new(self.simd, scores, self.of.len, tiles.range.len().div_ceil(S::KEY_TILE));
        let parts: [Part; FEW_TILES] = from_fn(|i| self.part(i, tiles, words));
        if parts.iter().all(|part| part.keys.is_empty()) {
            return;
        }
        let parts = parts.get(..scores.tiles).unwrap_or_default();
        let is_plain = self.products.are_of_rows() && !self.head.modifies();
        let whole = if is_plain && const { FEW_TILES * S::KEY_TILE <= MOST_KEYS } { Part::of(parts) } else { None };
        let parts = whole.as_ref().map_or(parts, from_ref);
        let mut room = PartRoom { tile, words };
        for part in parts {
            let mut scores = scores.some_tiles(&part.tiles, part.keys.len());
            self.score_part(tiles, part, &mut scores, &mut room);
        }
        let in_order = parts.first().and_then(|part| self.in_order(part));
        let mut rescale = self.softmax.update_few(in_order, &mut scores);
        for part in parts.iter().filter(|part| !part.keys.is_empty()) {
            let weights = scores.some_tiles(&part.tiles, part.keys.len());
            self.add_part(tiles, part, weights, rescale, &mut room);
            rescale = self.simd.splat(1.0);
        }
    }

    /// The scores with the keys of a part.
    #[inline(always)]
    fn score_part(
        &self,
        tiles: &mut KeyTile<'_, '_, S::Scalar>,
        part: &Part,
        scores: &mut FewScores<'_, S>,
        room: &mut PartRoom<'_, S>,
    ) {
        let Self { simd, head, .. } = *self;
        if const { Products::may_be_of_rows::<F>() } && self.products.are_of_rows() {
            if let Some(keys) = tiles.raw_keys(simd, &part.keys) {
                self.few_with_keys(keys, scores);
            }
        } else if let Some(keys) = tiles.keys(simd, &part.keys) {
            in_order_products(head.function(simd), self.queries.as_flattened(), keys, scores);
        }
        scores.mask_rest();
        if !part.is_full || head.modifies() {
            let column = self.column_of(part, room.words);
            scores.turned(room.tile, |scores, len| {
                simd.call(Apply { column, stage: Stage::Masked, scores, rows: 0..len });
            });
        }
    }

    /// Adds the values of a part, weighed.
    #[inline(always)]
    fn add_part(
        &mut self,
        tiles: &mut KeyTile<'_, '_, S::Scalar>,
        part: &Part,
        mut weights: FewScores<'_, S>,
        rescale: S::Vector,
        room: &mut PartRoom<'_, S>,
    ) {
        let simd = self.simd;
        let is_marked = (!part.is_full || self.head.call.bias.is_some()) && !tiles.is_finite(simd);
        let Some(values) = tiles.raw_values(simd, &part.keys) else { return };
        if let Strips::I8(_, scales) = values.strips {
            // SAFETY: there are as many.
            unsafe { weights.scale(&Rounded::NOT.factors, &scales, values.first) };
        }
        if is_marked {
            // The values of masked keys must not even be multiplied by zero; but integers may, only what they are scaled with must not.
            let mark = if values.strips.have_scales() { 0.0 } else { -1.0 };
            let column = self.column_of(part, room.words);
            weights.turned(room.tile, |weights, len| simd.call(Mark { column, weights, len, mark }));
        }
        let FewScores { count, len, .. } = weights;
        let weighed = Weights {
            simd,
            elements: weights.elements(),
            count,
            len,
            in_order: self.in_order(part),
            are_marked: is_marked && !values.strips.have_scales(),
            factors: [S::Scalar::ONE; 4],
            rescale: [S::Scalar::ONE; 4],
        };
        self.few_with_values(values, &weights, weighed, rescale, room.tile);
    }

    /// The products with keys, as many as scores.
    #[inline(always)]
    fn few_with_keys(&self, keys: RawRows<'_, S::Scalar>, scores: &mut FewScores<'_, S>) {
        let RawRows { strips, first } = keys;
        let (simd, in_pairs, all) = (scores.simd, self.products == Products::FewInPairs, self.queries.as_flattened());
        let size = [rows::<S>(scores.count), strips.dim().div_ceil(S::LANES)];
        let (start, of_query) = if in_pairs { (size[0] * size[1], size[1].div_ceil(2)) } else { (0, size[1]) };
        for first in (0..scores.count).step_by(4) {
            let queries = all.get(start + first * of_query..).unwrap_or_default();
            simd.multiply_keys(queries, in_pairs, keys, &mut scores.four_queries(first));
        }
        if let Strips::I8(strip, _) = strips {
            for i in self.rounded.exact_rows() {
                let query = Numbers::OfQueries.grid::<S>(size, all);
                simd.call(ExactScores { query, i, keys: strip.walk(first), scores });
            }
        }
        let factors = if in_pairs { &self.rounded.factors } else { &Rounded::NOT.factors };
        match strips {
            // SAFETY: there are as many.
            Strips::I8(_, scales) => unsafe { scores.scale(factors, &scales, first) },
            Strips::Floats(_) if in_pairs => scores.multiply(factors),
            Strips::Floats(_) => {}
        }
    }

    /// The number of a part's first key, if sums are to have the order that they have for many queries.
    #[inline(always)]
    fn in_order(&self, part: &Part) -> Option<usize> {
        (self.products == Products::FewInOrder).then_some(part.keys.start)
    }

    /// Adds the products of weights, which are `single` numbers, with as many values. `room` is for pairs of weights.
    #[inline(always)]
    fn few_with_values(
        &mut self,
        values: RawRows<'_, S::Scalar>,
        weights: &FewScores<'_, S>,
        single: Weights<'_, S>,
        rescale: S::Vector,
        room: &mut [S::Vector],
    ) {
        let RawRows { strips, first } = values;
        let (simd, in_pairs) = (self.simd, self.products == Products::FewInPairs);
        let (output, per_query) = (self.output.as_flattened_mut(), FewScores::<S>::OF_QUERY);
        let (mut elements, mut rounded) = (single.elements, Rounded::NOT);
        if const { Products::may_be_of_rows::<F>() } && in_pairs {
            const { assert!(!has_i8_pairs::<S>() || FEW_TILES / 2 * S::FEW <= S::LANES, "a tile has room for the pairs") };
            let vectors = weights.tiles * (S::KEY_TILE / S::LANES);
            rounded = round(simd, &strips, Numbers::OfWeights, [weights.count, vectors], weights.vectors(), room);
            elements = scratch::elements::<S>(room);
        }
        let of_query = Weights::<S>::stride(if in_pairs { 2 } else { 1 });
        let mut numbers = [S::Scalar::ZERO; 16];
        simd.store(rescale, &mut numbers);
        let (rescale, factors) = (numbers.as_chunks().0, rounded.factors.as_chunks().0);
        for (query, (rescale, factors)) in (0..weights.count).step_by(4).zip(rescale.iter().zip(factors)) {
            let weights = Weights {
                elements: elements.get(query * of_query..).unwrap_or_default(),
                count: weights.count.min(4),
                factors: *factors,
                rescale: *rescale,
                ..single
            };
            let output = output.get_mut(query * strips.dim().div_ceil(S::LANES)..).unwrap_or_default();
            simd.add_values(weights, in_pairs, values, output);
        }
        if let Strips::I8(strip, _) = strips {
            for i in rounded.exact_rows() {
                let of_query =
                    single.elements.get(i * per_query * S::LANES..).and_then(|weights| weights.get(..single.len));
                let (weights, values) = (of_query.unwrap_or_default(), strip.walk(first));
                let output = output.get_mut(i * strip.dim().div_ceil(S::LANES)..).unwrap_or_default();
                simd.call(ExactSums::<S> { weights, values, output });
            }
        }
    }

    /// What is seen of tile `i`.
    #[inline(always)]
    fn part(&self, i: usize, tiles: &KeyTile<'_, '_, S::Scalar>, words: &mut Words<S>) -> Part {
        let (keys, is_full) = self.spans[0].within(&tiles.part(i * S::KEY_TILE, S::KEY_TILE));
        let tiles = i..i + 1;
        match self.seen(&keys, &[is_full], from_mut(words)) {
            Seen::Nothing => Part { tiles, keys: keys.start..keys.start, is_full: true },
            Seen::All => Part { tiles, keys, is_full: true },
            Seen::Some => Part { tiles, keys, is_full: false },
        }
    }

    /// The queries, and who of them sees what of a part.
    #[inline(always)]
    fn column_of<'t>(&'t self, part: &Part, words: &'t mut Words<S>) -> Column<'t, 't, S, F> {
        if part.is_full {
            *words = Words::all(self.simd);
        } else {
            self.look(0, &part.keys, words);
        }
        self.column(0, part.keys.start, words)
    }
}

/// The keys of some tiles that are seen, and whether by all.
struct Part {
    tiles: Range<usize>,
    keys: Range<usize>,
    is_full: bool,
}

impl Part {
    /// All of them as one, which takes less time between the products; `None` where other keys lie between those that are seen, or not all see them.
    #[inline(always)]
    fn of(parts: &[Self]) -> Option<Self> {
        let [first, later @ ..] = parts else { return None };
        let (mut keys, mut is_full) = (first.keys.clone(), first.is_full);
        for part in later {
            is_full &= part.is_full && part.keys.start == keys.end;
            keys.end = part.keys.end;
        }
        is_full.then_some(Self { tiles: 0..parts.len(), keys, is_full })
    }
}

/// Fetches some elements of a row.
///
/// # Safety
///
/// The row may be read, and has these elements.
#[inline(always)]
unsafe fn touch<T>(row: *const T, elements: Range<usize>) {
    for t in elements.step_by(const { CACHE_LINE / size_of::<T>() }) {
        // SAFETY: the caller's promise.
        unsafe { read(row.add(t)) };
    }
}

/// The same, without a loop if it is less than a cache line.
///
/// # Safety
///
/// That of [`touch`].
#[inline(always)]
unsafe fn touch_line<T>(row: *const T, elements: Range<usize>) {
    match elements.len() {
        0 => {}
        // SAFETY: the caller's promise, and it is the first of these elements.
        len if len <= const { CACHE_LINE / size_of::<T>() } => unsafe { read(row.add(elements.start)) },
        // SAFETY: the caller's promise.
        _ => unsafe { touch(row, elements) },
    }
}

/// Reads an element for nothing but its cache line. Prefetches, which a CPU is free to drop, are slower here.
///
/// # Safety
///
/// There is such an element.
#[inline(always)]
unsafe fn read<T>(element: *const T) {
    // SAFETY: the caller's promise.
    let _ = unsafe { element.read_volatile() };
}

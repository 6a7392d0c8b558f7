//! Few queries, as in decoding, where reading keys and values decides the speed.
//!
//! Lanes hold not queries but keys, or elements of a row, so that none is idle; each element is loaded once for all queries. What happens to
//! scores between the product and the softmax is that of [prefill](super::prefill), on a tile that is turned over; it is seldom asked for.

use core::{
    array::from_fn,
    hint::black_box,
    num::NonZeroUsize,
    ops::Range,
    sync::atomic::{Ordering, compiler_fence},
};

use super::{
    Columns, Products,
    key_tile::KeyTile,
    prefill::{Block, Seen},
    transpose::load_square,
};
use crate::{
    Stage,
    element::{Load, Store},
    floats::FloatStrip,
    score::{
        function::Score,
        head::Head,
        lanes::InLanes,
        mask::Words,
        modify::{Apply, Mark},
        product::Function,
    },
    scratch::elements,
    simd::{CACHE_LINE, Simd, Task},
    softmax::{FEW_TILES, FewScores},
    store::{Strips, with_elements},
    view::{Ask, Rows, RowsMut, Strip, Walk},
};

impl Products {
    /// Keys that are attended to at once.
    #[inline(always)]
    pub(super) const fn keys_at_once<S: Simd>(self, have_plain_rows: bool) -> NonZeroUsize {
        let tiles = if matches!(self, Self::Few) && have_plain_rows { FEW_TILES } else { 1 };
        self.key_tile::<S>().saturating_mul(NonZeroUsize::MIN.saturating_add(tiles - 1))
    }

    /// Rows of scratch for queries of `key_dim` elements, and for what they gather of `value_dim`.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(self, key_dim: usize, value_dim: usize) -> [usize; 2] {
        let whole_vectors = |dim: usize| dim.max(S::FEW * dim.div_ceil(S::LANES));
        match self {
            Self::Many | Self::ManyInPairs => [key_dim, value_dim],
            Self::FewInOrder => [key_dim, whole_vectors(value_dim)],
            Self::Few => [whole_vectors(key_dim), whole_vectors(value_dim)],
        }
    }
}

/// How many queries the products are computed for where there are `count`: 1, 4 or 8.
#[inline(always)]
const fn room<S: Simd>(count: usize) -> usize {
    match (count, S::FEW) {
        (1, _) | (_, 1) => 1,
        (5.., 8) => 8,
        _ => 4,
    }
}

/// Queries as [`Dots`] wants them, scaled; past the last one, it is repeated.
///
/// # Safety
///
/// `row(i)` is where row `i` of `len` begins, and has `dim` elements.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, T: Load, const COLS: usize>(
    simd: S,
    row: impl Fn(usize) -> *const T,
    [len, dim]: [usize; 2],
    scale: f32,
    to: &mut [[S::Vector; COLS]],
) {
    let (scale, mut to) = (simd.splat(scale), to.iter_mut());
    for t in (0..dim).step_by(S::LANES) {
        for i in 0..room::<S>(len) {
            // SAFETY: the caller's promise.
            let elements = unsafe { core::slice::from_raw_parts(row(i.min(len - 1)).add(t), S::LANES.min(dim - t)) };
            if let Some(to) = to.next() {
                to[0] = simd.mul(T::load(simd, elements), scale);
            }
        }
    }
}

/// `to[query] = output[query] * factor[query]`
#[inline(always)]
pub(super) fn store<S: Simd, T: Store, const COLS: usize>(
    simd: S,
    output: &[[S::Vector; COLS]],
    factor: S::Vector,
    to: &mut RowsMut<'_, T>,
) {
    let mut factors = [0.0; 16];
    simd.store(factor, &mut factors);
    let per_query = to.dim().div_ceil(S::LANES);
    for (i, factor) in factors.into_iter().enumerate().take(to.len()) {
        let (to, row) = (to.row_mut(i), output.get(i * per_query..).unwrap_or_default());
        for (from, first) in row.iter().take(per_query).zip((0..).step_by(S::LANES)) {
            // Which zero a zero is depends on keys that are masked; here it becomes the positive one.
            let x = simd.mul_add(from[0], simd.splat(factor), simd.splat(0.0));
            T::store(simd, x, to.get_mut(first..).unwrap_or_default());
        }
    }
}

impl<S: Simd, const COLS: usize> Block<'_, S, COLS> {
    /// Attends to some tiles of keys at once. `scores` is room for those, and for another tile.
    #[inline(always)]
    pub(super) fn attend_few<F: Score>(
        &mut self,
        simd: S,
        head: &Head<'_, F>,
        tiles: &mut KeyTile<'_, '_>,
        scores: &mut [[S::Vector; COLS]],
    ) {
        let Some((turned, scores)) = scores.as_flattened_mut().split_at_mut_checked(S::KEY_TILE) else { return };
        let mut scores = FewScores::new(simd, scores, self.of.len, tiles.range.len().div_ceil(S::KEY_TILE));
        let parts: [Part<S>; FEW_TILES] = from_fn(|i| self.part(simd, head, tiles.part(i * S::KEY_TILE, S::KEY_TILE)));
        if parts.iter().all(|part| part.keys.is_empty()) {
            return;
        }
        for (i, part) in parts.iter().enumerate().take(scores.tiles) {
            let mut scores = scores.tile(i, part.keys.len());
            if self.products == Products::Few {
                if let Some(keys) = tiles.raw_keys(simd, &part.keys) {
                    products(self.queries, keys, &mut scores);
                }
            } else if let Some(keys) = tiles.keys(simd, &part.keys) {
                in_order_products(head.function(simd), self.queries, keys, &mut scores);
            }
            scores.mask_rest();
            if !part.words.all || head.modifies() {
                let column = self.column(simd, head, 0, part.keys.start, &part.words);
                scores.turned(turned, |scores, len| {
                    simd.call(Apply { column, stage: Stage::Masked, scores, len });
                });
            }
        }
        let in_order = self.products == Products::FewInOrder;
        let mut rescale = self.softmax.update_few(in_order, &mut scores);
        for (i, part) in parts.iter().enumerate().take(scores.tiles) {
            let mut weights = scores.tile(i, part.keys.len());
            if part.keys.is_empty() {
                continue;
            }
            let is_marked = (!part.words.all || head.call.bias.is_some()) && !tiles.is_finite(simd);
            let Some((values, first)) = tiles.raw_values(simd, &part.keys, !in_order) else { continue };
            if let Strips::I8(_, scales) = values {
                // SAFETY: there are as many.
                unsafe { weights.scale(scales.walk(first)) };
            }
            if is_marked {
                let column = self.column(simd, head, 0, part.keys.start, &part.words);
                // Their values must not even be multiplied by zero.
                weights.turned(turned, |weights, len| simd.call(Mark { column, weights, len, mark: -1.0 }));
            }
            with_elements!(values, strip => {
                accumulate(&weights, (strip, first), is_marked, rescale, self.output);
            });
            rescale = simd.splat(1.0);
        }
    }

    /// What is seen of some keys.
    #[inline(always)]
    fn part<F: Score>(&self, simd: S, head: &Head<'_, F>, tile: Range<usize>) -> Part<S> {
        let (keys, is_full) = self.spans[0].within(&tile);
        let nothing = keys.start..keys.start;
        match self.seen(simd, head, Columns::<1>::new(0), &keys, is_full) {
            Seen::Nothing => Part { keys: nothing, words: Words::all(simd) },
            Seen::All => Part { keys, words: Words::all(simd) },
            Seen::Some([words]) => Part { keys, words },
        }
    }
}

/// The keys of a tile that are seen, and by whom.
struct Part<S: Simd> {
    keys: Range<usize>,
    words: Words<S>,
}

/// The products with keys, as many as scores, from some row on.
#[inline(always)]
fn products<S: Simd, const COLS: usize>(
    queries: &[[S::Vector; COLS]],
    (keys, first): (Strips<'_>, usize),
    scores: &mut FewScores<'_, S>,
) {
    with_elements!(keys, strip => dots(queries, (strip, first), scores));
    if let Strips::I8(_, scales) = keys {
        // SAFETY: there are as many.
        unsafe { scores.scale(scales.walk(first)) };
    }
}

/// [`Dots`] of so many queries.
#[inline(always)]
fn dots<S: Simd, T: Load, const COLS: usize>(
    queries: &[[S::Vector; COLS]],
    (keys, first): (Strip<'_, T>, usize),
    scores: &mut FewScores<'_, S>,
) {
    let (simd, ahead) = (scores.simd, keys.ahead(first + rows_ahead::<T>(keys.dim())));
    let (has_pages, keys) = (keys.has_pages(), keys.walk(first));
    match (room::<S>(scores.count), S::FEW) {
        (1, _) if has_pages => simd.call(Dots::<_, _, _, 1, 1, 8, COLS> { queries, keys, ahead, scores }),
        (1, _) => simd.call(Dots::<_, _, _, 1, 1, 8, COLS> { queries, keys, ahead: (), scores }),
        (4, 8) => simd.call(Dots::<_, _, _, 4, 4, 1, COLS> { queries, keys, ahead, scores }),
        (4, _) => simd.call(Dots::<_, _, _, 4, 2, 1, COLS> { queries, keys, ahead, scores }),
        _ => simd.call(Dots::<_, _, _, 8, 2, 1, COLS> { queries, keys, ahead, scores }),
    }
}

/// How many rows of keys are asked for before they are read: some 8 KB.
#[inline(always)]
fn rows_ahead<T>(dim: usize) -> usize {
    1 + const { (1 << 13) / size_of::<T>() } / NonZeroUsize::MIN.saturating_add(dim)
}

/// `scores[query][j] = queries[query] . keys[j]` for at most `QUERIES` queries, with elements in the lanes; `RUN` vectors of `KEYS` keys in one go.
///
/// One query has each key read from its first element to its last, one after the other: the CPU itself foresees then what will be read, if
/// only rows lie evenly, and does worse when it is asked. Several queries are loaded for several keys at a time instead.
struct Dots<'t, 's, S: Simd, T, A, const QUERIES: usize, const KEYS: usize, const RUN: usize, const COLS: usize> {
    /// `[vector of elements][query]`, scaled
    queries: &'t [[S::Vector; COLS]],
    /// As many as scores, or more.
    keys: Walk<'t, T>,
    ahead: A,
    scores: &'t mut FewScores<'s, S>,
}

impl<S: Simd, T: Load, A: Ask, const QUERIES: usize, const KEYS: usize, const RUN: usize, const COLS: usize> Task
    for Dots<'_, '_, S, T, A, QUERIES, KEYS, RUN, COLS>
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { queries, mut keys, mut ahead, scores } = self;
        let (simd, len, dim) = (scores.simd, scores.len, keys.dim());
        let (queries, _) = queries.as_chunks::<QUERIES>();
        let Some((full, rest)) = queries.split_at_checked(dim / S::LANES) else { return };
        let (runs, single) = full.as_chunks::<RUN>();
        let tail = runs.len() * RUN * S::LANES;
        for first in (0..len).step_by(4) {
            let a = keys.next();
            // Past the last key, it is repeated.
            let mut next = |i: usize, last| if first + i < len { keys.next() } else { last };
            let b = next(1, a);
            let c = next(2, b);
            let d = next(3, c);
            let mut sums = [[simd.splat(0.0); QUERIES]; 4];
            for (rows, sums) in [a, b, c, d].as_chunks::<KEYS>().0.iter().zip(sums.as_chunks_mut::<KEYS>().0) {
                // SAFETY: the rows exist, and have as many elements.
                unsafe { add_runs(simd, runs, *rows, sums, &mut ahead) };
            }
            if tail < dim {
                for (row, sums) in [a, b, c, d].into_iter().zip(&mut sums) {
                    for (queries, t) in single.iter().chain(rest.first()).zip((tail..dim).step_by(S::LANES)) {
                        // SAFETY: the row exists, and has these elements.
                        let key = unsafe { core::slice::from_raw_parts(row.add(t), S::LANES.min(dim - t)) };
                        add_products(simd, queries, [T::load(simd, key)], core::array::from_mut(sums));
                    }
                }
            }
            for i in 0..QUERIES {
                let [a, b, c, d] = &sums;
                scores.set_four(i, first, simd.sum_each([a[i], b[i], c[i], d[i]]));
            }
        }
    }
}

/// Adds the products of queries with the first elements of some rows.
///
/// # Safety
///
/// The rows have as many elements.
#[inline(always)]
unsafe fn add_runs<S: Simd, T: Load, const QUERIES: usize, const KEYS: usize, const RUN: usize, const COLS: usize>(
    simd: S,
    runs: &[[[[S::Vector; COLS]; QUERIES]; RUN]],
    mut rows: [*const T; KEYS],
    sums: &mut [[S::Vector; QUERIES]; KEYS],
    ahead: &mut impl Ask,
) {
    for run in runs {
        // SAFETY: the caller's promise.
        let load = |row: *const T, c| unsafe { core::slice::from_raw_parts(row.add(c * S::LANES), S::LANES) };
        let keys: [[S::Vector; KEYS]; RUN] = from_fn(|c| rows.map(|row| T::load(simd, load(row, c))));
        ahead.ask(KEYS * RUN * S::LANES);
        if KEYS == 1 {
            // No load is to move to behind the products or another key's, nor to share an index with queries: memory is read slower then.
            compiler_fence(Ordering::SeqCst);
            rows = black_box(rows);
        }
        for (keys, queries) in keys.into_iter().zip(run) {
            add_products(simd, queries, keys, sums);
        }
        rows = rows.map(|row| row.wrapping_add(RUN * S::LANES));
    }
}

#[inline(always)]
fn add_products<S: Simd, const QUERIES: usize, const KEYS: usize, const COLS: usize>(
    simd: S,
    queries: &[[S::Vector; COLS]; QUERIES],
    keys: [S::Vector; KEYS],
    sums: &mut [[S::Vector; QUERIES]; KEYS],
) {
    for (i, query) in queries.iter().enumerate() {
        for k in 0..KEYS {
            sums[k][i] = simd.mul_add(keys[k], query[0], sums[k][i]);
        }
    }
}

/// [`InOrder`] of so many queries.
#[inline(always)]
fn in_order_products<S: Simd, F: Score, const COLS: usize>(
    function: Function<'_, S, F>,
    queries: &[[S::Vector; COLS]],
    keys: Rows<'_, f32>,
    scores: &mut FewScores<'_, S>,
) {
    let simd = scores.simd;
    match room::<S>(scores.count) {
        1 => simd.call(InOrder::<_, _, 1, COLS> { function, queries, keys, scores }),
        4 => simd.call(InOrder::<_, _, 4, COLS> { function, queries, keys, scores }),
        _ => simd.call(InOrder::<_, _, 8, COLS> { function, queries, keys, scores }),
    }
}

/// `scores[query][j] = factor * F(queries[..][query], keys[j])` for at most `QUERIES` queries, with keys in the lanes.
struct InOrder<'t, 's, S: Simd, F, const QUERIES: usize, const COLS: usize> {
    function: Function<'t, S, F>,
    /// `[key_dim][query]`
    queries: &'t [[S::Vector; COLS]],
    /// As many as scores, or more.
    keys: Rows<'t, f32>,
    scores: &'t mut FewScores<'s, S>,
}

impl<S: Simd, F: Score, const QUERIES: usize, const COLS: usize> Task for InOrder<'_, '_, S, F, QUERIES, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { function: Function { simd, score, factor }, queries, keys, scores } = self;
        debug_assert!(scores.len <= keys.len() && queries.len() == keys.dim());
        for first in (0..scores.len).step_by(S::LANES) {
            let rows: [*const f32; 16] = from_fn(|i| keys.row_ptr((first + i).min(scores.len - 1)));
            // The next rows are asked for a few at a time, each in the order of its addresses.
            let rows_at_once = S::LANES.div_ceil(1 + (queries.len() - 1) / S::LANES);
            let mut ahead = first + S::LANES..keys.len().min(first + 2 * S::LANES);
            let mut sums = [simd.splat(0.0); QUERIES];
            for (queries, t) in queries.chunks(S::LANES).zip((0..).step_by(S::LANES)) {
                for row in ahead.by_ref().take(rows_at_once) {
                    touch(keys.row_ptr(row), 0..keys.dim());
                }
                // SAFETY: the rows exist, and have as many elements as there are rows in `queries`.
                let square = unsafe {
                    if queries.len() == S::LANES {
                        load_square(simd, &rows, t, S::LANES)
                    } else {
                        load_square(simd, &rows, t, queries.len())
                    }
                };
                for ((key, query), t) in square.as_ref().iter().zip(queries).zip(t..) {
                    for (sum, query) in sums.iter_mut().zip(elements::<S>(query)) {
                        let query = InLanes(simd, simd.splat(*query));
                        *sum = score.add(InLanes(simd, *sum), query, InLanes(simd, *key), t).1;
                    }
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                scores.set(i, first / S::LANES, if F::LINEAR { sum } else { simd.mul(sum, simd.splat(factor)) });
            }
        }
    }
}

/// [`Sums`] of so many queries.
#[inline(always)]
fn accumulate<S: Simd, T: Load, const COLS: usize>(
    weights: &FewScores<'_, S>,
    (values, first): (Strip<'_, T>, usize),
    is_marked: bool,
    rescale: S::Vector,
    output: &mut [[S::Vector; COLS]],
) {
    let simd = weights.simd;
    // Columns are summed up in several passes: what is asked for meanwhile is the next tile.
    let (has_pages, ahead, values) = (values.has_pages(), values.ahead(first + weights.len), values.walk(first));
    match (room::<S>(weights.count), S::FEW) {
        (1, _) if has_pages => {
            simd.call(Sums::<_, _, _, 1, 8, COLS> { weights, values, ahead, is_marked, rescale, output });
        }
        (1, _) => simd.call(Sums::<_, _, _, 1, 8, COLS> { weights, values, ahead: (), is_marked, rescale, output }),
        (4, 8) => simd.call(Sums::<_, _, _, 4, 4, COLS> { weights, values, ahead, is_marked, rescale, output }),
        (4, _) => simd.call(Sums::<_, _, _, 4, 2, COLS> { weights, values, ahead, is_marked, rescale, output }),
        _ => simd.call(Sums::<_, _, _, 8, 2, COLS> { weights, values, ahead, is_marked, rescale, output }),
    }
}

/// `output[query][c] = output[query][c] * rescale[query] + sum_j values[j][c] * weights[query][j]` over a tile of keys, for at most
/// `QUERIES` queries; `WIDTH` vectors of columns at a time.
struct Sums<'t, 's, S: Simd, T, A, const QUERIES: usize, const WIDTH: usize, const COLS: usize> {
    weights: &'t FewScores<'s, S>,
    /// As many rows as weights, or more.
    values: Walk<'t, T>,
    ahead: A,
    /// Whether keys that are masked are marked by negative weights.
    is_marked: bool,
    rescale: S::Vector,
    /// `[query][column]`, as many vectors for each query as its columns take.
    output: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, T: Load, A: Ask, const QUERIES: usize, const WIDTH: usize, const COLS: usize> Task
    for Sums<'_, '_, S, T, A, QUERIES, WIDTH, COLS>
{
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let (vectors, rest) = (self.values.dim() / S::LANES, self.values.dim() % S::LANES);
        let mut column = 0;
        while !self.is_marked && column + WIDTH <= vectors {
            self.columns::<WIDTH, false>(column, S::LANES);
            column += WIDTH;
        }
        while column < vectors {
            self.one_column(column, S::LANES);
            column += 1;
        }
        if rest > 0 {
            self.one_column(column, rest);
        }
    }
}

impl<S: Simd, T: Load, A: Ask, const QUERIES: usize, const WIDTH: usize, const COLS: usize>
    Sums<'_, '_, S, T, A, QUERIES, WIDTH, COLS>
{
    #[inline(always)]
    fn one_column(&mut self, first: usize, len: usize) {
        if self.is_marked {
            self.columns::<1, true>(first, len);
        } else {
            self.columns::<1, false>(first, len);
        }
    }

    /// `N` vectors of columns from number `first` on, of `len` elements each.
    #[inline(always)]
    fn columns<const N: usize, const MARKED: bool>(&mut self, first: usize, len: usize) {
        let Self { weights, mut values, .. } = *self;
        let simd = weights.simd;
        let rows: [*const f32; QUERIES] = from_fn(|i| weights.row_ptr(i));
        let mut sums = [[simd.splat(0.0); N]; QUERIES];
        for j in 0..weights.len {
            let start = values.next();
            let row: [S::Vector; N] = from_fn(|c| {
                // SAFETY: there are as many rows as weights, and each has these columns.
                T::load(simd, unsafe { core::slice::from_raw_parts(start.add((first + c) * S::LANES), len) })
            });
            if first == 0 {
                // The rest of the row too, in the order of addresses; it comes back to it from the cache.
                touch(start, N * S::LANES..values.dim());
            }
            self.ahead.ask(N * S::LANES);
            for (sum, weights) in sums.iter_mut().zip(rows) {
                // SAFETY: there is room for `QUERIES` rows, all of which have weights or what else is a number.
                let weight = unsafe { *weights.add(j) };
                if MARKED && weight < 0.0 {
                    continue;
                }
                let weight = simd.splat(weight);
                for c in 0..N {
                    sum[c] = simd.mul_add(row[c], weight, sum[c]);
                }
            }
        }
        let per_query = values.dim().div_ceil(S::LANES);
        let mut rescale = [0.0; 16];
        simd.store(self.rescale, &mut rescale);
        for (i, (sums, rescale)) in sums.iter().zip(rescale).enumerate() {
            let rescale = simd.splat(rescale);
            // Each by itself: along with a slice of the output, the sums would be kept in memory.
            for (c, sum) in sums.iter().enumerate() {
                if let Some(output) = self.output.get_mut(i * per_query + first + c) {
                    output[0] = simd.mul_add(output[0], rescale, *sum);
                }
            }
        }
    }
}

/// Fetches some elements of a row.
#[inline(always)]
fn touch<T>(row: *const T, elements: Range<usize>) {
    for t in elements.step_by(const { CACHE_LINE / size_of::<T>() }) {
        // SAFETY: callers ask for a row that exists, and elements that it has.
        unsafe { read(row.add(t)) };
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

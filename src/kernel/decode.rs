//! The two products for few queries, as in decoding, where reading keys and values decides the speed.
//!
//! Lanes hold not queries but keys, or columns of values, so that none is idle; each element is loaded once for all queries. Scores and
//! weights lie as in [prefill](super::prefill), all that happens between the products is the same, and each sum is computed in the same
//! order: so are the bits.

use core::array::from_fn;

use super::transpose::load_square;
use crate::{
    score::{function::Score, lanes::InLanes, tile::Function},
    scratch::elements,
    simd::{CACHE_LINE, Simd, Task},
    view::{Rows, RowsMut},
    weighted_sum::Tile,
};

/// Rows of scratch for the output of few queries, whatever their number.
pub(super) const fn output_rows<S: Simd>(value_dim: usize) -> usize {
    let rows = S::FEW * value_dim.div_ceil(S::LANES);
    if rows > value_dim { rows } else { value_dim }
}

/// [`FewScores`] of so many queries.
#[inline(always)]
pub(super) fn scores<S: Simd, F: Score, const COLS: usize>(
    count: usize,
    function: Function<'_, S, F>,
    queries: &[[S::Vector; COLS]],
    keys: Rows<'_, f32>,
    scores: &mut [[S::Vector; COLS]],
) -> S::Vector {
    let simd = function.simd;
    match (count, S::FEW) {
        (1, _) | (_, 1) => simd.call(FewScores::<_, _, 1, COLS> { function, queries, keys, scores }),
        (5.., 8) => simd.call(FewScores::<_, _, 8, COLS> { function, queries, keys, scores }),
        _ => simd.call(FewScores::<_, _, 4, COLS> { function, queries, keys, scores }),
    }
}

/// [`FewSums`] of so many queries.
#[inline(always)]
pub(super) fn accumulate<S: Simd, const N: usize, const COLS: usize>(
    count: usize,
    tile: Tile<'_, S, N, COLS>,
    output: &mut [[S::Vector; COLS]],
) {
    let Tile { simd, weights, values, is_marked, rescale, .. } = tile;
    let rescale = rescale[0];
    match (count, S::FEW) {
        (1, _) | (_, 1) => simd.call(FewSums::<_, 1, 8, COLS> { simd, weights, values, is_marked, rescale, output }),
        (5.., 8) => simd.call(FewSums::<_, 8, 2, COLS> { simd, weights, values, is_marked, rescale, output }),
        (_, 8) => simd.call(FewSums::<_, 4, 4, COLS> { simd, weights, values, is_marked, rescale, output }),
        _ => simd.call(FewSums::<_, 4, 2, COLS> { simd, weights, values, is_marked, rescale, output }),
    }
}

/// `scores[j][query] = factor * F(queries[..][query], keys[j])` for a tile of keys and at most `QUERIES` queries. Gives each query's largest
/// score.
struct FewScores<'a, S: Simd, F, const QUERIES: usize, const COLS: usize> {
    function: Function<'a, S, F>,
    /// `[key_dim][query]`
    queries: &'a [[S::Vector; COLS]],
    /// As many as scores, or more.
    keys: Rows<'a, f32>,
    /// `[key][query]`
    scores: &'a mut [[S::Vector; COLS]],
}

impl<S: Simd, F: Score, const QUERIES: usize, const COLS: usize> Task for FewScores<'_, S, F, QUERIES, COLS> {
    type Output = S::Vector;

    #[inline(always)]
    fn run(self) -> S::Vector {
        let Self { function: Function { simd, score, factor }, queries, keys, scores } = self;
        debug_assert!(scores.len() <= keys.len() && queries.len() == keys.dim());
        let mut max = simd.splat(f32::NEG_INFINITY);
        for (scores, first) in scores.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
            let rows: [*const f32; 16] = from_fn(|i| keys.row_ptr(first + i.min(scores.len() - 1)));
            // The next rows are asked for a few at a time, each in the order of its addresses.
            let rows_at_once = S::LANES.div_ceil(1 + (queries.len() - 1) / S::LANES);
            let mut ahead = first + S::LANES * AHEAD..keys.len().min(first + S::LANES * (AHEAD + 1));
            let mut sums = [simd.splat(0.0); QUERIES];
            for (queries, t) in queries.chunks(S::LANES).zip((0..).step_by(S::LANES)) {
                for row in ahead.by_ref().take(rows_at_once) {
                    touch(keys, row, 0);
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
                    for (sum, query) in sums.iter_mut().zip(elements::<S, COLS>(query)) {
                        let query = InLanes(simd, simd.splat(*query));
                        *sum = score.add(InLanes(simd, *sum), query, InLanes(simd, *key), t).1;
                    }
                }
            }
            let mut square = simd.zeros();
            for (to, sum) in square.as_mut().iter_mut().zip(sums) {
                *to = if F::LINEAR { sum } else { simd.mul(sum, simd.splat(factor)) };
            }
            simd.transpose(&mut square);
            for (score, of_key) in scores.iter_mut().zip(square.as_ref()) {
                score[0] = *of_key;
                max = simd.max(max, *of_key);
            }
        }
        max
    }
}

/// `output[query][c] = output[query][c] * rescale[query] + sum_j values[j][c] * weights[j][query]` over a tile of keys, for at most
/// `QUERIES` queries; `WIDTH` vectors of columns at a time.
struct FewSums<'a, S: Simd, const QUERIES: usize, const WIDTH: usize, const COLS: usize> {
    simd: S,
    /// `[key][query]`
    weights: &'a [[S::Vector; COLS]],
    /// As many rows, or more.
    values: Rows<'a, f32>,
    /// Whether keys that are masked are marked by negative weights.
    is_marked: bool,
    rescale: S::Vector,
    /// `[query][column]`, as many vectors for each query as its columns take.
    output: &'a mut [[S::Vector; COLS]],
}

impl<S: Simd, const QUERIES: usize, const WIDTH: usize, const COLS: usize> Task
    for FewSums<'_, S, QUERIES, WIDTH, COLS>
{
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let vectors = self.values.dim() / S::LANES;
        let mut column = 0;
        while column + WIDTH <= vectors {
            self.columns::<WIDTH>(column, S::LANES);
            column += WIDTH;
        }
        while column < vectors {
            self.columns::<1>(column, S::LANES);
            column += 1;
        }
        let rest = self.values.dim() % S::LANES;
        if rest > 0 {
            self.columns::<1>(column, rest);
        }
    }
}

impl<S: Simd, const QUERIES: usize, const WIDTH: usize, const COLS: usize> FewSums<'_, S, QUERIES, WIDTH, COLS> {
    /// `N` vectors of columns from number `first` on, of `len` elements each.
    #[inline(always)]
    fn columns<const N: usize>(&mut self, first: usize, len: usize) {
        let Self { simd, weights, values, is_marked, .. } = *self;
        let mut sums = [[simd.splat(0.0); N]; QUERIES];
        for (j, weights) in weights.iter().enumerate() {
            let row = values.row_ptr(j);
            // SAFETY: there are as many rows as weights, and each has these columns.
            let row: [S::Vector; N] =
                from_fn(|c| simd.load(unsafe { core::slice::from_raw_parts(row.add((first + c) * S::LANES), len) }));
            if first == 0 {
                // The rest of the row too, in the order of addresses; it comes back to it from the cache.
                touch(values, j, N * S::LANES);
            }
            for (sum, weight) in sums.iter_mut().zip(elements::<S, COLS>(weights)) {
                if is_marked && *weight < 0.0 {
                    continue;
                }
                let weight = simd.splat(*weight);
                for c in 0..N {
                    sum[c] = simd.mul_add(row[c], weight, sum[c]);
                }
            }
        }
        let per_query = values.dim().div_ceil(S::LANES);
        let mut rescale = [0.0; 16];
        simd.store(self.rescale, &mut rescale);
        for (i, (sum, rescale)) in sums.iter().zip(rescale).enumerate() {
            for (output, sum) in self.output.get_mut(i * per_query + first..).unwrap_or_default().iter_mut().zip(sum) {
                output[0] = simd.mul_add(output[0], simd.splat(rescale), *sum);
            }
        }
    }
}

/// `to[query] = output[query] * factor[query]`
#[inline(always)]
pub(super) fn store<S: Simd, const COLS: usize>(
    simd: S,
    output: &[[S::Vector; COLS]],
    factor: S::Vector,
    to: &mut RowsMut<'_, f32>,
) {
    let mut factors = [0.0; 16];
    simd.store(factor, &mut factors);
    let per_query = to.dim().div_ceil(S::LANES);
    for (i, factor) in factors.into_iter().enumerate().take(to.len()) {
        let (to, row) = (to.row_mut(i), output.get(i * per_query..).unwrap_or_default());
        for (from, first) in row.iter().take(per_query).zip((0..).step_by(S::LANES)) {
            // Which zero a zero is depends on keys that are masked; here it becomes the positive one.
            let x = simd.mul_add(from[0], simd.splat(factor), simd.splat(0.0));
            simd.store(x, to.get_mut(first..).unwrap_or_default());
        }
    }
}

const AHEAD: usize = 1;

/// Fetches what row `i` has from element `first` on.
#[inline(always)]
fn touch(rows: Rows<'_, f32>, i: usize, first: usize) {
    let row = rows.row_ptr(i);
    for t in (first..rows.dim()).step_by(CACHE_LINE / size_of::<f32>()) {
        // SAFETY: callers ask for a row that exists; it has this element.
        unsafe { read(row.add(t)) };
    }
}

/// Reads an element for nothing but its cache line. Prefetches, which a CPU is free to drop, are slower here.
///
/// # Safety
///
/// There is such an element.
#[inline(always)]
unsafe fn read(element: *const f32) {
    // SAFETY: the caller's promise.
    let _ = unsafe { element.read_volatile() };
}

//! The dot product, `q . k`; the scale is already in the queries.

use core::{array::from_fn, hint::black_box};

use crate::{
    kernel::{Columns, Groups, multiply},
    simd::{CACHE_LINE, Simd, Task, prefetch},
    view::Rows,
};

/// `scores[j][query] = keys[j] . queries[..][query]` for a tile of keys. Gives each query's largest score.
///
/// Plain form:
///
/// ```text
/// for j in keys { for t in dim { scores[j] += keys[j][t] * queries[t] } }
/// ```
///
/// 1. `ROWS` keys at a time, so that a query vector that was loaded is used `ROWS` times, from registers; the last ones
///    in smaller groups.
/// 2. Each cache line of the next group is asked for while its counterpart is read.
pub(crate) struct Dot<'a, S: Simd, const ROWS: usize, const NARROW: usize, const N: usize, const COLS: usize> {
    pub(crate) simd: S,
    /// Which of the queries.
    pub(crate) columns: Columns<N>,
    /// `[head_dim][query]`
    pub(crate) queries: &'a [[S::Vector; COLS]],
    pub(crate) keys: Rows<'a, f32>,
    /// `[key][query]`, of as many keys or fewer
    pub(crate) scores: &'a mut [[S::Vector; COLS]],
}

impl<S: Simd, const ROWS: usize, const NARROW: usize, const N: usize, const COLS: usize> Task
    for Dot<'_, S, ROWS, NARROW, N, COLS>
{
    type Output = [S::Vector; N];

    #[inline(always)]
    fn run(self) -> [S::Vector; N] {
        let Self { simd, columns, queries, keys, scores } = self;
        let mut tile = Tile { simd, columns, queries, keys, max: [simd.splat(f32::NEG_INFINITY); N] };
        tile.all::<ROWS, NARROW>(scores);
        tile.max
    }
}

struct Tile<'a, S: Simd, const N: usize, const COLS: usize> {
    simd: S,
    columns: Columns<N>,
    queries: &'a [[S::Vector; COLS]],
    keys: Rows<'a, f32>,
    /// The largest scores so far.
    max: [S::Vector; N],
}

impl<S: Simd, const N: usize, const COLS: usize> Groups<[S::Vector; COLS]> for Tile<'_, S, N, COLS> {
    #[inline(always)]
    fn group<const ROWS: usize>(&mut self, first: usize, scores: &mut [[S::Vector; COLS]; ROWS]) {
        let Self { simd, columns, queries, keys, .. } = *self;
        debug_assert!(first + ROWS <= keys.len() && queries.len() <= keys.dim());
        let mut rows: [*const f32; ROWS] = from_fn(|i| keys.row_ptr(first + i));
        if N < 3 {
            // With so little to do in a step, decoding decides: each pointer would be computed from the one before.
            rows = black_box(rows);
        }
        // SAFETY: the tile has these rows; `t < queries.len()`, which is `head_dim`, the length of each.
        let key = |i: usize, t| unsafe { *rows[i].add(t) };
        let next_group = |t: usize| {
            if t.is_multiple_of(CACHE_LINE / size_of::<f32>()) {
                for row in rows {
                    prefetch(row.wrapping_add(ROWS * keys.stride() + t));
                }
            }
        };
        let products: [[S::Vector; N]; ROWS] = multiply(simd, columns, queries, key, next_group);
        for (scores, products) in scores.iter_mut().zip(products) {
            *columns.of_mut(scores) = products;
            for (max, product) in self.max.iter_mut().zip(products) {
                *max = simd.max(*max, product);
            }
        }
    }
}

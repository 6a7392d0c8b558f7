//! The score function over a tile of keys.

use core::{array::from_fn, hint::black_box, ops::Range};

use crate::{
    kernel::{Ahead, Columns, Groups, multiply, prefetch_next_group},
    score::product::Product,
    simd::{Simd, Task},
    view::Rows,
};

/// `scores[j][query] = factor * F(queries[..][query], keys[j])` for a tile of keys. Gives each query's largest score.
///
/// Plain form:
///
/// ```text
/// for j in keys { for t in dim { scores[j] = product.add(scores[j], queries[t], keys[j][t], t) } }
/// ```
///
/// 1. `ROWS` keys at a time, so that a query vector that was loaded is used `ROWS` times, from registers; the last ones
///    in smaller groups.
/// 2. Each cache line of the next group is asked for while its counterpart is read.
pub(crate) struct Scores<
    'a,
    S: Simd,
    P: Product<S>,
    const ROWS: usize,
    const NARROW: usize,
    const N: usize,
    const COLS: usize,
> {
    pub(crate) product: P,
    /// Which of the queries.
    pub(crate) columns: Columns<N>,
    /// `[key_dim][query]`
    pub(crate) queries: &'a [[S::Vector; COLS]],
    pub(crate) keys: Rows<'a, P::Element>,
    /// `[key][query]`, of as many keys or fewer
    pub(crate) scores: &'a mut [[S::Vector; COLS]],
    /// Goes on with each group of keys.
    pub(crate) ahead: Option<&'a Ahead<'a>>,
}

impl<S: Simd, P: Product<S>, const ROWS: usize, const NARROW: usize, const N: usize, const COLS: usize>
    Scores<'_, S, P, ROWS, NARROW, N, COLS>
{
    /// Those with some of the keys, of these queries.
    #[inline(always)]
    pub(crate) fn part<const OF_ROWS: usize, const OF_NARROW: usize, const OF: usize>(
        &mut self,
        rows: Range<usize>,
        columns: Columns<OF>,
    ) -> Option<Scores<'_, S, P, OF_ROWS, OF_NARROW, OF, COLS>> {
        let Self { product, queries, ahead, .. } = *self;
        let (keys, scores) = (self.keys.range(rows.start, rows.len())?, self.scores.get_mut(rows)?);
        Some(Scores { product, columns, queries, keys, scores, ahead })
    }
}

impl<S: Simd, P: Product<S>, const ROWS: usize, const NARROW: usize, const N: usize, const COLS: usize> Task
    for Scores<'_, S, P, ROWS, NARROW, N, COLS>
{
    type Output = [S::Vector; N];

    #[inline(always)]
    fn run(self) -> [S::Vector; N] {
        let Self { product, columns, queries, keys, scores, ahead } = self;
        let max = [product.simd().splat(f32::NEG_INFINITY); N];
        let mut tile = Tile { product, columns, queries, keys, ahead, max };
        tile.all::<ROWS, NARROW>(scores);
        tile.max
    }
}

struct Tile<'a, S: Simd, P: Product<S>, const N: usize, const COLS: usize> {
    product: P,
    columns: Columns<N>,
    queries: &'a [[S::Vector; COLS]],
    keys: Rows<'a, P::Element>,
    ahead: Option<&'a Ahead<'a>>,
    /// The largest scores so far.
    max: [S::Vector; N],
}

impl<S: Simd, P: Product<S>, const N: usize, const COLS: usize> Groups<[S::Vector; COLS]> for Tile<'_, S, P, N, COLS> {
    const REPEATABLE: Option<usize> = if P::IS_ONE_INSTRUCTION { Some(N) } else { None };

    #[inline(always)]
    fn group<const ROWS: usize>(&mut self, first: usize, scores: &mut [[S::Vector; COLS]; ROWS]) {
        let Self { product, columns, queries, keys, ahead, .. } = *self;
        let simd = product.simd();
        ahead.inspect(|ahead| ahead.step());
        debug_assert!(first + ROWS <= keys.len() && queries.len() <= keys.dim());
        // Kept in registers: else each pointer would be computed in each step from the one before.
        let rows: [*const P::Element; ROWS] = black_box(from_fn(|i| keys.row_ptr(first + i)));
        // SAFETY: the tile has these rows; `t < queries.len()`, which is the length of each.
        let key = |i: usize, t| unsafe { *rows[i].add(t) };
        let next_group = |t: usize| prefetch_next_group(&rows, keys.stride(), t);
        let mut sums: [[S::Vector; N]; ROWS] = multiply(product, columns, queries, key, next_group);
        if let Some(factor) = product.factor() {
            for sum in sums.as_flattened_mut() {
                *sum = simd.mul(*sum, simd.broadcast(factor));
            }
        }
        for (scores, products) in scores.iter_mut().zip(&sums) {
            if let Some(scores) = columns.of_mut(scores) {
                *scores = *products;
            }
            for (max, product) in self.max.iter_mut().zip(products) {
                *max = simd.max(*max, *product);
            }
        }
    }
}

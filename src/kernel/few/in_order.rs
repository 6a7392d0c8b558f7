//! Products of queries with keys, keys in the lanes: each sum is that of queries in lanes.

use core::{array::from_fn, slice::from_ref};

use super::touch;
use crate::{
    kernel::transpose::load_square,
    score::{function::Score, lanes::InLanes, product::Function},
    scratch::elements,
    simd::{Simd, Task},
    softmax::FewScores,
    view::Rows,
};

/// [`InOrder`] of so many queries.
#[inline(always)]
pub(super) fn in_order_products<S: Simd, F: Score>(
    function: Function<'_, S, F>,
    queries: &[S::Vector],
    keys: Rows<'_, S::Scalar>,
    scores: &mut FewScores<'_, S>,
) {
    let simd = scores.simd;
    match scores.count {
        5.. if const { S::FEW == 8 } => simd.call(InOrder::<_, _, 8> { function, queries, keys, scores }),
        2.. if const { S::FEW > 1 } => simd.call(InOrder::<_, _, 4> { function, queries, keys, scores }),
        _ => simd.call(InOrder::<_, _, 1> { function, queries, keys, scores }),
    }
}

/// `scores[query][j] = factor * F(queries[..][query], keys[j])` for at most `QUERIES` queries, with keys in the lanes.
struct InOrder<'t, 's, S: Simd, F, const QUERIES: usize> {
    function: Function<'t, S, F>,
    /// `[key_dim][query]`
    queries: &'t [S::Vector],
    /// As many as scores, or more.
    keys: Rows<'t, S::Scalar>,
    scores: &'t mut FewScores<'s, S>,
}

impl<S: Simd, F: Score, const QUERIES: usize> Task for InOrder<'_, '_, S, F, QUERIES> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { function: Function { simd, score, factor, .. }, queries, keys, scores } = self;
        debug_assert!(scores.len <= keys.len() && queries.len() == keys.dim());
        for first in (0..scores.len).step_by(S::LANES) {
            let rows: [*const S::Scalar; 16] = from_fn(|i| keys.row_ptr((first + i).min(scores.len - 1)));
            // The next rows are asked for a few at a time, each in the order of its addresses.
            let rows_at_once = S::LANES.div_ceil(1 + (queries.len() - 1) / S::LANES);
            let mut ahead = first + S::LANES..keys.len().min(first + 2 * S::LANES);
            let mut sums = [simd.splat(0.0); QUERIES];
            for (queries, t) in queries.chunks(S::LANES).zip((0..).step_by(S::LANES)) {
                for row in ahead.by_ref().take(rows_at_once) {
                    // SAFETY: `row` is less than `keys.len()`.
                    unsafe { touch(keys.row_ptr(row), 0..keys.dim()) };
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
                    for (sum, query) in sums.iter_mut().zip(elements::<S>(from_ref(query))) {
                        let query = InLanes(simd, simd.broadcast(*query));
                        *sum = score.add(InLanes(simd, *sum), query, InLanes(simd, *key), t).1;
                    }
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                scores.set(i, first / S::LANES, if F::LINEAR { sum } else { simd.mul(sum, simd.broadcast(factor)) });
            }
        }
    }
}

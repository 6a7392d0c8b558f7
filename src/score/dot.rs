//! The dot product, `q . k`; the scale is already in the queries.

use core::array::from_fn;

use super::mask::Visible;
use crate::{
    kernel::multiply,
    simd::{CACHE_LINE, Simd, prefetch},
    view::Rows,
};

/// `scores[j][query] = keys[j] . queries[..][query]`, -infinity where masked. Returns each query's largest score.
///
/// Plain form:
///
/// ```text
/// for j in keys { for t in dim { scores[j] += keys[j][t] * queries[t] } }
/// ```
///
/// 1. `ROWS` keys at a time, so that a query vector that was loaded is used `ROWS` times, from registers.
/// 2. A last group of fewer than `ROWS` keys repeats its last key: no second form of the loop. `scores` has the room.
#[inline(always)]
pub(crate) fn tile<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    queries: &[[S::Vector; COLS]],
    keys: Rows<'_, f32>,
    visible: &Visible<S, COLS>,
    scores: &mut [[S::Vector; COLS]],
) -> [S::Vector; COLS] {
    let nothing = simd.splat(f32::NEG_INFINITY);
    let mut max = [nothing; COLS];
    let (groups, _) = scores.as_chunks_mut::<ROWS>();
    for (group, j) in groups.iter_mut().zip((0..keys.len()).step_by(ROWS)) {
        let rows: [*const f32; ROWS] = from_fn(|i| keys.row_ptr((j + i).min(keys.len() - 1)));
        let zero = [[simd.splat(0.0); COLS]; ROWS];
        // SAFETY: `t < queries.len()`, which is `head_dim`, the length of each row.
        let key = |i: usize, t| unsafe { *rows[i].add(t) };
        let next_group = |t: usize| {
            if t.is_multiple_of(CACHE_LINE / size_of::<f32>()) {
                for i in 0..ROWS {
                    prefetch(rows[i].wrapping_add(ROWS * keys.stride() + t));
                }
            }
        };
        *group = multiply(simd, zero, queries, key, next_group);
        if j + ROWS > visible.full {
            for (i, row) in group.iter_mut().enumerate() {
                let lanes = visible.lanes(simd, j + i);
                for (score, lanes) in row.iter_mut().zip(lanes) {
                    *score = simd.select(lanes, *score, nothing);
                }
            }
        }
        for row in group {
            for (max, score) in max.iter_mut().zip(row) {
                *max = simd.max(*max, *score);
            }
        }
    }
    max
}

//! The dot product, `q . k`; the scale is already in the queries.

use core::array::from_fn;

use super::mask::Visible;
use crate::{
    kernel::{Groups, multiply},
    simd::{CACHE_LINE, Simd, prefetch},
    view::Rows,
};

/// A tile of keys, and the queries that they are multiplied with.
pub(crate) struct Tile<'a, S: Simd, const COLS: usize> {
    pub(crate) simd: S,
    /// `[head_dim][query]`
    pub(crate) queries: &'a [[S::Vector; COLS]],
    pub(crate) keys: Rows<'a, f32>,
    pub(crate) visible: &'a Visible<S, COLS>,
}

impl<S: Simd, const COLS: usize> Tile<'_, S, COLS> {
    /// `scores[j][query] = keys[j] . queries[..][query]`, -infinity where masked. Returns each query's largest score.
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
    #[inline(always)]
    pub(crate) fn scores<const ROWS: usize, const NARROW: usize>(
        &self,
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let mut max = [self.simd.splat(f32::NEG_INFINITY); COLS];
        let (groups, mut j) = (Groups::new::<ROWS, NARROW>(scores), 0);
        for group in groups.wide.as_chunks_mut::<ROWS>().0 {
            self.group(j, group, &mut max);
            j += ROWS;
        }
        for group in groups.narrow.as_chunks_mut::<NARROW>().0 {
            self.group(j, group, &mut max);
            j += NARROW;
        }
        for group in groups.single.as_chunks_mut::<1>().0 {
            self.group(j, group, &mut max);
            j += 1;
        }
        max
    }

    /// The scores of the keys from `first` on, with which `max` is updated.
    #[inline(always)]
    fn group<const ROWS: usize>(
        &self,
        first: usize,
        scores: &mut [[S::Vector; COLS]; ROWS],
        max: &mut [S::Vector; COLS],
    ) {
        let Self { simd, queries, keys, visible } = *self;
        debug_assert!(first + ROWS <= keys.len() && queries.len() <= keys.dim());
        let rows: [*const f32; ROWS] = from_fn(|i| keys.row_ptr(first + i));
        // SAFETY: the tile has these rows; `t < queries.len()`, which is `head_dim`, the length of each.
        let key = |i: usize, t| unsafe { *rows[i].add(t) };
        let next_group = |t: usize| {
            if t.is_multiple_of(CACHE_LINE / size_of::<f32>()) {
                for row in rows {
                    prefetch(row.wrapping_add(ROWS * keys.stride() + t));
                }
            }
        };
        *scores = multiply(simd, [[simd.splat(0.0); COLS]; ROWS], queries, key, next_group);
        if first + ROWS > visible.full {
            let nothing = simd.splat(f32::NEG_INFINITY);
            for (i, row) in scores.iter_mut().enumerate() {
                let lanes = visible.lanes(simd, first + i);
                for (score, lanes) in row.iter_mut().zip(lanes) {
                    *score = simd.select(lanes, *score, nothing);
                }
            }
        }
        for row in scores {
            for (max, score) in max.iter_mut().zip(row) {
                *max = simd.max(*max, *score);
            }
        }
    }
}

//! Stage 2: the online softmax of Milakov and Gimelshein (2018), in base 2.

use crate::{kernel::Columns, simd::Simd};

/// For each query: the largest score so far, and the sum of `2^(score - max)`.
pub(crate) struct Softmax<S: Simd, const COLS: usize> {
    simd: S,
    max: [S::Vector; COLS],
    sum: [S::Vector; COLS],
}

impl<S: Simd, const COLS: usize> Softmax<S, COLS> {
    /// No key yet, but a sink for each lane, the same in all vectors: a score that takes weight and has no value, or negative infinity.
    #[inline(always)]
    pub(crate) fn new(simd: S, sink: S::Vector) -> Self {
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        // A NaN is a sink.
        let sum = simd.select(simd.less(sink, simd.splat(f32::MIN)), zero, one);
        Self { simd, max: [sink; COLS], sum: [sum; COLS] }
    }

    /// Turns a tile of scores, the largest of which are `tile_max`, into weights. Returns what is to be multiplied with all that
    /// was summed up before: exactly 1 for a query whose maximum did not move.
    #[inline(always)]
    pub(crate) fn update<const N: usize>(
        &mut self,
        columns: Columns<N>,
        tile_max: [S::Vector; N],
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; N] {
        let simd = self.simd;
        let zero = simd.splat(0.0);
        let max = columns.of_mut(&mut self.max);
        let (mut offset, mut rescale, mut sum) = ([zero; N], [zero; N], [zero; N]);
        for c in 0..N {
            let old = max[c];
            max[c] = simd.max(old, tile_max[c]);
            offset[c] = finite_or_zero(simd, max[c]);
            rescale[c] = simd.exp2(simd.sub(old, offset[c]));
        }
        for row in scores {
            let row = columns.of_mut(row);
            for c in 0..N {
                row[c] = simd.exp2(simd.sub(row[c], offset[c]));
                sum[c] = simd.add(sum[c], row[c]);
            }
        }
        let total = columns.of_mut(&mut self.sum);
        for c in 0..N {
            total[c] = simd.mul_add(total[c], rescale[c], sum[c]);
        }
        rescale
    }

    /// Turns scores into weights, once all keys have been seen.
    #[inline(always)]
    pub(crate) fn weights<const N: usize>(&self, columns: Columns<N>, scores: &mut [[S::Vector; COLS]]) {
        let simd = self.simd;
        let (max, factor) = (*columns.of(&self.max), *columns.of(&self.normaliser()));
        for row in scores {
            let row = columns.of_mut(row);
            for c in 0..N {
                row[c] = simd.mul(simd.exp2(simd.sub(row[c], finite_or_zero(simd, max[c]))), factor[c]);
            }
        }
    }

    /// The factor that normalises each query's weighted sum: 1 / sum, or zero where no key had weight.
    #[inline(always)]
    pub(crate) fn normaliser(&self) -> [S::Vector; COLS] {
        let simd = self.simd;
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        let mut factor = self.sum;
        for factor in &mut factor {
            // A sum that is not zero is at least near 1, or NaN, which stays.
            *factor = simd.select(simd.less(*factor, simd.splat(0.5)), zero, simd.div(one, *factor));
        }
        factor
    }

    /// Each query's maximum, a logarithm to base 2, and its sum.
    #[inline(always)]
    pub(crate) fn state(&self) -> ([S::Vector; COLS], [S::Vector; COLS]) {
        (self.max, self.sum)
    }
}

/// Where no key has been seen: weights of 2^(-inf - 0), zero, instead of NaN.
#[inline(always)]
fn finite_or_zero<S: Simd>(simd: S, max: S::Vector) -> S::Vector {
    simd.select(simd.less(simd.splat(f32::NEG_INFINITY), max), max, simd.splat(0.0))
}

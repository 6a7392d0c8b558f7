//! Stage 2: the online softmax of Milakov and Gimelshein (2018), in base 2.

use crate::{math::exp::exp2, simd::Simd};

/// For each query: the largest score so far, and the sum of `2^(score - max)`.
pub(crate) struct Softmax<S: Simd, const COLS: usize> {
    simd: S,
    max: [S::Vector; COLS],
    sum: [S::Vector; COLS],
}

impl<S: Simd, const COLS: usize> Softmax<S, COLS> {
    /// No key yet.
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        Self { simd, max: [simd.splat(f32::NEG_INFINITY); COLS], sum: [simd.splat(0.0); COLS] }
    }

    /// Turns a tile of scores, whose maxima are `tile_max`, into weights. Returns the factor by which what was summed up
    /// before is to be multiplied: exactly 1 for a query whose maximum did not move.
    #[inline(always)]
    pub(crate) fn update(
        &mut self,
        tile_max: [S::Vector; COLS],
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let simd = self.simd;
        let lowest = simd.splat(f32::NEG_INFINITY);
        let zero = simd.splat(0.0);
        let mut rescale = [zero; COLS];
        let mut offset = [zero; COLS];
        for c in 0..COLS {
            let max = simd.max(self.max[c], tile_max[c]);
            // A query that has seen no key: weights of 2^(-inf - 0), zero, instead of NaN.
            offset[c] = simd.select(simd.less(lowest, max), max, zero);
            rescale[c] = exp2(simd, simd.sub(self.max[c], offset[c]));
            self.max[c] = max;
        }
        let mut sum = [zero; COLS];
        for row in scores {
            for c in 0..COLS {
                row[c] = exp2(simd, simd.sub(row[c], offset[c]));
                sum[c] = simd.add(sum[c], row[c]);
            }
        }
        for c in 0..COLS {
            self.sum[c] = simd.mul_add(self.sum[c], rescale[c], sum[c]);
        }
        rescale
    }

    /// The factor that normalises each query's weighted sum: 1 / sum, or zero where no key had weight.
    #[inline(always)]
    pub(crate) fn normaliser(&self) -> [S::Vector; COLS] {
        let simd = self.simd;
        let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
        // A sum that is not zero is at least near 1, or NaN, which stays.
        self.sum.map(|sum| simd.select(simd.less(sum, simd.splat(0.5)), zero, simd.div(one, sum)))
    }

    /// Each query's maximum, a logarithm to base 2, and its sum.
    #[inline(always)]
    pub(crate) fn state(&self) -> ([S::Vector; COLS], [S::Vector; COLS]) {
        (self.max, self.sum)
    }
}

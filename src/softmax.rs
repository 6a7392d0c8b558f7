//! Stage 2: the online softmax of Milakov and Gimelshein (2018), in base 2.

use crate::simd::Simd;

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

    /// Turns a tile of scores, the largest of which are `tile_max`, into weights. Returns what is to be multiplied with all that
    /// was summed up before: exactly 1 for a query whose maximum did not move.
    #[inline(always)]
    pub(crate) fn update(
        &mut self,
        tile_max: [S::Vector; COLS],
        scores: &mut [[S::Vector; COLS]],
    ) -> [S::Vector; COLS] {
        let simd = self.simd;
        let zero = simd.splat(0.0);
        let (mut offset, mut rescale, mut sum) = ([zero; COLS], [zero; COLS], [zero; COLS]);
        for c in 0..COLS {
            let max = simd.max(self.max[c], tile_max[c]);
            // Where no key has been seen: weights of 2^(-inf - 0), zero, instead of NaN.
            offset[c] = simd.select(simd.less(simd.splat(f32::NEG_INFINITY), max), max, zero);
            rescale[c] = simd.exp2(simd.sub(self.max[c], offset[c]));
            self.max[c] = max;
        }
        for row in scores {
            for c in 0..COLS {
                row[c] = simd.exp2(simd.sub(row[c], offset[c]));
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

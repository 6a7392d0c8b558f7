//! A tile of keys with their values.

use core::ops::Range;

use crate::{
    simd::{Simd, Task},
    view::Rows,
};

/// Consecutive keys, with their values.
pub(super) struct KeyTile<'a> {
    pub(super) keys: Rows<'a, f32>,
    pub(super) values: Rows<'a, f32>,
    pub(super) range: Range<usize>,
    /// Whether every value is, once that is known.
    is_finite: Option<bool>,
}

impl<'a> KeyTile<'a> {
    #[inline(always)]
    pub(super) fn new(keys: Rows<'a, f32>, values: Rows<'a, f32>, range: Range<usize>) -> Self {
        Self { keys, values, range, is_finite: None }
    }

    /// Whether no value is infinite or NaN.
    #[inline(always)]
    pub(super) fn is_finite<S: Simd>(&mut self, simd: S) -> bool {
        let is_finite = match self.is_finite {
            Some(known) => known,
            None => simd.call(AreFinite { simd, values: self.values, range: self.range.clone() }),
        };
        self.is_finite = Some(is_finite);
        is_finite
    }
}

/// Whether none of some values is infinite or NaN.
struct AreFinite<'a, S> {
    simd: S,
    values: Rows<'a, f32>,
    range: Range<usize>,
}

impl<S: Simd> Task for AreFinite<'_, S> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { simd, values, range } = self;
        let zero = simd.splat(0.0);
        // Several sums, so that one need not wait for the other.
        let mut sums = [zero; 4];
        for j in range.clone().step_by(sums.len()) {
            for t in (0..values.dim()).step_by(S::LANES) {
                for (sum, j) in sums.iter_mut().zip(j..range.end) {
                    let chunk = values.row(j).get(t..).unwrap_or_default();
                    *sum = simd.mul_add(simd.load(chunk), zero, *sum);
                }
            }
        }
        let mut lanes = [0.0; 16];
        let [a, b, c, d] = sums;
        simd.store(simd.add(simd.add(a, b), simd.add(c, d)), &mut lanes);
        lanes == [0.0; 16]
    }
}

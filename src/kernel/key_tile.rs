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

    /// Which keys are its own from number `first` on, at most `len`.
    #[inline(always)]
    pub(super) fn part(&self, first: usize, len: usize) -> Range<usize> {
        let start = (self.range.start + first).min(self.range.end);
        start..self.range.end.min(start + len)
    }

    /// Keys of this range of the call's, and their values.
    #[inline(always)]
    pub(super) fn rows(&self, range: &Range<usize>) -> Option<(Rows<'a, f32>, Rows<'a, f32>)> {
        self.keys.range(range.start, range.len()).zip(self.values.range(range.start, range.len()))
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
        // Several sums, so that one need not wait for the other. Times zero, what is not finite is NaN.
        let [mut a, mut b, mut c, mut d] = [zero; 4];
        for j in range {
            let row = values.row(j);
            let fours = row.chunks_exact(4 * S::LANES);
            for x in fours.remainder().chunks(S::LANES) {
                a = simd.mul_add(simd.load(x), zero, a);
            }
            for four in fours {
                let (front, back) = four.split_at(2 * S::LANES);
                let ([w, x], [y, z]) = (halves(front), halves(back));
                a = simd.mul_add(simd.load(w), zero, a);
                b = simd.mul_add(simd.load(x), zero, b);
                c = simd.mul_add(simd.load(y), zero, c);
                d = simd.mul_add(simd.load(z), zero, d);
            }
        }
        let mut lanes = [0.0; 16];
        simd.store(simd.add(simd.add(a, b), simd.add(c, d)), &mut lanes);
        lanes == [0.0; 16]
    }
}

#[inline(always)]
fn halves(chunk: &[f32]) -> [&[f32]; 2] {
    let (front, back) = chunk.split_at(chunk.len() / 2);
    [front, back]
}

//! The fused loops, and the register tile that both of their products are computed with.

pub(crate) mod prefill;

use crate::simd::Simd;

/// `sum[i][c] += left(i, t) * right[t][c]` for each `t`: a register tile of a matrix product whose left factor is read one
/// element at a time, in whatever order it lies in memory. `prefetch(t)` may fetch what later steps will read: streams as
/// short as a row of keys are over before a CPU has noticed them by itself.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    mut sum: [[S::Vector; COLS]; ROWS],
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> f32,
    prefetch: impl Fn(usize),
) -> [[S::Vector; COLS]; ROWS] {
    for (t, right) in right.iter().enumerate() {
        prefetch(t);
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = simd.splat(left(i, t));
            for c in 0..COLS {
                sum[c] = simd.mul_add(left, right[c], sum[c]);
            }
        }
    }
    sum
}

/// As [`multiply`], but leaving `sum[i][c]` as it is in the lanes where `mask(t)[c]` is false.
#[inline(always)]
pub(crate) fn multiply_where<S: Simd, const ROWS: usize, const COLS: usize>(
    simd: S,
    mut sum: [[S::Vector; COLS]; ROWS],
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> f32,
    mask: impl Fn(usize) -> [S::Mask; COLS],
) -> [[S::Vector; COLS]; ROWS] {
    for (t, right) in right.iter().enumerate() {
        let mask = mask(t);
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = simd.splat(left(i, t));
            for c in 0..COLS {
                sum[c] = simd.select(mask[c], simd.mul_add(left, right[c], sum[c]), sum[c]);
            }
        }
    }
    sum
}

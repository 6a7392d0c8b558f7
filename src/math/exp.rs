//! The base-2 exponential.
//!
//! `x = n + r` with `n` the nearest integer, so `2^x = 2^n * 2^r` with `r` in `-1/2 ..= 1/2`. `2^r` is a polynomial of degree 5,
//! minimax in relative error (9.2e-8) among those that give exactly 1 at 0. The scaling by `2^n` is exact.

use crate::simd::Simd;

/// Below this, the result is zero.
const LOWEST: f32 = -127.0;

/// Coefficients of `r^5` down to `r`; that of 1 is 1.
const POLYNOMIAL: [f32; 5] = [0.001_326_47, 0.009_671_51, 0.055_507_34, 0.240_222_42, 0.693_147];

/// `2^x` for `x <= 127`.
///
/// At most 1.6 ulp off for `x >= -126` (checked over every such `f32`); below, where results would be subnormal, off
/// by less than `f32::MIN_POSITIVE`. Exactly 1 at 0, exactly 0 at -infinity, NaN at NaN.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    // In this order, a NaN in `x` stays.
    let x = simd.max(simd.splat(LOWEST), x);
    let n = simd.round(x);
    let r = simd.sub(x, n);
    let [highest, lower @ ..] = POLYNOMIAL;
    let mut p = simd.splat(highest);
    for coefficient in lower {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let p = simd.mul_add(p, r, simd.splat(1.0));
    simd.scale_by_power(p, n)
}

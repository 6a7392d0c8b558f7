//! The hyperbolic tangent.
//!
//! `tanh(x) = (e^2x - 1) / (e^2x + 1)`, with `e^2x - 1 = 2^n (2^r - 1) + (2^n - 1)`, where `n + r = 2 x log2(e)`, `n` an integer and `r` in
//! `-1/2 ..= 1/2`: nothing cancels, near zero or elsewhere. `(2^r - 1) / r` is a polynomial of degree 5, minimax in relative
//! error (1.3e-8).

use core::f32::consts::LOG2_E;

use crate::simd::Simd;

/// Coefficients of `r^5` down to 1, each rounded to f32 before the next was fitted.
const COEFFICIENTS: [f32; 6] = [
    f32::from_bits(0x3921_4af9), // 0.000_153_820_86
    f32::from_bits(0x3aaf_789b), // 0.001_338_738_3
    f32::from_bits(0x3c1d_961f), // 0.009_618_311
    f32::from_bits(0x3d63_57d2), // 0.055_503_674
    f32::from_bits(0x3e75_fdef), // 0.240_226_5
    f32::from_bits(0x3f31_7218), // 0.693_147_2
];

/// Beyond this, the tangent rounds to 1.
const LIMIT: f32 = 10.0;

/// At most 3.5 ulp off, over every `f32`; within -1 and 1, NaN at NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    // In this order, a NaN in `x` stays.
    let x = simd.max(simd.splat(-LIMIT), x);
    let x = simd.sub(simd.splat(0.0), simd.max(simd.splat(-LIMIT), simd.sub(simd.splat(0.0), x)));
    let exponent = simd.mul(x, simd.splat(2.0 * LOG2_E));
    let n = simd.round(exponent);
    let r = simd.sub(exponent, n);
    let [highest, lower @ ..] = COEFFICIENTS;
    let mut p = simd.splat(highest);
    for coefficient in lower {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let power = simd.power_of_two(n);
    let one = simd.splat(1.0);
    let less_one = simd.mul_add(power, simd.mul(p, r), simd.sub(power, one));
    simd.div(less_one, simd.add(less_one, simd.splat(2.0)))
}

//! The base-2 exponential.
//!
//! `2^x = 2^floor(x) * 2^r`, with `r = x - floor(x)` in `0 ..= 1`. `2^r` is a polynomial of degree 5, minimax in relative error
//! (8.3e-8) among those that give exactly 1 at 0. The division into floor and rest, and the scaling, which is exact, belong to
//! each backend: see [`Simd::exp2`].

use crate::simd::Simd;

/// Coefficients of `r^5` down to `r`, each rounded to f32 before the next was fitted; that of 1 is 1.
const COEFFICIENTS: [f32; 5] = [
    f32::from_bits(0x3af4_b480), // 0.001_866_951_6
    f32::from_bits(0x3c13_be0f), // 0.009_017_481
    f32::from_bits(0x3d64_8e08), // 0.055_799_514
    f32::from_bits(0x3e75_edb5), // 0.240_164_6
    f32::from_bits(0x3f31_725d), // 0.693_151_3, ln(2) is 0.693_147_2
];

/// `2^r` for `r` in `0 ..= 1`.
#[inline(always)]
pub(crate) fn polynomial<S: Simd>(simd: S, r: S::Vector) -> S::Vector {
    let [highest, lower @ ..] = COEFFICIENTS;
    let mut p = simd.splat(highest);
    for coefficient in lower {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    simd.mul_add(p, r, simd.splat(1.0))
}

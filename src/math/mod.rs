//! Elementary functions over vectors.

use crate::simd::Simd;

#[cfg(test)]
mod double;
pub(crate) mod exp;
#[cfg(test)]
mod sweep;
pub(crate) mod tanh;

/// The polynomial with these coefficients, that of the highest power first, by Horner's scheme.
#[inline(always)]
pub(crate) fn horner<S: Simd, const N: usize>(simd: S, x: S::Vector, coefficients: [S::Scalar; N]) -> S::Vector {
    let mut p = simd.splat(0.0);
    for (i, coefficient) in coefficients.into_iter().enumerate() {
        let coefficient = simd.broadcast(coefficient);
        p = if i == 0 { coefficient } else { simd.mul_add(p, x, coefficient) };
    }
    p
}

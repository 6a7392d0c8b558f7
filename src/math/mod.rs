//! Elementary functions over vectors.

use crate::simd::Simd;

#[cfg(test)]
mod double;
pub(crate) mod exp;
#[cfg(test)]
mod sweep;
pub(crate) mod tanh;

/// The polynomial with these coefficients, that of the highest power first, of each `x`, by Horner's scheme.
#[inline(always)]
pub(crate) fn horner<S: Simd, const N: usize, const M: usize>(
    simd: S,
    x: [S::Vector; M],
    coefficients: [S::Scalar; N],
) -> [S::Vector; M] {
    let mut p = x;
    for (i, coefficient) in coefficients.into_iter().enumerate() {
        let coefficient = simd.broadcast(coefficient);
        for m in 0..M {
            p[m] = if i == 0 { coefficient } else { simd.mul_add(p[m], x[m], coefficient) };
        }
    }
    p
}

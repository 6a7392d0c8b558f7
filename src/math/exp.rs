//! The base-2 exponential.
//!
//! `2^x = 2^n * 2^r`, with `n` an integer and `r = x - n`: the one nearest to `x`, or the one below, whichever a backend has the fewer instructions
//! for. `2^r` is a polynomial of degree 5 that gives exactly 1 at 0, and otherwise is off by as little as such a one can be. The division into `n`
//! and `r`, and the scaling, which is exact, belong to each backend: see [`Simd::exp2`].

use super::horner;
use crate::simd::Simd;

/// For `r` in `-1/2 ..= 1/2`, as is left by the nearest integer: coefficients of `r^5` down to `r`, each rounded to f32 before the next was fitted; that of 1 is 1. Relative error
/// 9.4e-8.
pub(crate) const NEAREST: [f32; 5] = [
    f32::from_bits(0x3aad_ed2c), // 0.001_326_953_5
    f32::from_bits(0x3c1e_7457), // 0.009_671_292
    f32::from_bits(0x3d63_5b6c), // 0.055_507_11
    f32::from_bits(0x3e75_fce1), // 0.240_222_47
    f32::from_bits(0x3f31_7215), // 0.693_147, ln(2) is 0.693_147_2
];

/// For `r` in `0 ..= 1`, as is left by the integer below: fitted likewise, but to the absolute error, then searched around for the least error with each step rounded, and `r`
/// rounded either way. Relative error 1.4e-7, absolute error 1.5e-7.
pub(crate) const BELOW: [f32; 5] = [
    f32::from_bits(0x3af8_9449), // 0.00189650909
    f32::from_bits(0x3c12_8de3), // 0.00894496124
    f32::from_bits(0x3d64_ce6b), // 0.055860918
    f32::from_bits(0x3e75_e85d), // 0.240144208
    f32::from_bits(0x3f31_727f), // 0.693153322
];

/// `2^r` for the `r` that the coefficients are for.
#[inline(always)]
pub(crate) fn polynomial<S: Simd>(simd: S, r: S::Vector, coefficients: [f32; 5]) -> S::Vector {
    simd.mul_add(horner(simd, r, coefficients), r, simd.splat(1.0))
}

#[cfg(test)]
mod tests {
    use std::{println, vec::Vec};

    use crate::{
        Backend,
        math::sweep::{self, Function, exact_exp2, sweep, ulps, worst},
        simd::Simd,
    };

    /// Units in the last place that a result may be off by; 2.170 are seen.
    const MAX_ULP: f64 = 2.2;

    /// Held to so many terms of the series.
    #[derive(Clone, Copy)]
    struct Exp2<const TERMS: usize>;

    impl<const TERMS: usize> Function for Exp2<TERMS> {
        #[inline(always)]
        fn vector<S: Simd>(self, simd: S, x: S::Vector) -> S::Vector {
            simd.exp2(x)
        }

        #[inline(always)]
        fn exact(self, x: f32) -> f64 {
            exact_exp2::<TERMS>(f64::from(x))
        }
    }

    const TINY: f32 = 1e-8;

    fn check(backend: Backend) {
        let Some(token) = backend.token() else { return println!("this CPU has no {backend}") };
        let [negative, positive] = [(-126f32).next_up(), 127.0].map(|bound| {
            let [zero, tiny] = [0.0, TINY].map(|x| x.copysign(bound));
            worst([sweep(token, Exp2::<2>, zero, tiny), sweep(token, Exp2::<12>, tiny, bound)])
        });
        println!("{backend}: at most {negative:.3} ulp off over -126 < x <= 0, {positive:.3} over 0 <= x <= 127");
        assert!(negative <= MAX_ULP && positive <= MAX_ULP);
    }

    #[test]
    fn every_float_portable() {
        check(Backend::Portable);
    }

    #[test]
    fn every_float_avx2() {
        check(Backend::Avx2);
    }

    #[test]
    fn every_float_avx512() {
        check(Backend::Avx512);
    }

    fn each(x: f32) -> Vec<f32> {
        sweep::each(Exp2::<12>, x)
    }

    #[test]
    fn below_the_normal_numbers() {
        let subnormal = (-152f32).to_bits() - (-126f32).to_bits();
        let every = (0..=subnormal).map(|n| (-126f32).to_bits() + n);
        let some = ((-152f32).to_bits()..f32::NEG_INFINITY.to_bits()).step_by(9973);
        for x in every.step_by(7).chain(some).map(f32::from_bits) {
            for result in each(x) {
                // The exact result lies there too.
                assert!((0.0..=f32::MIN_POSITIVE).contains(&result), "2^{x} is not {result:e}");
            }
        }
    }

    #[test]
    fn exact_where_it_matters() {
        for (x, expected) in [(0.0, 1.0), (-0.0, 1.0), (f32::NEG_INFINITY, 0.0), (f32::MIN, 0.0)] {
            assert!(
                each(x).iter().all(|result: &f32| result.to_bits() == f32::to_bits(expected)),
                "2^{x}: {:?}",
                each(x)
            );
        }
    }

    #[test]
    fn nan_stays() {
        for payload in (0..23).map(|bit| 1 << bit) {
            for sign in [0, 1 << 31] {
                let nan = f32::from_bits(f32::INFINITY.to_bits() | payload | sign);
                assert!(each(nan).iter().all(|result| result.is_nan()), "{:#x}", nan.to_bits());
            }
        }
    }

    /// What the sweeps compare with.
    #[test]
    fn exact_is_as_exact_as_it_says() {
        for n in 0..=2_000_000 {
            let x = -126.0 + 253.0 * (n as f32 / 2e6);
            let libm = libm::exp2(f64::from(x));
            assert!((exact_exp2::<12>(f64::from(x)) - libm).abs() <= 1e-14 * libm, "2^{x}");
            let x = x * (TINY / 127.0);
            let libm = libm::exp2(f64::from(x));
            assert!((exact_exp2::<2>(f64::from(x)) - libm).abs() <= 1e-14 * libm, "2^{x}");
        }
        assert_eq!(ulps(1.0 + 3.0 * f32::EPSILON, 1.0), 3.0);
        assert_eq!(ulps(2.0, 2.0 - f64::from(f32::EPSILON) / 2.0), 0.5);
    }
}

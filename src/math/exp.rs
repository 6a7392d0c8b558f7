//! The base-2 exponential.
//!
//! `2^x = 2^n * 2^r`, with `n` an integer and `r = x - n`: the one nearest to `x`, or the one below, whichever a backend has the fewer instructions
//! for. `2^r` is a polynomial, of degree 5 for `f32` and 11 for `f64`, that gives exactly 1 at 0, and otherwise is off by as little as such a one can be. The division into `n`
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

/// For the same `r` of `f64`: coefficients of `r^11` down to `r`, that of the lowest power rounded first. Relative error 4.1e-18.
pub(crate) const NEAREST_F64: [f64; 11] = [
    f64::from_bits(0x3dfe_80ee_4de8_c038), // 4.438_863_286_566_055_3e-10
    f64::from_bits(0x3e3e_611a_059f_d22e), // 7.073_232_744_296_565e-9
    f64::from_bits(0x3e7b_5260_da0b_520b), // 1.017_816_004_909_512_2e-7
    f64::from_bits(0x3eb6_2bfc_dde6_5cb1), // 1.321_543_883_747_196e-6
    f64::from_bits(0x3eef_fcbf_bf8c_7268), // 1.525_273_363_394_662_5e-5
    f64::from_bits(0x3f24_3091_30c0_1289), // 0.000_154_035_304_490_336_25
    f64::from_bits(0x3f55_d87f_e78b_3b9c), // 0.001_333_355_814_654_636
    f64::from_bits(0x3f83_b2ab_6fba_11f5), // 0.009_618_129_107_601_606
    f64::from_bits(0x3fac_6b08_d704_a0d4), // 0.055_504_108_664_821_72
    f64::from_bits(0x3fce_bfbd_ff82_c59c), // 0.240_226_506_959_101_08
    f64::from_bits(0x3fe6_2e42_fefa_39ef), // 0.693_147_180_559_945_3, ln(2) is 0.693_147_180_559_945_309
];

/// For `r` in `0 ..= 1`, as is left by the integer below: fitted likewise, but to the absolute error, then searched around for the least error with each step rounded, and `r`
/// rounded either way. Relative error 1.4e-7, absolute error 1.5e-7.
#[cfg(target_arch = "x86_64")]
pub(crate) const BELOW: [f32; 5] = [
    f32::from_bits(0x3af8_9449), // 0.00189650909
    f32::from_bits(0x3c12_8de3), // 0.00894496124
    f32::from_bits(0x3d64_ce6b), // 0.055860918
    f32::from_bits(0x3e75_e85d), // 0.240144208
    f32::from_bits(0x3f31_727f), // 0.693153322
];

/// `2^r` for the `r` that the coefficients are for.
#[inline(always)]
pub(crate) fn polynomial<S: Simd, const N: usize>(simd: S, r: S::Vector, coefficients: [S::Scalar; N]) -> S::Vector {
    let [power] = polynomials(simd, [r], coefficients);
    power
}

/// [`polynomial`] of each, in step: what one waits for is time for the others.
#[inline(always)]
pub(crate) fn polynomials<S: Simd, const N: usize, const M: usize>(
    simd: S,
    r: [S::Vector; M],
    coefficients: [S::Scalar; N],
) -> [S::Vector; M] {
    let mut powers = horner(simd, r, coefficients);
    for m in 0..M {
        powers[m] = simd.mul_add(powers[m], r[m], simd.splat(1.0));
    }
    powers
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
        fn vector<S: Simd<Scalar = f32>>(self, simd: S, x: S::Vector) -> S::Vector {
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

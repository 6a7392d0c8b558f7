//! The hyperbolic tangent.
//!
//! `tanh(x) = (e^2x - 1) / (e^2x + 1)`, with `e^2x - 1 = 2^n (e^t - 1) + (2^n - 1)`, where `2x = n ln(2) + t`, `n` an integer and `t` in
//! `-ln(2)/2 ..= ln(2)/2`: nothing cancels, near zero or elsewhere. `e^t - 1 = t + t^2 p(t)`, with a polynomial of degree 4, minimax in
//! relative error (1.4e-8).

use core::f32::consts::LOG2_E;

use super::horner;
use crate::simd::Simd;

/// Coefficients of `t^4` down to 1, each rounded to f32 before the next was fitted.
const COEFFICIENTS: [f32; 5] = [
    f32::from_bits(0x3ab5_ce3d), // 0.001_387_066_8
    f32::from_bits(0x3c09_12a6), // 0.008_366_263
    f32::from_bits(0x3d2a_ab79), // 0.041_667_435
    f32::from_bits(0x3e2a_aa5a), // 0.166_665_46
    f32::from_bits(0x3eff_ffff), // 0.499_999_97
];

/// ln(2) in two parts, of which the first has so few digits that its product with `n` is exact.
const LN_2: [f32; 2] = [f32::from_bits(0x3f31_7200), f32::from_bits(0x35bf_be8e)];

/// Beyond this, the tangent rounds to 1.
const LIMIT: f32 = 10.0;

/// At most 2.65 ulp off (checked over every `f32` of a magnitude from 2^-24 on); within -1 and 1, NaN at NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let (one, two) = (simd.splat(1.0), simd.splat(2.0));
    // In this order, a NaN in `x` stays.
    let x = simd.max(simd.splat(-LIMIT), x);
    let x = simd.sub(simd.splat(0.0), simd.max(simd.splat(-LIMIT), simd.sub(simd.splat(0.0), x)));
    let n = simd.round(simd.mul(x, simd.splat(2.0 * LOG2_E)));
    let t = simd.mul_add(n, simd.splat(-LN_2[0]), simd.mul(x, two));
    let t = simd.mul_add(n, simd.splat(-LN_2[1]), t);
    let p = horner(simd, t, COEFFICIENTS);
    let power = simd.power_of_two(n);
    let less_one = simd.mul_add(power, simd.mul_add(simd.mul(t, t), p, t), simd.sub(power, one));
    simd.div(less_one, simd.add(less_one, two))
}

#[cfg(test)]
mod tests {
    use core::f64::consts::LOG2_E;
    use std::println;

    use super::tanh;
    use crate::{
        Backend,
        math::sweep::{Function, each, exact_exp2, sweep, ulps, worst},
        simd::Simd,
    };

    /// Units in the last place that a result may be off by; 2.606 are seen.
    const MAX_ULP: f64 = 2.65;

    /// Held to a quotient of exponentials, or `NEAR` zero to the first terms of the series.
    #[derive(Clone, Copy)]
    struct Tanh<const NEAR: bool>;

    impl<const NEAR: bool> Function for Tanh<NEAR> {
        #[inline(always)]
        fn vector<S: Simd>(self, simd: S, x: S::Vector) -> S::Vector {
            tanh(simd, x)
        }

        #[inline(always)]
        fn exact(self, x: f32) -> f64 {
            let x = f64::from(x);
            if NEAR {
                return x * (1.0 - x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)));
            }
            let power = exact_exp2::<12>(2.0 * LOG2_E * x);
            (power - 1.0) / (power + 1.0)
        }
    }

    /// Where the one form of the exact result takes over from the other; and below which the tangent is the argument.
    const BOUND: f32 = 1.0 / 1024.0;
    const LINEAR: f32 = 1.0 / 16_777_216.0;

    fn check(backend: Backend) {
        let Some(token) = backend.token() else { return println!("this CPU has no {backend}") };
        for sign in [1f32, -1.0] {
            let near = sweep(token, Tanh::<true>, LINEAR.copysign(sign), BOUND.copysign(sign));
            let far = sweep(token, Tanh::<false>, BOUND.copysign(sign), 12f32.copysign(sign));
            println!("{backend}, sign {sign}: at most {near:.3} ulp off up to {BOUND}, {far:.3} beyond");
            assert!(worst([near, far]) <= MAX_ULP);
        }
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

    /// A binade there is like any other, down to the subnormal numbers.
    #[test]
    fn linear_near_zero() {
        for bits in (f32::MIN_POSITIVE.to_bits()..LINEAR.to_bits()).step_by(9973) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                assert!(each(Tanh::<true>, x).iter().all(|result| ulps(*result, f64::from(x)) <= MAX_ULP), "{x:e}");
            }
        }
        for bits in (0..f32::MIN_POSITIVE.to_bits()).step_by(997) {
            let x = f32::from_bits(bits);
            assert!(each(Tanh::<true>, x).iter().all(|result| (result - x).abs() <= 4e-45), "{x:e}");
        }
    }

    #[test]
    fn exact_where_it_matters() {
        for (x, expected) in
            [(0.0, 0.0), (12.0, 1.0), (f32::MAX, 1.0), (f32::INFINITY, 1.0), (-12.0, -1.0), (f32::NEG_INFINITY, -1.0)]
        {
            assert!(each(Tanh::<true>, x).iter().all(|result: &f32| *result == expected), "tanh {x}");
        }
        assert!(each(Tanh::<true>, f32::NAN).iter().all(|result| result.is_nan()));
    }

    /// What the sweeps compare with.
    #[test]
    fn exact_is_as_exact_as_it_says() {
        for n in -100_000..=100_000 {
            let x = 12.0 * (n as f32 / 1e5);
            let libm = libm::tanh(f64::from(x));
            assert!(x.abs() < BOUND || (Tanh::<false>.exact(x) - libm).abs() <= 1e-11 * libm.abs(), "tanh {x}");
            let x = x / 12.0 * BOUND;
            let libm = libm::tanh(f64::from(x));
            assert!((Tanh::<true>.exact(x) - libm).abs() <= 1e-13 * libm.abs(), "tanh {x}");
        }
    }
}

//! The hyperbolic tangent.
//!
//! `tanh(x) = (e^2x - 1) / (e^2x + 1)`, with `e^2x - 1 = 2^n (e^t - 1) + (2^n - 1)`, where `2x = n ln(2) + t`, `n` an integer and `t` in
//! `-ln(2)/2 ..= ln(2)/2`: nothing cancels, near zero or elsewhere. `e^t - 1 = t + t^2 p(t)`, with a polynomial of degree 4 for `f32` and 10
//! for `f64`, minimax in relative error (1.4e-8 and 2.8e-19).

use crate::{scalar::Scalar, simd::Simd};

/// Coefficients of `t^4` down to 1, each rounded to f32 before the next was fitted.
pub(crate) const F32: [f32; 5] = [
    f32::from_bits(0x3ab5_ce3d), // 0.001_387_066_8
    f32::from_bits(0x3c09_12a6), // 0.008_366_263
    f32::from_bits(0x3d2a_ab79), // 0.041_667_435
    f32::from_bits(0x3e2a_aa5a), // 0.166_665_46
    f32::from_bits(0x3eff_ffff), // 0.499_999_97
];

/// Coefficients of `t^10` down to 1, likewise.
pub(crate) const F64: [f64; 11] = [
    f64::from_bits(0x3e21_f386_2ac9_92b9), // 2.089_802_406_036_977e-9
    f64::from_bits(0x3e5a_f5d0_36d2_b94c), // 2.510_865_064_881_628_3e-8
    f64::from_bits(0x3e92_7e4f_8fa3_b923), // 2.755_731_568_622_576_6e-7
    f64::from_bits(0x3ec7_1ddf_939e_4e33), // 2.755_724_520_528_565e-6
    f64::from_bits(0x3efa_01a0_19e3_e896), // 2.480_158_729_498_883_4e-5
    f64::from_bits(0x3f2a_01a0_1af9_c266), // 0.000_198_412_698_853_472_9
    f64::from_bits(0x3f56_c16c_16c1_6836), // 0.001_388_888_888_888_673_6
    f64::from_bits(0x3f81_1111_1110_f70a), // 0.008_333_333_333_321_775
    f64::from_bits(0x3fa5_5555_5555_5559), // 0.041_666_666_666_666_69
    f64::from_bits(0x3fc5_5555_5555_5559), // 0.166_666_666_666_666_77
    f64::from_bits(0x3fe0_0000_0000_0000), // 0.5
];

/// What depends on the type that is computed in.
#[derive(Clone, Copy, Debug)]
pub struct Constants<E> {
    /// ln(2) in two parts, of which the first has so few digits that its product with `n` is exact.
    ln_2: [E; 2],
    /// `2 log2(e)`
    rate: E,
    /// Beyond this, the tangent rounds to 1.
    limit: f32,
}

impl Constants<f32> {
    pub(crate) const F32: Self = Self {
        ln_2: [f32::from_bits(0x3f31_7200), f32::from_bits(0x35bf_be8e)],
        rate: 2.0 * core::f32::consts::LOG2_E,
        limit: 10.0,
    };
}

impl Constants<f64> {
    pub(crate) const F64: Self = Self {
        ln_2: [f64::from_bits(0x3fe6_2e42_fefa_3a00), f64::from_bits(0xbce0_ca86_c389_8d00)],
        rate: 2.0 * core::f64::consts::LOG2_E,
        limit: 20.0,
    };
}

/// At most 2.65 ulp off (of `f32` checked over every number of a magnitude from 2^-24 on); within -1 and 1, NaN at NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let Constants { ln_2, rate, limit } = S::Scalar::TANH;
    let (zero, one, two, least) = (simd.splat(0.0), simd.splat(1.0), simd.splat(2.0), simd.splat(-limit));
    // In this order, a NaN in `x` stays.
    let x = simd.max(least, x);
    let x = simd.sub(zero, simd.max(least, simd.sub(zero, x)));
    let n = simd.round(simd.mul(x, simd.broadcast(rate)));
    let t = simd.mul_add(simd.sub(zero, n), simd.broadcast(ln_2[0]), simd.mul(x, two));
    let t = simd.mul_add(simd.sub(zero, n), simd.broadcast(ln_2[1]), t);
    let p = S::Scalar::exp_rest(simd, t);
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
        fn vector<S: Simd<Scalar = f32>>(self, simd: S, x: S::Vector) -> S::Vector {
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

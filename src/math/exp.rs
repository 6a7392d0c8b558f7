//! The base-2 exponential.
//!
//! `2^x = 2^n * 2^r`, with `n` the integer nearest to `x` and `r = x - n` in `-1/2 ..= 1/2`. `2^r` is a polynomial of degree 5,
//! minimax in relative error (9.4e-8) among those that give exactly 1 at 0. The division into `n` and `r`, and the scaling, which
//! is exact, belong to each backend: see [`Simd::exp2`].

use crate::simd::Simd;

/// Coefficients of `r^5` down to `r`, each rounded to f32 before the next was fitted; that of 1 is 1.
const COEFFICIENTS: [f32; 5] = [
    f32::from_bits(0x3aad_ed2c), // 0.001_326_953_5
    f32::from_bits(0x3c1e_7457), // 0.009_671_292
    f32::from_bits(0x3d63_5b6c), // 0.055_507_11
    f32::from_bits(0x3e75_fce1), // 0.240_222_47
    f32::from_bits(0x3f31_7215), // 0.693_147, ln(2) is 0.693_147_2
];

/// `2^r` for `r` in `-1/2 ..= 1/2`.
#[inline(always)]
pub(crate) fn polynomial<S: Simd>(simd: S, r: S::Vector) -> S::Vector {
    let [highest, lower @ ..] = COEFFICIENTS;
    let mut p = simd.splat(highest);
    for coefficient in lower {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    simd.mul_add(p, r, simd.splat(1.0))
}

#[cfg(test)]
mod tests {
    use core::{array::from_fn, f64::consts::LN_2};
    use std::{println, vec::Vec};

    use crate::{
        Backend,
        simd::{Kernel, Simd, Token, with_simd},
    };

    /// Units in the last place that a result may be off by; 2.170 are seen.
    const MAX_ULP: f64 = 2.2;

    /// A multiple of every backend's lanes.
    const CHUNK: usize = 16;

    #[inline(always)]
    fn exp2<S: Simd>(simd: S, x: [f32; CHUNK]) -> [f32; CHUNK] {
        let mut result = [0.0; CHUNK];
        for (to, from) in result.chunks_mut(S::LANES).zip(x.chunks(S::LANES)) {
            simd.store(simd.exp2(simd.load(from)), to);
        }
        result
    }

    /// `2^x` in f64, off by less than 1e-14 of it: the first terms of the exponential series of what is left of the nearest integer, 12 of
    /// them, or 2 for `|x| < TINY`. Unlike libm's it is vectorised.
    #[inline(always)]
    fn exact<const TERMS: usize>(x: f32) -> f64 {
        // Ends in the integer nearest to `x`: at this magnitude the spacing of f64 is one.
        let shifted = f64::from(x) + MAGIC;
        let r = (f64::from(x) - (shifted - MAGIC)) * LN_2;
        let sum = INVERSE_FACTORIALS[..TERMS].iter().rev().fold(0.0, |sum, inverse| sum * r + inverse);
        f64::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 52))
    }

    const TINY: f32 = 1e-8;
    const INVERSE_FACTORIALS: [f64; 12] = {
        let mut inverse = [1.0; 12];
        let mut n = 1;
        while n < 12 {
            inverse[n] = inverse[n - 1] / n as f64;
            n += 1;
        }
        inverse
    };
    const MAGIC: f64 = 1.5 * (1u64 << 52) as f64;

    /// The distance in units of the last place of an f32 of `exact`'s magnitude.
    #[inline(always)]
    fn ulps(actual: f32, exact: f64) -> f64 {
        let power_of_two = f64::from_bits(exact.to_bits() & f64::INFINITY.to_bits());
        (f64::from(actual) - exact).abs() / (power_of_two * f64::from(f32::EPSILON))
    }

    /// The largest error, in ulp, over every `f32` whose bits lie in `first ..= last`; NaN if any result is.
    struct Sweep<const TERMS: usize> {
        first: u32,
        last: u32,
    }

    impl<const TERMS: usize> Kernel for Sweep<TERMS> {
        type Output = f64;

        #[inline(always)]
        fn run<S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> f64 {
            let mut worst = [0.0; CHUNK];
            for start in (self.first..=self.last).step_by(CHUNK) {
                let x = from_fn(|i| f32::from_bits((start + i as u32).min(self.last)));
                let actual = exp2(simd, x);
                for i in 0..CHUNK {
                    let error = ulps(actual[i], exact::<TERMS>(x[i]));
                    worst[i] = if error > worst[i] || error.is_nan() { error } else { worst[i] };
                }
            }
            worst.into_iter().fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
        }
    }

    struct Once([f32; CHUNK]);

    impl Kernel for Once {
        type Output = [f32; CHUNK];

        #[inline(always)]
        fn run<S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> [f32; CHUNK] {
            exp2(simd, self.0)
        }
    }

    /// From a zero of the bound's sign up to the bound.
    fn sweep(token: Token, bound: f32) -> f64 {
        let [zero, tiny, bound] = [0.0, TINY, bound.abs()].map(|x| x.copysign(bound).to_bits());
        let (near, far) = (Sweep::<2> { first: zero, last: tiny }, Sweep::<12> { first: tiny, last: bound });
        let [near, far] = with_simd!(token, simd => [simd.run(1, near), simd.run(1, far)]);
        if near > far || near.is_nan() { near } else { far }
    }

    fn check(backend: Backend) {
        let Some(token) = backend.token() else { return println!("this CPU has no {backend}") };
        let (negative, positive) = (sweep(token, (-126f32).next_up()), sweep(token, 127.0));
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

    /// On every backend, of one argument.
    fn each(x: f32) -> Vec<f32> {
        let results = Backend::available().filter_map(Backend::token);
        results.map(|token| with_simd!(token, simd => simd.run(1, Once([x; CHUNK])))[0]).collect()
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
            assert!((exact::<12>(x) - libm).abs() <= 1e-14 * libm, "2^{x}");
            let x = x * (TINY / 127.0);
            let libm = libm::exp2(f64::from(x));
            assert!((exact::<2>(x) - libm).abs() <= 1e-14 * libm, "2^{x}");
        }
        assert_eq!(ulps(1.0 + 3.0 * f32::EPSILON, 1.0), 3.0);
        assert_eq!(ulps(2.0, 2.0 - f64::from(f32::EPSILON) / 2.0), 0.5);
    }
}

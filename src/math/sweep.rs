//! Functions over vectors held to what they should give, over every `f32` of a range.

use std::vec::Vec;

use crate::{
    Backend,
    simd::{Kernel, Simd, Token, with_simd},
};

/// A function, and what it should give.
pub(super) trait Function: Copy {
    fn vector<S: Simd<Scalar = f32>>(self, simd: S, x: S::Vector) -> S::Vector;

    /// Off by no more than some 1e-10 of it.
    fn exact(self, x: f32) -> f64;
}

/// A multiple of every backend's lanes.
const CHUNK: usize = 16;

#[inline(always)]
fn apply<S: Simd<Scalar = f32>>(simd: S, of: impl Function, x: [f32; CHUNK]) -> [f32; CHUNK] {
    let mut result = [0.0; CHUNK];
    for first in (0..CHUNK).step_by(S::LANES) {
        simd.store(of.vector(simd, simd.load(&x[first..])), &mut result[first..]);
    }
    result
}

/// The distance in units of the last place of an f32 of `exact`'s magnitude.
#[inline(always)]
pub(super) fn ulps(actual: f32, exact: f64) -> f64 {
    let power_of_two = f64::from_bits(exact.to_bits() & f64::INFINITY.to_bits());
    (f64::from(actual) - exact).abs() / (power_of_two * f64::from(f32::EPSILON))
}

/// The largest error, in ulp, over every `f32` whose bits lie in `first ..= last`; NaN if any result is.
struct Sweep<F> {
    first: u32,
    last: u32,
    of: F,
}

impl<F: Function> Kernel for Sweep<F> {
    type Scalar = f32;
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd<Scalar = f32>, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> f64 {
        let mut errors = [0.0; CHUNK];
        for start in (self.first..=self.last).step_by(CHUNK) {
            let mut x = [0.0; CHUNK];
            for (i, x) in x.iter_mut().enumerate() {
                *x = f32::from_bits((start + i as u32).min(self.last));
            }
            let actual = apply(simd, self.of, x);
            for i in 0..CHUNK {
                errors[i] = worse(errors[i], ulps(actual[i], self.of.exact(x[i])));
            }
        }
        worst(errors)
    }
}

#[inline(always)]
fn worse(worst: f64, error: f64) -> f64 {
    if error > worst || error.is_nan() { error } else { worst }
}

/// The largest error, in ulp, from `near` to `far`, both of one sign.
pub(super) fn sweep<F: Function>(token: Token, of: F, near: f32, far: f32) -> f64 {
    with_simd!(token, simd => simd.run(1, Sweep { first: near.to_bits(), last: far.to_bits(), of }))
}

/// The worst of several.
pub(super) fn worst<const N: usize>(errors: [f64; N]) -> f64 {
    errors.into_iter().fold(0.0, worse)
}

struct Once<F> {
    x: f32,
    of: F,
}

impl<F: Function> Kernel for Once<F> {
    type Scalar = f32;
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd<Scalar = f32>, const ROWS: usize, const NARROW: usize, const COLS: usize>(self, simd: S) -> f32 {
        apply(simd, self.of, [self.x; CHUNK])[0]
    }
}

/// On every backend, of one argument.
pub(super) fn each<F: Function>(of: F, x: f32) -> Vec<f32> {
    let results = Backend::available().filter_map(Backend::token);
    results.map(|token| with_simd!(token, simd => simd.run(1, Once { x, of }))).collect()
}

/// `2^x`, off by less than 1e-14 of it: the first terms of the exponential series of what is left of the nearest integer, 12 of
/// them, or 2 for `|x| < 1e-8`. Unlike libm's it is vectorised.
#[inline(always)]
pub(super) fn exact_exp2<const TERMS: usize>(x: f64) -> f64 {
    // Ends in the integer nearest to `x`: at this magnitude the spacing of f64 is one.
    let shifted = x + MAGIC;
    let r = (x - (shifted - MAGIC)) * core::f64::consts::LN_2;
    let mut sum = 0.0;
    for inverse in INVERSE_FACTORIALS[..TERMS].iter().rev() {
        sum = sum * r + inverse;
    }
    f64::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 52))
}

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

//! What is computed in.

use core::{
    fmt::Debug,
    ops::{Add, Div, Mul, Sub},
};

use crate::{
    element::{Float, Load, Store},
    math::{horner, tanh},
    score::function::Dot,
    simd::Simd,
    work::Plan,
};

/// `f32` and `f64`: what products, sums and the softmax are computed in, and so what log-sum-exps and scores are. Nobody else implements
/// it.
pub trait Scalar:
    Float<Sum = Self>
    + Load
    + Store
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + From<f32>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    #[doc(hidden)]
    const ZERO: Self;

    #[doc(hidden)]
    const ONE: Self;

    #[doc(hidden)]
    const NEG_INFINITY: Self;

    /// The most negative number that is finite.
    #[doc(hidden)]
    const MIN: Self;

    /// The smallest bias that does not mask. A bias that is smaller still but finite counts as this, so that even the most negative numbers can
    /// be multiplied with `log2(e)`.
    #[doc(hidden)]
    const LEAST_BIAS: f32;

    /// From here on, two numbers are 64 apart, or more.
    #[doc(hidden)]
    const SPARSE: f32;

    /// The hyperbolic tangent's constants.
    #[doc(hidden)]
    const TANH: tanh::Constants<Self>;

    /// The backend for this type that has the same instructions.
    #[doc(hidden)]
    type Simd<S: Simd<Scalar = f32>>: Simd<Scalar = Self>;

    #[doc(hidden)]
    fn simd<S: Simd<Scalar = f32>>(simd: S) -> Self::Simd<S>;

    /// The nearest number.
    #[doc(hidden)]
    fn from_f64(x: f64) -> Self;

    /// The number whose bits are these, above them zeros.
    #[doc(hidden)]
    fn from_word(bits: u32) -> Self;

    /// The lower 32 of its bits.
    #[doc(hidden)]
    fn to_word(self) -> u32;

    #[doc(hidden)]
    fn is_finite(self) -> bool;

    #[doc(hidden)]
    fn exp(self) -> Self;

    #[doc(hidden)]
    fn exp2(self) -> Self;

    #[doc(hidden)]
    fn ln(self) -> Self;

    /// `(e^t - 1 - t) / t^2`, for `t` up to `ln(2) / 2` of either sign.
    #[doc(hidden)]
    fn exp_rest<S: Simd<Scalar = Self>>(simd: S, t: S::Vector) -> S::Vector;

    /// [`Plan::run`] with dot products.
    #[doc(hidden)]
    fn run_dot(plan: &Plan<'_, Self>, scratch: &mut [Self]);
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const MIN: Self = Self::MIN;
    const LEAST_BIAS: f32 = -1e38;
    const SPARSE: f32 = (1u32 << 29) as f32;
    const TANH: tanh::Constants<Self> = tanh::Constants::F32;

    type Simd<S: Simd<Scalar = f32>> = S;

    #[inline(always)]
    fn simd<S: Simd<Scalar = f32>>(simd: S) -> S {
        simd
    }

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as Self
    }

    #[inline(always)]
    fn from_word(bits: u32) -> Self {
        Self::from_bits(bits)
    }

    #[inline(always)]
    fn to_word(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    fn exp(self) -> Self {
        libm::expf(self)
    }

    fn exp2(self) -> Self {
        libm::exp2f(self)
    }

    fn ln(self) -> Self {
        libm::logf(self)
    }

    #[inline(always)]
    fn exp_rest<S: Simd<Scalar = Self>>(simd: S, t: S::Vector) -> S::Vector {
        let [p] = horner(simd, [t], tanh::F32);
        p
    }

    /// Compiled once, and not again by each crate that calls it.
    fn run_dot(plan: &Plan<'_, Self>, scratch: &mut [Self]) {
        plan.run(&Dot, scratch);
    }
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const MIN: Self = Self::MIN;
    const LEAST_BIAS: f32 = f32::MIN;
    const SPARSE: f32 = (1u64 << 58) as f32;
    const TANH: tanh::Constants<Self> = tanh::Constants::F64;

    type Simd<S: Simd<Scalar = f32>> = S::Double;

    #[inline(always)]
    fn simd<S: Simd<Scalar = f32>>(simd: S) -> S::Double {
        simd.double()
    }

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn from_word(bits: u32) -> Self {
        Self::from_bits(bits.into())
    }

    #[inline(always)]
    fn to_word(self) -> u32 {
        self.to_bits() as u32
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    fn exp(self) -> Self {
        libm::exp(self)
    }

    fn exp2(self) -> Self {
        libm::exp2(self)
    }

    fn ln(self) -> Self {
        libm::log(self)
    }

    #[inline(always)]
    fn exp_rest<S: Simd<Scalar = Self>>(simd: S, t: S::Vector) -> S::Vector {
        let [p] = horner(simd, [t], tanh::F64);
        p
    }

    /// Compiled by the crates that call it, and by no others.
    #[inline]
    fn run_dot(plan: &Plan<'_, Self>, scratch: &mut [Self]) {
        plan.run(&Dot, scratch);
    }
}

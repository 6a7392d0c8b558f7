//! Numbers as a score function sees them: one for each query, in the lanes of a vector, or a single one.

use core::ops::{Add, Div, Mul, Sub};

use crate::{math::tanh::tanh, simd::Simd};

/// As many numbers as the kernel works on at once, one for each query; every operation is done to each of them.
///
/// It is vectors of `f32` or `f64` in the kernels and a single `f64` in the [reference](crate::reference); nobody else implements it.
pub trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Sealed
{
    /// This number in every lane.
    #[must_use]
    fn splat(self, x: f32) -> Self;

    /// `self * a + b`, rounded once where the CPU can.
    #[must_use]
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// The larger one; `other` where either is NaN.
    #[must_use]
    fn max(self, other: Self) -> Self;

    /// The magnitude.
    #[must_use]
    fn abs(self) -> Self;

    /// The hyperbolic tangent, at most 2.65 ulp off.
    #[must_use]
    fn tanh(self) -> Self;
}

/// Keeps [`Lanes`] for this crate.
pub trait Sealed {}

/// A vector of some backend.
#[derive(Clone, Copy)]
pub(crate) struct InLanes<S: Simd>(pub(crate) S, pub(crate) S::Vector);

macro_rules! operator {
    ($trait:ident, $operation:ident) => {
        impl<S: Simd> $trait for InLanes<S> {
            type Output = Self;

            #[inline(always)]
            fn $operation(self, other: Self) -> Self {
                Self(self.0, self.0.$operation(self.1, other.1))
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl<S: Simd> Sealed for InLanes<S> {}

impl<S: Simd> Lanes for InLanes<S> {
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        Self(self.0, self.0.splat(x))
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        Self(self.0, self.0.mul_add(self.1, a.1, b.1))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(self.0, self.0.max(self.1, other.1))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.max(self.splat(0.0) - self)
    }

    #[inline(always)]
    fn tanh(self) -> Self {
        Self(self.0, tanh(self.0, self.1))
    }
}

impl Sealed for f64 {}

impl Lanes for f64 {
    fn splat(self, x: f32) -> Self {
        x.into()
    }

    fn mul_add(self, a: Self, b: Self) -> Self {
        self * a + b
    }

    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    fn abs(self) -> Self {
        Lanes::max(self, -self)
    }

    fn tanh(self) -> Self {
        libm::tanh(self)
    }
}

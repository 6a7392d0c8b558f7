//! The types of numbers that there are in memory.

#[cfg(feature = "half")]
use half::{bf16, f16};

use crate::{
    append::quantize_row,
    floats::{FloatView, FloatViewMut},
    scalar::Scalar,
    simd::Simd,
    store,
    view::{View, ViewMut},
};

/// What keys and values may be kept in: a [`Float`], or `i8` with scales ([`Quantized`](crate::Quantized)).
///
/// Nobody else implements it.
pub trait Element: Copy + 'static + Sealed {
    /// What products and sums of it are computed in, and so what log-sum-exps and scores are: `f64` if it is that itself, else `f32`.
    type Sum: Scalar;
}

/// Numbers that need no scales: `f32`, `f64`, and with the feature `half` its `f16` and `bf16`. Queries and outputs are of them, too.
pub trait Float: Element + Into<f64> + Erase {
    /// The nearest one, of two the even one.
    #[must_use]
    fn from_f32(x: f32) -> Self;

    /// The nearest `f32`: the same number, if it is not of `f64`.
    #[must_use]
    fn to_f32(self) -> f32;
}

/// Keeps [`Element`] for this crate.
pub trait Sealed: Sized {
    #[doc(hidden)]
    fn store<'a>(numbers: View<'a, Self>, scales: Option<View<'a, f32>>) -> store::Store<'a, Self::Sum>
    where
        Self: Element;

    /// Of elements of its own, those of a row, with as many scales as there are, if it has any.
    #[doc(hidden)]
    fn convert(row: &[Self::Sum], to: &mut [Self], scales: &mut [f32])
    where
        Self: Element;
}

/// Takes the type from views, of which the kernels need not be compiled once for each.
pub trait Erase: Sized {
    #[doc(hidden)]
    fn view(view: View<'_, Self>) -> FloatView<'_, Self::Sum>
    where
        Self: Element;

    #[doc(hidden)]
    fn output(view: ViewMut<'_, Self>) -> FloatViewMut<'_, Self::Sum>
    where
        Self: Element;
}

/// What the kernels do with elements.
pub trait Load: Copy {
    /// The first `LANES`; zero where there are fewer.
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::Vector;
}

/// What the kernels do with elements that results may be.
pub trait Store: Load {
    /// Writes as many of the lanes as fit, each [rounded](Float::from_f32).
    fn store<S: Simd>(simd: S, x: S::Vector, to: &mut [Self]);

    /// The nearest one, of two the even one.
    fn nearest<E: Scalar>(x: E) -> Self;
}

impl Element for i8 {
    type Sum = f32;
}

impl Sealed for i8 {
    fn store<'a>(numbers: View<'a, Self>, scales: Option<View<'a, f32>>) -> store::Store<'a, f32> {
        store::Store::I8(numbers, scales)
    }

    fn convert(row: &[f32], to: &mut [Self], scales: &mut [f32]) {
        quantize_row(row, to, scales);
    }
}

impl Load for i8 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::Vector {
        simd.load_i8(from)
    }
}

#[cfg(feature = "half")]
pub(crate) use half::bf16 as Bf16;

/// Takes the place of `bf16`, and as much room, where there is none.
#[cfg(not(feature = "half"))]
#[derive(Clone, Copy)]
pub struct Bf16(core::convert::Infallible, u16);

#[cfg(not(feature = "half"))]
impl Bf16 {
    pub(crate) const fn to_bits(self) -> u16 {
        self.1
    }
}

macro_rules! float {
    ($type:ident, $sum:ident, $variant:ident, [$load:ident, $store:ident], $from_f32:expr, $to_f32:expr, $nearest:expr) => {
        impl Element for $type {
            type Sum = $sum;
        }

        impl Float for $type {
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $from_f32(x)
            }

            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }
        }

        impl Sealed for $type {
            fn store<'a>(numbers: View<'a, Self>, _: Option<View<'a, f32>>) -> store::Store<'a, $sum> {
                store::Store::Floats(Self::view(numbers))
            }

            fn convert(row: &[$sum], to: &mut [Self], _: &mut [f32]) {
                to.iter_mut().zip(row).for_each(|(to, x)| *to = Self::nearest(*x));
            }
        }

        impl Load for $type {
            #[inline(always)]
            fn load<S: Simd>(simd: S, from: &[Self]) -> S::Vector {
                simd.$load(from)
            }
        }

        impl Store for $type {
            #[inline(always)]
            fn store<S: Simd>(simd: S, x: S::Vector, to: &mut [Self]) {
                simd.$store(x, to);
            }

            #[inline(always)]
            fn nearest<E: Scalar>(x: E) -> Self {
                $nearest(x)
            }
        }

        impl Erase for $type {
            fn view(view: View<'_, Self>) -> FloatView<'_, $sum> {
                FloatView::$variant(view)
            }

            fn output(view: ViewMut<'_, Self>) -> FloatViewMut<'_, $sum> {
                FloatViewMut::$variant(view)
            }
        }
    };
}
float!(f32, f32, Scalars, [load_f32, store_f32], |x| x, |x| x, E::to_f32);
float!(f64, f64, Scalars, [load_f64, store_f64], f64::from, |x| x as f32, E::into);
#[cfg(feature = "half")]
float!(f16, f32, F16, [load_f16, store_f16], f16::from_f32, f16::to_f32, |x: E| f16::from_f32(x.to_f32()));
#[cfg(feature = "half")]
float!(bf16, f32, Bf16, [load_bf16, store_bf16], bf16::from_f32, bf16::to_f32, |x: E| bf16::from_f32(x.to_f32()));

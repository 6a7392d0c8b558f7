//! What register tiles sum up.

use core::{hint::black_box, marker::PhantomData};

use super::{
    function::{Dot, Score},
    lanes::InLanes,
};
use crate::{
    scalar::Scalar,
    simd::{Pairs, Simd, Task},
    view::Pair,
};

/// What is made of a vector of one factor and a number, or a pair of numbers, of the other.
pub(crate) trait Product<S: Simd>: Copy {
    /// What is read of the factor that is not in lanes.
    type Element: Copy;

    /// Whether [`add`](Self::add) is one instruction, for whose result the next one waits.
    const IS_ONE_INSTRUCTION: bool;

    fn simd(&self) -> S;

    /// Runs `task`, compiled for the instructions that this takes.
    #[inline(always)]
    fn call<T: Task>(&self, task: T) -> T::Output {
        self.simd().call(task)
    }

    /// One element in all lanes.
    fn splat(&self, element: Self::Element) -> S::Vector;

    /// Adds what number `t` of a sum is.
    fn add(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, t: usize) -> S::Vector;

    /// As [`add`](Self::add), but where the factor in lanes is a negative mark.
    fn add_unmarked(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, t: usize) -> S::Vector;

    /// What sums are yet to be multiplied with.
    fn factor(&self) -> Option<S::Scalar>;
}

/// A score function on some backend, of queries with numbers of some type that scalars have all of.
#[derive(Clone, Copy)]
pub(crate) struct Function<'a, S: Simd, F, T = <S as Simd>::Scalar> {
    pub(crate) simd: S,
    pub(crate) score: &'a F,
    /// What becomes of its sums, where it is not linear.
    pub(crate) factor: S::Scalar,
    of: PhantomData<T>,
}

impl<'a, S: Simd, F, T> Function<'a, S, F, T> {
    #[inline(always)]
    pub(crate) const fn new(simd: S, score: &'a F, factor: S::Scalar) -> Self {
        Self { simd, score, factor, of: PhantomData }
    }
}

impl<S: Simd, T> Function<'_, S, Dot, T> {
    /// The plain product of two matrices.
    #[inline(always)]
    pub(crate) const fn dot(simd: S) -> Self {
        Self::new(simd, &Dot, S::Scalar::ONE)
    }
}

impl<S: Simd, F: Score, T: Copy + Into<S::Scalar>> Product<S> for Function<'_, S, F, T> {
    type Element = T;

    const IS_ONE_INSTRUCTION: bool = F::IS_DOT.0;

    #[inline(always)]
    fn simd(&self) -> S {
        self.simd
    }

    #[inline(always)]
    fn splat(&self, element: T) -> S::Vector {
        self.simd.broadcast(element.into())
    }

    #[inline(always)]
    fn add(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, t: usize) -> S::Vector {
        let lanes = |x| InLanes(self.simd, x);
        self.score.add(lanes(sum), lanes(in_lanes), lanes(other), t).1
    }

    #[inline(always)]
    fn add_unmarked(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, t: usize) -> S::Vector {
        // This is rare: constants in vectors would take registers from the other loops.
        let is_marked = self.simd.less(in_lanes, self.simd.splat(black_box(0.0)));
        self.simd.select(is_marked, sum, self.add(sum, in_lanes, other, t))
    }

    #[inline(always)]
    fn factor(&self) -> Option<S::Scalar> {
        (!F::LINEAR).then_some(self.factor)
    }
}

/// Dot products of pairs of `bf16` numbers.
#[derive(Clone, Copy)]
pub(crate) struct PairDot<S: Simd> {
    pub(crate) simd: S,
    pub(crate) pairs: S::Bf16Pairs,
    /// What becomes of its sums, if it is not left to the softmax.
    pub(crate) factor: Option<S::Scalar>,
}

impl<S: Simd> Product<S> for PairDot<S> {
    type Element = Pair;

    const IS_ONE_INSTRUCTION: bool = true;

    #[inline(always)]
    fn simd(&self) -> S {
        self.simd
    }

    #[inline(always)]
    fn call<T: Task>(&self, task: T) -> T::Output {
        self.pairs.call(task)
    }

    #[inline(always)]
    fn splat(&self, [first, second]: Pair) -> S::Vector {
        self.simd.splat(f32::from_bits(u32::from(first) | u32::from(second) << 16))
    }

    #[inline(always)]
    fn add(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, _: usize) -> S::Vector {
        self.pairs.dot(in_lanes, other, sum)
    }

    #[inline(always)]
    fn add_unmarked(&self, sum: S::Vector, in_lanes: S::Vector, other: S::Vector, t: usize) -> S::Vector {
        let Self { simd, pairs, .. } = *self;
        let ([a0, a1], [b0, b1]) = (pairs.split(in_lanes), pairs.split(other));
        // Of a mark, -1, the sign is set and the largest bit of the exponent is not; of no weight, NaN included.
        let unless_marked = |sum, a, b, sign| {
            // Rare, too.
            let (with, sign) = (self.add(sum, a, b, t), black_box(sign));
            simd.select(simd.has_bit(a, sign), simd.select(simd.has_bit(a, sign - 1), with, sum), with)
        };
        unless_marked(unless_marked(sum, a1, b1, 31), a0, b0, 15)
    }

    #[inline(always)]
    fn factor(&self) -> Option<S::Scalar> {
        self.factor
    }
}

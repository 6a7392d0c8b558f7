//! Numbers that become pairs of 16 bits, or digits of such: queries, and weights.

use core::slice::from_ref;

use super::sums::Weights;
use crate::{
    scalar::Scalar,
    scratch::{elements, elements_mut},
    simd::{Joins, Simd, Task},
    softmax::FewScores,
    view::Walk,
};

/// What was done to rows of numbers for them to become pairs.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<E> {
    /// What sums are to be multiplied with, for each row.
    pub(crate) factors: [E; 16],
    /// A bit for each row of which integers would not do: infinite, NaN, or of a magnitude far from 1. Its pairs are zeros.
    pub(crate) exact: u32,
}

impl<E: Scalar> Rounded<E> {
    /// Nothing.
    pub(crate) const NOT: Self = Self { factors: [E::ONE; 16], exact: 0 };

    /// Numbers of the rows that are to be computed with as they are.
    #[inline(always)]
    pub(super) fn exact_rows(self) -> impl Iterator<Item = usize> {
        (0..(u32::BITS - self.exact.leading_zeros()) as usize).filter(move |i| self.exact >> i & 1 == 1)
    }
}

/// Vectors of rows, four of which belong together.
pub(super) struct Grid<V> {
    vectors: V,
    /// From four rows to the next four, from one of them to the next, and from a row's vector to the next.
    strides: [usize; 3],
}

impl<V> Grid<V> {
    #[inline(always)]
    fn index(&self, i: usize, v: usize) -> usize {
        i / 4 * self.strides[0] + i % 4 * self.strides[1] + v * self.strides[2]
    }
}

/// Which numbers, and so how their vectors lie.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    /// Four queries after each other, one vector of each after the other.
    OfQueries,
    /// One query after the other.
    OfWeights,
}

impl Numbers {
    /// Those of so many rows and vectors, `in_lane` of which share one, each of so many digits, which are as rows of their own.
    #[inline(always)]
    const fn strides<S: Simd>(self, [rows, vectors]: [usize; 2], in_lane: usize, digits: usize) -> [usize; 3] {
        match self {
            Self::OfQueries => {
                let at_once = if rows < 4 { rows * digits } else { 4 };
                [at_once * vectors.div_ceil(in_lane), 1, at_once]
            }
            Self::OfWeights => {
                let of_query = Weights::<S>::stride(in_lane) / S::LANES;
                [4 * of_query, of_query, 1]
            }
        }
    }

    /// As they are.
    #[inline(always)]
    pub(super) const fn grid<S: Simd>(self, size: [usize; 2], vectors: &[S::Vector]) -> Grid<&[S::Vector]> {
        Grid { vectors, strides: self.strides::<S>(size, 1, 1) }
    }
}

/// Some rows of so many vectors become an `N`-th as many, each of so many digits.
pub(super) struct Round<'t, S: Simd, J, const N: usize, const DIGITS: usize> {
    simd: S,
    joins: J,
    from: Grid<&'t [S::Vector]>,
    rows: usize,
    vectors: usize,
    to: Grid<&'t mut [S::Vector]>,
}

impl<'t, S: Simd, J: Joins<S, N, DIGITS>, const N: usize, const DIGITS: usize> Round<'t, S, J, N, DIGITS> {
    #[inline(always)]
    pub(super) const fn new(
        simd: S,
        joins: J,
        numbers: Numbers,
        size: [usize; 2],
        from: &'t [S::Vector],
        to: &'t mut [S::Vector],
    ) -> Self {
        let to = Grid { vectors: to, strides: numbers.strides::<S>(size, N, DIGITS) };
        let [rows, vectors] = size;
        Self { simd, joins, from: numbers.grid::<S>(size, from), rows, vectors, to }
    }
}

impl<S: Simd, J: Joins<S, N, DIGITS>, const N: usize, const DIGITS: usize> Task for Round<'_, S, J, N, DIGITS> {
    type Output = Rounded<S::Scalar>;

    #[inline(always)]
    fn run(mut self) -> Rounded<S::Scalar> {
        let mut rounded = Rounded::NOT;
        for first in (0..self.rows).step_by(4) {
            let largest = if J::LARGEST.is_some() { self.largest_of_four(first) } else { [S::Scalar::ONE; 4] };
            for (i, largest) in (first..self.rows).zip(largest) {
                let factors = J::LARGEST.map_or(Some([S::Scalar::ONE; 2]), |most| fixed_point(largest, most.into()));
                self.round(i, factors.map(|[factor, _]| factor));
                let back = factors.map_or(S::Scalar::ONE, |[_, back]| back);
                rounded.factors.iter_mut().skip(i).take(1).for_each(|factor| *factor = back);
                rounded.exact |= u32::from(factors.is_none()) << (i % 16);
            }
        }
        rounded
    }
}

impl<S: Simd, J: Joins<S, N, DIGITS>, const N: usize, const DIGITS: usize> Round<'_, S, J, N, DIGITS> {
    #[inline(always)]
    fn get(&self, i: usize, v: usize) -> S::Vector {
        let vector = if v < self.vectors { self.from.vectors.get(self.from.index(i, v)) } else { None };
        vector.copied().unwrap_or(self.simd.splat(0.0))
    }

    /// The largest magnitudes of row `first` and the next ones, or NaN where not all are finite.
    #[inline(always)]
    fn largest_of_four(&self, first: usize) -> [S::Scalar; 4] {
        if self.rows > 1 {
            let (mut largest, zeros) = self.sizes(self.vectors, |i, v| [first + i, v]);
            largest.iter_mut().zip(zeros).for_each(|(largest, zero)| *largest = *largest + zero);
            return largest;
        }
        // As if it were four rows.
        let (largest, zeros) = self.sizes(self.vectors.div_ceil(4), |i, v| [first, 4 * v + i]);
        let largest = largest.into_iter().fold(S::Scalar::ZERO, |a, b| if a < b { b } else { a });
        [zeros.into_iter().fold(largest, |sum, zero| sum + zero); 4]
    }

    /// The largest magnitudes of four rows of so many vectors, each of which is in a place of its own, and a sum of zeros that is none where not all are finite.
    #[inline(always)]
    fn sizes(&self, vectors: usize, place: impl Fn(usize, usize) -> [usize; 2]) -> ([S::Scalar; 4], [S::Scalar; 4]) {
        let (simd, zero) = (self.simd, self.simd.splat(0.0));
        let (mut largest, mut zeros) = ([zero; 4], [zero; 4]);
        for v in 0..vectors {
            for i in 0..4 {
                let [row, vector] = place(i, v);
                let x = self.get(row, vector);
                largest[i] = simd.max(largest[i], simd.max(x, simd.sub(zero, x)));
                zeros[i] = simd.mul_add(x, zero, zeros[i]);
            }
        }
        (simd.max_each(largest), simd.sum_each(zeros))
    }

    /// Writes a row, times a factor; zeros where there is none.
    #[inline(always)]
    fn round(&mut self, i: usize, factor: Option<S::Scalar>) {
        let (simd, by) = (self.simd, self.simd.broadcast(factor.unwrap_or_default()));
        for v in 0..self.vectors.div_ceil(N) {
            let mut numbers = [simd.splat(0.0); N];
            if factor.is_some() {
                for (n, number) in numbers.iter_mut().enumerate() {
                    *number = simd.mul(self.get(i, N * v + n), by);
                }
            }
            for (digit, vector) in self.joins.join(numbers).into_iter().enumerate() {
                let index = self.to.index(i * DIGITS + digit, v);
                if let Some(to) = self.to.vectors.get_mut(index) {
                    *to = vector;
                }
            }
        }
    }
}

/// What makes numbers integers up to `most`, where the largest has this magnitude, and what makes them themselves again.
#[inline(always)]
fn fixed_point<E: Scalar>(largest: E, most: E) -> Option<[E; 2]> {
    /// 2^100
    const FAR: f32 = f32::from_bits((127 + 100) << 23);
    match largest {
        largest if largest == E::ZERO => Some([largest; 2]),
        largest if largest > E::from(1.0 / FAR) && largest < E::from(FAR) => Some([most / largest, largest / most]),
        _ => None,
    }
}

/// The scores of a query with some keys, as scalars.
pub(super) struct ExactScores<'t, 's, S: Simd> {
    /// `[vector of elements]`, from one to the next so many.
    pub(super) query: Grid<&'t [S::Vector]>,
    pub(super) i: usize,
    /// As many as scores, or more.
    pub(super) keys: Walk<'t, i8>,
    pub(super) scores: &'t mut FewScores<'s, S>,
}

impl<S: Simd> Task for ExactScores<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { query, i, mut keys, scores } = self;
        for j in 0..scores.len {
            // SAFETY: there are as many keys.
            let key = unsafe { keys.next_row() };
            let mut sum = S::Scalar::ZERO;
            for (v, key) in key.chunks(S::LANES).enumerate() {
                let vector = query.vectors.get(query.index(i, v)).map_or(&[][..], |of| elements::<S>(from_ref(of)));
                sum = vector.iter().zip(key).fold(sum, |sum, (x, y)| sum + *x * S::Scalar::from(f32::from(*y)));
            }
            scores.set_one(i, j, sum);
        }
    }
}

/// Adds weighted values to the sums of a query, as scalars.
pub(super) struct ExactSums<'t, S: Simd> {
    pub(super) weights: &'t [S::Scalar],
    /// As many rows as weights, or more.
    pub(super) values: Walk<'t, i8>,
    /// The query's.
    pub(super) output: &'t mut [S::Vector],
}

impl<S: Simd> Task for ExactSums<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { weights, mut values, output } = self;
        let output = elements_mut::<S>(output);
        for weight in weights {
            // SAFETY: there are as many rows.
            let row = unsafe { values.next_row() };
            output.iter_mut().zip(row).for_each(|(sum, x)| *sum = *sum + *weight * S::Scalar::from(f32::from(*x)));
        }
    }
}

//! What is made of rows as memory has them, with elements of a key or columns of values in lanes.

use core::marker::PhantomData;

use super::{
    dots::dots,
    sums::{Weights, accumulate},
};
use crate::{
    element::Load,
    floats::FloatStrip,
    kernel::{has_i8_pairs, key_tile::RawRows},
    scalar::Scalar,
    simd::{Fours, Pairs, Simd, Task},
    softmax::FewScores,
    store::{Strips, with_elements},
    view::Strip,
};

/// Products of queries with keys, and of weights with values, of which `N` elements share a lane; `N` rows of values are taken together.
pub(super) trait RowProduct<S: Simd, const N: usize>: Copy {
    type Element: Copy;

    /// Whether there are such rows: of `f64` where it is computed in that, and no bytes one by one where they are multiplied in pairs.
    const EXISTS: bool = {
        let [scalar, element] = [size_of::<S::Scalar>(), size_of::<Self::Element>()];
        (scalar == size_of::<f32>() || element == scalar) && !(N == 1 && element == 1 && has_i8_pairs::<S>())
    };

    /// Digits of numbers of queries, and of weights. Each is multiplied as if it were a query of its own; those of one query only, if there are several.
    const DIGITS: usize = 1;

    /// Whether elements are multiplied as memory has them, not converted.
    const AS_STORED: bool = N * size_of::<Self::Element>() == size_of::<S::Scalar>();

    /// Whether there are weights that are marks.
    const HAS_MARKS: bool;

    fn simd(self) -> S;

    /// Runs `task`, compiled for the instructions that this takes.
    fn call<T: Task>(self, task: T) -> T::Output;

    /// The first `N * LANES` elements of a row; zero where there are fewer.
    fn load(self, row: &[Self::Element]) -> S::Vector;

    /// `sum + a * b`
    fn add(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector;

    /// A sum, less what a row of zeros is multiplied to.
    #[inline(always)]
    fn less_zeros(self, sum: S::Vector, _: S::Vector) -> S::Vector {
        sum
    }

    /// What sums with a digit, and with the next one, come to.
    #[inline(always)]
    fn carry(self, _: S::Vector, low: S::Vector) -> S::Vector {
        low
    }

    /// The sum of all lanes of each.
    fn sum_each(self, sums: [S::Vector; 4]) -> [S::Scalar; 4];

    /// The sum of all lanes, in each of them; of digits alone.
    #[inline(always)]
    fn spread(self, sums: S::Vector) -> S::Vector {
        sums
    }

    /// The first `N * LANES` elements of a row of values, for [`columns`](Self::columns); zero where there are fewer.
    fn load_columns(self, row: &[Self::Element]) -> S::Vector;

    /// Elements of some rows, those of a column in one lane.
    fn columns(self, rows: [S::Vector; N]) -> [S::Vector; N];

    /// As [`add`](Self::add), but where a weight is a negative mark.
    fn add_unmarked(self, columns: [S::Vector; N], weights: S::Scalar, sums: [S::Vector; N]) -> [S::Vector; N];

    /// Sums as scalars, in the order of the columns, times `factor` if they are sums of integers.
    fn in_order(self, sums: [S::Vector; N], factor: S::Scalar) -> [S::Vector; N];
}

/// Of elements that become scalars, each in a lane of its own.
pub(super) struct Single<S, T>(S, PhantomData<T>);

impl<S: Simd, T> Single<S, T> {
    /// For the elements of these rows.
    #[inline(always)]
    pub(super) const fn of(simd: S, _: &Strip<'_, T>) -> Self {
        Self(simd, PhantomData)
    }
}

impl<S: Copy, T> Clone for Single<S, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Copy, T> Copy for Single<S, T> {}

impl<S: Simd, T: Load> RowProduct<S, 1> for Single<S, T> {
    type Element = T;

    const HAS_MARKS: bool = true;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }

    #[inline(always)]
    fn call<U: Task>(self, task: U) -> U::Output {
        self.0.call(task)
    }

    #[inline(always)]
    fn load(self, row: &[T]) -> S::Vector {
        T::load(self.0, row)
    }

    #[inline(always)]
    fn add(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        self.0.mul_add(a, b, sum)
    }

    #[inline(always)]
    fn sum_each(self, sums: [S::Vector; 4]) -> [S::Scalar; 4] {
        self.0.sum_each(sums)
    }

    #[inline(always)]
    fn load_columns(self, row: &[T]) -> S::Vector {
        self.load(row)
    }

    #[inline(always)]
    fn columns(self, rows: [S::Vector; 1]) -> [S::Vector; 1] {
        rows
    }

    #[inline(always)]
    fn add_unmarked(self, [column]: [S::Vector; 1], weight: S::Scalar, [sum]: [S::Vector; 1]) -> [S::Vector; 1] {
        [if weight < S::Scalar::ZERO { sum } else { self.add(column, self.0.broadcast(weight), sum) }]
    }

    #[inline(always)]
    fn in_order(self, sums: [S::Vector; 1], _: S::Scalar) -> [S::Vector; 1] {
        sums
    }
}

/// Of 16-bit numbers, two in a lane.
#[derive(Clone, Copy)]
pub(super) struct InPairs<S, P> {
    pub(super) simd: S,
    pub(super) pairs: P,
}

impl<S: Simd, P: Pairs<S>> RowProduct<S, 2> for InPairs<S, P> {
    type Element = P::Number;

    /// Integers are finite.
    const HAS_MARKS: bool = P::LARGEST.is_none();

    #[inline(always)]
    fn simd(self) -> S {
        self.simd
    }

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.pairs.call(task)
    }

    #[inline(always)]
    fn load(self, row: &[P::Number]) -> S::Vector {
        self.pairs.load(row)
    }

    #[inline(always)]
    fn add(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        self.pairs.dot(a, b, sum)
    }

    #[inline(always)]
    fn sum_each(self, sums: [S::Vector; 4]) -> [S::Scalar; 4] {
        self.pairs.sum_each(sums)
    }

    #[inline(always)]
    fn load_columns(self, row: &[P::Number]) -> S::Vector {
        self.pairs.load_raw(row)
    }

    #[inline(always)]
    fn columns(self, rows: [S::Vector; 2]) -> [S::Vector; 2] {
        self.pairs.zip(rows)
    }

    #[inline(always)]
    fn add_unmarked(self, [first, second]: [S::Vector; 2], weights: S::Scalar, sums: [S::Vector; 2]) -> [S::Vector; 2] {
        // Of a mark, -1, the sign is set and the largest bit of the exponent is not; of no weight, NaN included.
        let is_marked = |half: u32| half >> 14 == 0b10;
        let bits = weights.to_word();
        let (of_both, weights) = match [is_marked(bits & 0xffff), is_marked(bits >> 16)] {
            [false, false] => ([first, second], bits),
            [true, true] => return sums,
            [false, true] => ([self.pairs.split(first)[0], self.pairs.split(second)[0]], bits & 0xffff),
            [true, false] => ([self.pairs.split(first)[1], self.pairs.split(second)[1]], bits & !0xffff),
        };
        let (weights, mut sums) = (self.simd.splat(f32::from_bits(weights)), sums);
        for n in 0..2 {
            sums[n] = self.add(of_both[n], weights, sums[n]);
        }
        sums
    }

    #[inline(always)]
    fn in_order(self, sums: [S::Vector; 2], factor: S::Scalar) -> [S::Vector; 2] {
        let mut sums = self.pairs.unzip(sums);
        if P::LARGEST.is_some() {
            for sum in &mut sums {
                *sum = self.simd.mul(*sum, self.simd.broadcast(factor));
            }
        }
        sums
    }
}

/// Of bytes, four in a lane, with numbers of one query.
#[derive(Clone, Copy)]
pub(super) struct InFours<S, F> {
    pub(super) simd: S,
    pub(super) fours: F,
}

/// What there is for rows of so many bytes and as many queries. Products of several take longer in fours than in pairs, as do those of rows that are not whole runs of two vectors.
#[inline(always)]
pub(super) fn fours<S: Simd>(simd: S, count: usize, dim: usize) -> Option<S::I8Fours> {
    if count == 1 && dim.is_multiple_of(2 * 4 * S::LANES) { simd.i8_fours() } else { None }
}

impl<S: Simd, F: Fours<S>> RowProduct<S, 4> for InFours<S, F> {
    type Element = i8;

    const EXISTS: bool = F::LARGEST.is_some();

    const DIGITS: usize = 2;

    const AS_STORED: bool = false;

    const HAS_MARKS: bool = false;

    #[inline(always)]
    fn simd(self) -> S {
        self.simd
    }

    #[inline(always)]
    fn call<T: Task>(self, task: T) -> T::Output {
        self.fours.call(task)
    }

    #[inline(always)]
    fn load(self, row: &[i8]) -> S::Vector {
        self.fours.load(row)
    }

    #[inline(always)]
    fn add(self, a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        self.fours.dot(a, b, sum)
    }

    #[inline(always)]
    fn less_zeros(self, sum: S::Vector, digits: S::Vector) -> S::Vector {
        self.fours.sub(sum, self.add(self.load(&[]), digits, self.simd.splat(0.0)))
    }

    #[inline(always)]
    fn carry(self, high: S::Vector, low: S::Vector) -> S::Vector {
        self.fours.carry(high, low)
    }

    #[inline(always)]
    fn sum_each(self, sums: [S::Vector; 4]) -> [S::Scalar; 4] {
        self.fours.sum_each(sums)
    }

    #[inline(always)]
    fn spread(self, sums: S::Vector) -> S::Vector {
        self.fours.spread(sums)
    }

    #[inline(always)]
    fn load_columns(self, row: &[i8]) -> S::Vector {
        self.load(row)
    }

    #[inline(always)]
    fn columns(self, rows: [S::Vector; 4]) -> [S::Vector; 4] {
        self.fours.zip(rows)
    }

    #[inline(always)]
    fn add_unmarked(self, _: [S::Vector; 4], _: S::Scalar, sums: [S::Vector; 4]) -> [S::Vector; 4] {
        sums
    }

    #[inline(always)]
    fn in_order(self, sums: [S::Vector; 4], factor: S::Scalar) -> [S::Vector; 4] {
        let mut sums = self.fours.unzip(sums);
        for sum in &mut sums {
            *sum = self.simd.mul(*sum, self.simd.broadcast(factor));
        }
        sums
    }
}

/// `$body` with `$product` bound to what is made of some rows for so many queries, and `$strip` to them.
macro_rules! with_product {
    ($simd:expr, $in_pairs:expr, $count:expr, $strips:expr, ($product:ident, $strip:ident) => $body:expr) => {
        if !$in_pairs {
            with_elements!($strips, $strip => {
                let $product = Single::of($simd, &$strip);
                $body
            });
        } else if let (Some($strip), Some(pairs)) = ($strips.bf16(), $simd.bf16_pairs()) {
            let $product = InPairs { simd: $simd, pairs };
            $body
        } else if let (Strips::I8($strip, _), Some(fours)) = ($strips, fours($simd, $count, $strips.dim())) {
            let $product = InFours { simd: $simd, fours };
            $body
        } else if let (Strips::I8($strip, _), Some(pairs)) = ($strips, $simd.i8_pairs()) {
            let $product = InPairs { simd: $simd, pairs };
            $body
        }
    };
}

/// Scores of queries with keys: one number or pair of numbers of each query, `[vector of elements][query]`, with as much of a key.
#[inline(always)]
pub(crate) fn multiply_keys<S: Simd>(
    queries: &[S::Vector],
    in_pairs: bool,
    keys: RawRows<'_, S::Scalar>,
    scores: &mut FewScores<'_, S>,
) {
    let simd = scores.simd;
    let count = scores.count;
    with_product!(simd, in_pairs, count, keys.strips, (product, strip) => dots(product, queries, strip, keys.first, scores));
}

/// Adds weighted values to sums of columns, `[query][column]`.
#[inline(always)]
pub(crate) fn add_values<S: Simd>(
    weights: Weights<'_, S>,
    in_pairs: bool,
    values: RawRows<'_, S::Scalar>,
    output: &mut [S::Vector],
) {
    let simd = weights.simd;
    let count = weights.count;
    with_product!(simd, in_pairs, count, values.strips, (product, strip) => accumulate(product, weights, strip, values.first, output));
}

/// [`multiply_keys`] and [`add_values`] as functions of a backend, which are compiled where it is.
macro_rules! products_of_rows {
    ($(#[$inline:meta])?) => {
        $(#[$inline])?
        fn multiply_keys(
            self,
            queries: &[Self::Vector],
            in_pairs: bool,
            keys: $crate::kernel::RawRows<'_, Self::Scalar>,
            scores: &mut $crate::softmax::FewScores<'_, Self>,
        ) {
            $crate::kernel::multiply_keys(queries, in_pairs, keys, scores);
        }

        $(#[$inline])?
        fn add_values(
            self,
            weights: $crate::kernel::Weights<'_, Self>,
            in_pairs: bool,
            values: $crate::kernel::RawRows<'_, Self::Scalar>,
            output: &mut [Self::Vector],
        ) {
            $crate::kernel::add_values(weights, in_pairs, values, output);
        }
    };
}
pub(crate) use products_of_rows;

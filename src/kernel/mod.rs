//! The fused loops, and the register tile that both of their products are computed with.

mod ahead;
mod block;
mod edges;
mod few;
mod key_tile;
pub(crate) mod matrices;
mod pairs;
pub(crate) mod prefill;
pub(crate) mod reach;
mod score_matrix;
pub(crate) mod transpose;

pub(crate) use self::{
    ahead::Ahead,
    few::{Weights, add_values, multiply_keys, products_of_rows},
    key_tile::RawRows,
};

use core::num::NonZeroUsize;

use crate::{
    scalar::Scalar,
    score::{function::Score, product::Product},
    simd::{Bf16Pairs, CACHE_LINE, Joins, Matrices, Simd, prefetch},
};

/// What a backend has to multiply matrices of `bf16`.
pub(crate) type MatricesOf<S> = <<S as Simd>::Bf16Pairs as Bf16Pairs<S>>::Matrices;

/// Whether products may be of pairs: with many queries, of whole matrices of them, and with few.
#[derive(Clone, Copy)]
pub(crate) struct HasPairs {
    pub(crate) many: bool,
    pub(crate) matrices: bool,
    pub(crate) few: bool,
}

/// How the products of a block are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// With queries in lanes.
    Many,
    /// With queries in lanes, of two elements at a time.
    ManyInPairs,
    /// So, of a matrix at a time.
    ManyInMatrices,
    /// With keys and columns of values in lanes; sums have the order that they have for many queries.
    FewInOrder,
    /// With elements of keys and columns of values in lanes, as memory is read fastest.
    Few,
    /// So, of two elements and of two rows of values at a time.
    FewInPairs,
}

impl Products {
    /// For queries in a block of `cols` vectors: those for few where they do not fill a vector's lanes by far. In order, sums are to be what they
    /// are for whatever number of queries.
    pub(crate) const fn new<F: Score>(cols: usize, are_few: bool, in_order: bool, has_pairs: HasPairs) -> Self {
        match (cols > 1 || !are_few, in_order || !Self::may_be_of_rows::<F>()) {
            (true, false) if has_pairs.matrices => Self::ManyInMatrices,
            (true, false) if has_pairs.many => Self::ManyInPairs,
            (true, _) => Self::Many,
            (false, true) => Self::FewInOrder,
            (false, false) if has_pairs.few => Self::FewInPairs,
            (false, false) => Self::Few,
        }
    }

    /// Whether rows can be multiplied as memory has them.
    pub(crate) const fn may_be_of_rows<F: Score>() -> bool {
        F::IS_DOT.0 && F::LINEAR
    }

    pub(crate) const fn are_for_few(self) -> bool {
        self.are_of_rows() || matches!(self, Self::FewInOrder)
    }

    /// Whether rows are multiplied as memory has them.
    pub(crate) const fn are_of_rows(self) -> bool {
        matches!(self, Self::Few | Self::FewInPairs)
    }

    /// Whether bytes that have one scale a row are multiplied as they are: in pairs where there are such instructions, else one by one.
    #[inline(always)]
    pub(crate) const fn take_bytes<S: Simd>(self) -> bool {
        match self {
            Self::FewInPairs => true,
            Self::Few => !has_i8_pairs::<S>(),
            _ => false,
        }
    }

    /// Whether queries come to them as they are.
    pub(crate) const fn are_in_pairs(self) -> bool {
        self.are_many_in_pairs() || matches!(self, Self::FewInPairs)
    }

    /// Whether queries in lanes, weights and values become pairs.
    pub(crate) const fn are_many_in_pairs(self) -> bool {
        matches!(self, Self::ManyInPairs | Self::ManyInMatrices)
    }

    /// The instructions for pairs of many queries, where those are what is computed with.
    #[inline(always)]
    pub(crate) fn pairs<S: Simd>(self, simd: S) -> Option<S::Bf16Pairs> {
        if self.are_many_in_pairs() { simd.bf16_pairs() } else { None }
    }

    /// The unit for matrices, likewise.
    #[inline(always)]
    pub(crate) fn matrices<S: Simd>(self, simd: S) -> Option<MatricesOf<S>> {
        if self == Self::ManyInMatrices { simd.bf16_pairs()?.matrices() } else { None }
    }

    /// Keys that are multiplied with values at once: those of a tile that a block does not see have weights of zero.
    #[inline(always)]
    pub(crate) const fn keys_in_one<S: Simd>(self) -> NonZeroUsize {
        let keys = match self {
            Self::ManyInPairs => 2,
            Self::ManyInMatrices => 2 * MatricesOf::<S>::ROWS,
            _ => 1,
        };
        NonZeroUsize::MIN.saturating_add(keys - 1)
    }

    /// Where tiles of keys may begin: at multiples of this.
    #[inline(always)]
    pub(crate) const fn key_tile<S: Simd>(self) -> NonZeroUsize {
        let keys = if self.are_many_in_pairs() { S::Bf16Pairs::KEY_TILE } else { S::KEY_TILE };
        NonZeroUsize::MIN.saturating_add(keys - 1)
    }
}

/// Whether all lanes are: those of a sum of numbers times zero are not where one of the numbers was infinite or NaN.
#[inline(always)]
fn is_zero<S: Simd>(simd: S, sum: S::Vector) -> bool {
    let mut lanes = [S::Scalar::ZERO; 16];
    simd.store(sum, &mut lanes);
    lanes == [S::Scalar::ZERO; 16]
}

/// Whether a backend multiplies pairs of integers.
pub(crate) const fn has_i8_pairs<S: Simd>() -> bool {
    <S::I8Pairs as Joins<S, 2, 1>>::LARGEST.is_some()
}

/// Which `N` neighbouring vectors of queries, of those that a block has, are meant: all of them, or one of its own.
#[derive(Clone, Copy)]
pub struct Columns<const N: usize>(usize);

impl<const N: usize> Columns<N> {
    #[inline(always)]
    pub(crate) const fn new(first: usize) -> Self {
        Self(first)
    }

    #[inline(always)]
    pub(crate) const fn first(self) -> usize {
        self.0
    }

    /// Those of a row of `COLS`; its last `N` at the utmost, and none of a row that has fewer.
    #[inline(always)]
    pub(crate) fn of<T, const COLS: usize>(self, row: &[T; COLS]) -> Option<&[T; N]> {
        row.get(self.start::<COLS>()..)?.first_chunk()
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(crate) fn of_mut<T, const COLS: usize>(self, row: &mut [T; COLS]) -> Option<&mut [T; N]> {
        row.get_mut(self.start::<COLS>()..)?.first_chunk_mut()
    }

    #[inline(always)]
    const fn start<const COLS: usize>(self) -> usize {
        let last = COLS.saturating_sub(N);
        if self.0 < last { self.0 } else { last }
    }
}

/// `sum[i][c] += left(i, t) * right[t][c]` for each `t`, or what else `product` makes of the two: a register tile of a matrix product whose
/// left factor is read one element at a time, in whatever order it lies in memory. `prefetch(t)` may fetch what later steps will read: streams as
/// short as a row of keys are over before a CPU has noticed them by itself.
#[inline(always)]
pub(crate) fn multiply<S: Simd, P: Product<S>, const ROWS: usize, const N: usize, const COLS: usize>(
    product: P,
    columns: Columns<N>,
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> P::Element,
    prefetch: impl Fn(usize),
) -> [[S::Vector; N]; ROWS] {
    let mut sum = [[product.simd().splat(0.0); N]; ROWS];
    add_rows(product, &mut sum, columns, right.iter().enumerate(), left, prefetch);
    sum
}

#[inline(always)]
fn add_rows<'r, S: Simd<Vector: 'r>, P: Product<S>, const ROWS: usize, const N: usize, const COLS: usize>(
    product: P,
    sum: &mut [[S::Vector; N]; ROWS],
    columns: Columns<N>,
    right: impl Iterator<Item = (usize, &'r [S::Vector; COLS])>,
    left: impl Fn(usize, usize) -> P::Element,
    prefetch: impl Fn(usize),
) {
    for (t, right) in right {
        prefetch(t);
        let Some(right) = columns.of(right) else { break };
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = product.splat(left(i, t));
            for c in 0..N {
                sum[c] = product.add(sum[c], right[c], left, t);
            }
        }
    }
}

/// For `prefetch` of [`multiply`], where the left factor is rows that lie `stride` apart: asks for each cache line of the next `N` rows while its
/// counterpart is read.
#[inline(always)]
pub(crate) fn prefetch_next_group<T, const N: usize>(rows: &[*const T; N], stride: usize, t: usize) {
    if t.is_multiple_of(const { CACHE_LINE / size_of::<T>() }) {
        for row in rows {
            prefetch(row.wrapping_add(N.wrapping_mul(stride)).wrapping_add(t));
        }
    }
}

/// As [`multiply`], but passing over what of `right` is marked.
#[inline(always)]
pub(crate) fn multiply_unmarked<S: Simd, P: Product<S>, const ROWS: usize, const N: usize, const COLS: usize>(
    product: P,
    columns: Columns<N>,
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> P::Element,
) -> [[S::Vector; N]; ROWS] {
    let mut sum = [[product.simd().splat(0.0); N]; ROWS];
    for (t, right) in right.iter().enumerate() {
        let Some(right) = columns.of(right) else { break };
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = product.splat(left(i, t));
            for c in 0..N {
                sum[c] = product.add_unmarked(sum[c], right[c], left, t);
            }
        }
    }
    sum
}

/// A product that is computed in groups of rows: as many `ROWS` at a time as there are, some `NARROW` (fewer), and the few that are left one by
/// one, so that nothing is computed in vain; or together with some that have been computed before, where that takes less time.
pub(crate) trait Groups<T> {
    /// Vectors that a row has, where it may be computed twice and each is a chain of single instructions.
    const REPEATABLE: Option<usize> = None;

    /// Computes the rows from `first` on.
    fn group<const ROWS: usize>(&mut self, first: usize, rows: &mut [T; ROWS]);

    /// Computes all rows.
    #[inline(always)]
    fn all<const ROWS: usize, const NARROW: usize>(&mut self, rows: &mut [T]) {
        let (wide, narrow) = count::<ROWS, NARROW>(rows.len());
        let left = rows.len() - (wide * ROWS + narrow * NARROW);
        let mut first = 0;
        for rows in rows.as_chunks_mut::<ROWS>().0.iter_mut().take(wide) {
            self.group(first, rows);
            first += ROWS;
        }
        if NARROW != ROWS {
            let rows = rows.get_mut(first..).unwrap_or_default();
            for rows in rows.as_chunks_mut::<NARROW>().0.iter_mut().take(narrow) {
                self.group(first, rows);
                first += NARROW;
            }
        }
        // A row by itself waits for each of its sums.
        let again = Self::REPEATABLE.is_some_and(|vectors| left * LATENCY >= NARROW * vectors);
        if again
            && let Some(first) = rows.len().checked_sub(NARROW)
            && let Some(rows) = rows.last_chunk_mut::<NARROW>()
        {
            return self.group(first, rows);
        }
        for rows in rows.get_mut(first..).unwrap_or_default().as_chunks_mut::<1>().0 {
            self.group(first, rows);
            first += 1;
        }
    }
}

/// Multiply-adds that might have been started while one waits for another.
const LATENCY: usize = 4;

/// How many groups of `ROWS` and of `NARROW` leave the fewest of `n` over.
#[inline(always)]
fn count<const ROWS: usize, const NARROW: usize>(n: usize) -> (usize, usize) {
    if NARROW == ROWS {
        return (n / ROWS, 0);
    }
    let groups = n.div_ceil(ROWS);
    let narrow = (groups * ROWS - n).div_ceil(ROWS - NARROW);
    if narrow <= groups { (groups - narrow, narrow) } else { (0, n / NARROW) }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn groups_leave_few_over() {
        for n in 0..1000 {
            for ((wide, narrow), [rows, fewer], most) in [
                (count::<6, 4>(n), [6, 4], 1),
                (count::<5, 4>(n), [5, 4], 0),
                (count::<3, 2>(n), [3, 2], 0),
                (count::<8, 8>(n), [8, 8], 7),
            ] {
                let covered = wide * rows + narrow * fewer;
                assert!(covered <= n && (n - covered <= most || n < 12), "{n}: {wide}, {narrow}");
            }
        }
    }
}

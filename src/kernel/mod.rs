//! The fused loops, and the register tile that both of their products are computed with.

mod decode;
mod edges;
mod key_tile;
pub(crate) mod prefill;
mod score_matrix;
pub(crate) mod transpose;

use crate::{
    score::{function::Score, lanes::InLanes},
    simd::{CACHE_LINE, Simd, prefetch},
};

/// How the products of a block are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Products {
    /// With queries in lanes.
    Many,
    /// With keys and columns of values in lanes; sums have the order that they have for many queries.
    FewInOrder,
    /// With elements of keys and columns of values in lanes, as memory is read fastest.
    Few,
}

impl Products {
    /// For queries in a block of `cols` vectors: those for few where they do not fill a vector's lanes by far.
    pub(crate) const fn new<F: Score>(cols: usize, are_few: bool, in_order: bool) -> Self {
        match () {
            () if cols > 1 || !are_few => Self::Many,
            () if in_order || !(F::IS_DOT && F::LINEAR) => Self::FewInOrder,
            () => Self::Few,
        }
    }
}

/// Which `N` neighbouring vectors of queries, of those that a block has, are meant: all of them, or one of its own.
#[derive(Clone, Copy)]
pub(crate) struct Columns<const N: usize>(usize);

impl<const N: usize> Columns<N> {
    #[inline(always)]
    pub(crate) const fn new(first: usize) -> Self {
        Self(first)
    }

    #[inline(always)]
    pub(crate) const fn first(self) -> usize {
        self.0
    }

    /// Those of a row of `COLS`; its last `N` at the utmost.
    #[inline(always)]
    pub(crate) const fn of<T, const COLS: usize>(self, row: &[T; COLS]) -> &[T; N] {
        // SAFETY: there are `N` elements from there on.
        unsafe { &*row.as_ptr().add(self.start::<COLS>()).cast() }
    }

    /// Those of a row of `COLS`; its last `N` at the utmost.
    #[inline(always)]
    pub(crate) const fn of_mut<T, const COLS: usize>(self, row: &mut [T; COLS]) -> &mut [T; N] {
        // SAFETY: there are `N` elements from there on, and the row is borrowed mutably.
        unsafe { &mut *row.as_mut_ptr().add(self.start::<COLS>()).cast() }
    }

    /// At most `COLS - N`.
    #[inline(always)]
    const fn start<const COLS: usize>(self) -> usize {
        const { assert!(N <= COLS) };
        if self.0 < COLS - N { self.0 } else { COLS - N }
    }
}

/// `sum[i][c] += left(i, t) * right[t][c]` for each `t`, or what else `score` makes of the two: a register tile of a matrix product whose
/// left factor is read one element at a time, in whatever order it lies in memory. `prefetch(t)` may fetch what later steps will read: streams as
/// short as a row of keys are over before a CPU has noticed them by itself.
#[inline(always)]
pub(crate) fn multiply<S: Simd, F: Score, const ROWS: usize, const N: usize, const COLS: usize>(
    (simd, score): (S, &F),
    columns: Columns<N>,
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> f32,
    prefetch: impl Fn(usize),
) -> [[S::Vector; N]; ROWS] {
    let mut sum = [[simd.splat(0.0); N]; ROWS];
    for (t, right) in right.iter().enumerate() {
        prefetch(t);
        let right = *columns.of(right);
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = InLanes(simd, simd.splat(left(i, t)));
            for c in 0..N {
                sum[c] = score.add(InLanes(simd, sum[c]), InLanes(simd, right[c]), left, t).1;
            }
        }
    }
    sum
}

/// For `prefetch` of [`multiply`], where the left factor is rows that lie `stride` apart: asks for each cache line of the next `N` rows while its
/// counterpart is read.
#[inline(always)]
pub(crate) fn prefetch_next_group<const N: usize>(rows: &[*const f32; N], stride: usize, t: usize) {
    if t.is_multiple_of(CACHE_LINE / size_of::<f32>()) {
        for row in rows {
            prefetch(row.wrapping_add(N * stride + t));
        }
    }
}

/// As [`multiply`], but passing over what of `right` is negative.
#[inline(always)]
pub(crate) fn multiply_unmarked<S: Simd, const ROWS: usize, const N: usize, const COLS: usize>(
    simd: S,
    columns: Columns<N>,
    right: &[[S::Vector; COLS]],
    left: impl Fn(usize, usize) -> f32,
) -> [[S::Vector; N]; ROWS] {
    let zero = simd.splat(0.0);
    let mut sum = [[zero; N]; ROWS];
    for (t, right) in right.iter().enumerate() {
        let right = *columns.of(right);
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = simd.splat(left(i, t));
            for c in 0..N {
                sum[c] = simd.select(simd.less(right[c], zero), sum[c], simd.mul_add(left, right[c], sum[c]));
            }
        }
    }
    sum
}

/// A product that is computed in groups of rows: as many `ROWS` at a time as there are, some `NARROW` (fewer), and the few that are left one by
/// one, so that nothing is computed in vain.
pub(crate) trait Groups<T> {
    /// Computes the rows from `first` on.
    fn group<const ROWS: usize>(&mut self, first: usize, rows: &mut [T; ROWS]);

    /// Computes all rows.
    #[inline(always)]
    fn all<const ROWS: usize, const NARROW: usize>(&mut self, rows: &mut [T]) {
        let (wide, narrow) = count::<ROWS, NARROW>(rows.len());
        let (wide, rest) = rows.split_at_mut_checked(wide * ROWS).unwrap_or_default();
        let (narrow, single) = rest.split_at_mut_checked(narrow * NARROW).unwrap_or_default();
        let mut first = 0;
        for rows in wide.as_chunks_mut::<ROWS>().0 {
            self.group(first, rows);
            first += ROWS;
        }
        if NARROW != ROWS {
            for rows in narrow.as_chunks_mut::<NARROW>().0 {
                self.group(first, rows);
                first += NARROW;
            }
        }
        for rows in single.as_chunks_mut::<1>().0 {
            self.group(first, rows);
            first += 1;
        }
    }
}

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
            for ((wide, narrow), (rows, most)) in
                [(count::<6, 4>(n), (6, 1)), (count::<5, 4>(n), (5, 0)), (count::<8, 8>(n), (8, 7))]
            {
                let covered = wide * rows + narrow * (if rows == 8 { 8 } else { 4 });
                assert!(covered <= n && (n - covered <= most || n < 12), "{n}: {wide}, {narrow}");
            }
        }
    }
}

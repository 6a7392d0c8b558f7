//! Edges of what a block sees by its position, where they run through a tile: not all of its vectors of queries see the same keys.

use core::ops::Range;

use super::{Columns, add_rows};
use crate::{
    pieces::pieces,
    score::{
        band::{Span, hull},
        product::Product,
        tile::Scores,
    },
    simd::Simd,
    weighted_sum::{Accumulate, Sums},
};

/// The register tile, in keys, for one or two vectors of queries of several.
pub(super) const SINGLE: usize = 8;

/// What of a tile each vector of queries sees by its position.
pub(super) struct Sight<const N: usize> {
    /// What any of them sees.
    pub(super) keys: Range<usize>,
    /// Where what each vector sees of that starts.
    starts: [usize; N],
    /// And where it ends.
    ends: [usize; N],
    /// Of each, whether all of its queries see all of that.
    pub(super) are_full: [bool; N],
}

impl<const N: usize> Sight<N> {
    /// `None` where nobody sees any.
    #[inline(always)]
    pub(super) fn new(spans: &[Span; N], tile: &Range<usize>) -> Option<Self> {
        let ranges = spans.iter().map(|span| span.within(tile).0);
        let keys = ranges.filter(|range| !range.is_empty()).reduce(hull)?;
        let (mut starts, mut ends, mut are_full) = ([0; N], [0; N], [true; N]);
        for (((start, end), is_full), span) in starts.iter_mut().zip(&mut ends).zip(&mut are_full).zip(spans) {
            let (range, sees_all) = span.within(tile);
            *is_full = sees_all && range == keys;
            [*start, *end] = [range.start, range.end].map(|key| key.saturating_sub(keys.start).min(keys.len()));
        }
        Some(Self { keys, starts, ends, are_full })
    }

    /// The rows of keys that vector `c` sees, from a multiple of `lanes` on.
    #[inline(always)]
    pub(super) fn rows(&self, c: usize, lanes: usize) -> Range<usize> {
        self.starts[c % N] / lanes * lanes..self.ends[c % N]
    }

    /// In rows of so many keys, with some before the first.
    #[inline(always)]
    pub(super) fn reach(&self, [before, keys]: [usize; 2]) -> Reach<N> {
        let (mut starts, mut ends) = (self.starts, self.ends);
        for (start, end) in starts.iter_mut().zip(&mut ends) {
            (*start, *end) = ((before + *start) / keys, (before + *end).div_ceil(keys));
        }
        Reach { starts, ends }
    }
}

/// [`Scores`] of what vectors of queries reach: of all at once, and of each what is left. Gives the largest of the former.
#[inline(always)]
pub(super) fn scores_within<S: Simd, P: Product<S>, const ROWS: usize, const NARROW: usize, const COLS: usize>(
    reach: &Reach<COLS>,
    mut all: Scores<'_, S, P, ROWS, NARROW, COLS, COLS>,
) -> [S::Vector; COLS] {
    let product = all.product;
    let mut max = [product.simd().splat(f32::NEG_INFINITY); COLS];
    if let Some(scores) = all.part::<ROWS, NARROW, COLS>(reach.of_all(), Columns::new(0)) {
        max = product.call(scores);
    }
    if COLS == 1 || reach.is_even() {
        return max;
    }
    const { assert!(COLS <= 3) };
    for k in 1..COLS {
        for (first, count, rows) in [(0, k, reach.before(k)), (k, COLS - k, reach.behind(k))] {
            if count == 1 {
                if let Some(scores) = all.part::<SINGLE, SINGLE, 1>(rows, Columns::new(first)) {
                    product.call(scores);
                }
            } else if let Some(scores) = all.part::<SINGLE, SINGLE, 2>(rows, Columns::new(first)) {
                product.call(scores);
            }
        }
    }
    max
}

/// [`Accumulate`] of what vectors of queries reach, the first row of which has this number; one [piece](Simd::PIECE) after the other.
#[inline(always)]
pub(super) fn sums_within<S: Simd, P: Product<S>, const ROWS: usize, const NARROW: usize, const COLS: usize>(
    first: usize,
    all: Sums<'_, S, P, COLS>,
    output: &mut [[S::Vector; COLS]],
) {
    let (product, mut rescale) = (all.product, all.rescale);
    for piece in pieces(first, all.weights.len(), S::PIECE) {
        let Some(values) = all.values.range(piece.start, piece.len()) else { return };
        let Some(weights) = all.weights.get(piece.clone()) else { return };
        let sums = Sums { weights, values, rescale, ..all };
        if COLS == 1 || all.reach.is_even() {
            product.call(Accumulate::<_, _, ROWS, NARROW, COLS, false> { sums, output: &mut *output });
        } else {
            let sums = Sums { reach: all.reach.part(&piece), ..sums };
            product.call(Accumulate::<_, _, ROWS, NARROW, COLS, true> { sums, output: &mut *output });
        }
        rescale = Some([product.simd().splat(1.0); COLS]);
    }
}

/// Which rows of a tile each of some vectors of queries sees, none of which starts or ends before an earlier one: those that all see are computed with at
/// once, others by the vectors up to one, or from one on. Few of these see none of them.
#[derive(Clone, Copy)]
pub(crate) struct Reach<const N: usize> {
    starts: [usize; N],
    ends: [usize; N],
}

impl<const N: usize> Reach<N> {
    /// All see all of so many.
    #[inline(always)]
    pub(crate) const fn whole(len: usize) -> Self {
        Self { starts: [0; N], ends: [len; N] }
    }

    /// What of some rows they see, counted from the first of those.
    #[inline(always)]
    pub(crate) fn part(&self, rows: &Range<usize>) -> Self {
        let cut = |row: usize| row.max(rows.start).min(rows.end) - rows.start;
        Self { starts: self.starts.map(cut), ends: self.ends.map(cut) }
    }

    /// Whether they see the same.
    #[inline(always)]
    const fn is_even(&self) -> bool {
        self.starts[0] == self.starts[N - 1] && self.ends[0] == self.ends[N - 1]
    }

    /// Rows that all see, or none of them.
    #[inline(always)]
    pub(crate) fn of_all(&self) -> Range<usize> {
        let start = self.starts[N - 1];
        start..start.max(self.ends[0])
    }

    /// Rows before those, and before any that vector `k` sees: they are for earlier ones, from number 0 on.
    #[inline(always)]
    pub(crate) fn before(&self, k: usize) -> Range<usize> {
        let earlier = (k + N - 1) % N;
        self.starts[earlier]..self.starts[k % N].min(self.ends[earlier])
    }

    /// Rows behind those, and behind any that the vector before number `k` sees: they are for that and later ones.
    #[inline(always)]
    pub(crate) fn behind(&self, k: usize) -> Range<usize> {
        let earlier = (k + N - 1) % N;
        self.of_all().end.max(self.ends[earlier])..self.ends[k % N]
    }
}

/// As [`multiply`](super::multiply) with all columns, but with each vector of them only about as far as it reaches.
#[inline(always)]
pub(crate) fn multiply_within<S: Simd, P: Product<S>, const ROWS: usize, const N: usize>(
    product: P,
    reach: &Reach<N>,
    right: &[[S::Vector; N]],
    left: impl Fn(usize, usize) -> P::Element,
    prefetch: impl Fn(usize),
) -> [[S::Vector; N]; ROWS] {
    const { assert!(N <= 3) };
    let (mut sum, of_all) = ([[product.simd().splat(0.0); N]; ROWS], reach.of_all());
    if N > 1 {
        add_beside::<S, P, ROWS, N, 0, 1>(product, &mut sum, reach.before(1), right, &left);
    }
    if N > 2 {
        add_beside::<S, P, ROWS, N, 0, 2>(product, &mut sum, reach.before(2), right, &left);
    }
    let of_all = (of_all.start..).zip(right.get(of_all).unwrap_or_default());
    add_rows(product, &mut sum, Columns::new(0), of_all, &left, prefetch);
    if N > 1 {
        add_beside::<S, P, ROWS, N, 1, N>(product, &mut sum, reach.behind(1), right, &left);
    }
    if N > 2 {
        add_beside::<S, P, ROWS, N, 2, N>(product, &mut sum, reach.behind(2), right, &left);
    }
    sum
}

/// Adds rows that are for the vectors `START .. END`, known when this is compiled: else the sums could not be in registers.
#[inline(always)]
fn add_beside<S: Simd, P: Product<S>, const ROWS: usize, const N: usize, const START: usize, const END: usize>(
    product: P,
    sum: &mut [[S::Vector; N]; ROWS],
    rows: Range<usize>,
    right: &[[S::Vector; N]],
    left: &impl Fn(usize, usize) -> P::Element,
) {
    for (t, right) in (rows.start..).zip(right.get(rows).unwrap_or_default()) {
        for (i, sum) in sum.iter_mut().enumerate() {
            let left = product.splat(left(i, t));
            for c in START..END {
                sum[c % N] = product.add(sum[c % N], right[c % N], left, t);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::array::from_fn;
    use std::vec::Vec;

    use super::{Reach, Sight};
    use crate::score::band::Span;

    /// Rows that vector `c` is multiplied with.
    fn rows(reach: &Reach<3>, c: usize) -> impl Iterator<Item = usize> {
        let before = (c + 1..3).flat_map(|k| reach.before(k));
        before.chain(reach.of_all()).chain((1..=c).flat_map(|k| reach.behind(k)))
    }

    #[test]
    fn each_vector_reaches_its_rows_once_and_in_order() {
        let triples = || (0..5).flat_map(|a| (a..5).flat_map(move |b| (b..5).map(move |c| [a, b, c])));
        for (starts, ends) in triples().flat_map(|starts| triples().map(move |ends| (starts, ends))) {
            if starts.iter().zip(ends).any(|(start, end)| *start > end) {
                continue;
            }
            let reach = Reach { starts, ends };
            for c in 0..3 {
                let reached = rows(&reach, c).collect::<Vec<_>>();
                assert!(reached.is_sorted_by(|a, b| a < b), "{starts:?} {ends:?} {c}: {reached:?}");
                assert!((starts[c]..ends[c]).all(|row| reached.contains(&row)), "{starts:?} {ends:?} {c}: {reached:?}");
                let is_seen = |row: &usize| (0..3).any(|c| (starts[c]..ends[c]).contains(row));
                assert!(reached.iter().all(is_seen), "{starts:?} {ends:?} {c}: {reached:?}");
                let parts = [0..2, 2..3, 3..5];
                let parts = parts
                    .iter()
                    .flat_map(|part| rows(&reach.part(part), c).map(|row| part.start + row).collect::<Vec<_>>());
                assert!(parts.eq(reached), "{starts:?} {ends:?} {c}, in parts");
            }
        }
    }

    #[test]
    fn what_is_seen_of_a_tile() {
        let span = |some, all| Span { some, all };
        let see = |spans, tile| {
            let each = |sight: &Sight<2>| from_fn(|c| [sight.starts[c], sight.ends[c]]);
            Sight::new(&spans, &tile).map(|sight| (sight.keys.clone(), each(&sight), sight.are_full))
        };
        let spans = [span(2..40, 9..30), span(10..50, 20..40)];
        assert_eq!(see(spans.clone(), 0..8), Some((2..8, [[0, 6], [6, 6]], [false; 2])));
        assert_eq!(see(spans.clone(), 20..30), Some((20..30, [[0, 10]; 2], [true; 2])));
        assert_eq!(see(spans.clone(), 32..64), Some((32..50, [[0, 8], [0, 18]], [false; 2])));
        assert_eq!(see(spans, 50..64), None);
    }
}

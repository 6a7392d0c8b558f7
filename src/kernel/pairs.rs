//! Products of `bf16` numbers by instructions that take two of them at a time, side by side in the 32 bits of a lane.
//!
//! Queries, weights and values are paired here; keys lie in memory as they are wanted.

use core::{
    num::NonZeroUsize,
    ops::Range,
    slice::{from_raw_parts, from_raw_parts_mut},
};

use super::key_tile::each;
use crate::{
    element::Bf16,
    simd::{Bf16Pairs, Pairs, Simd, Task},
    softmax::Softmax,
    view::Strip,
};

/// `rows[i] = (rows[2 i], rows[2 i + 1])` for as many as there are of those, each number rounded.
pub(super) struct PairRows<'t, S: Simd, const COLS: usize> {
    pub(super) pairs: S::Bf16Pairs,
    pub(super) rows: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for PairRows<'_, S, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { pairs, rows } = self;
        for i in 0..rows.len() / 2 {
            let Some([first, second]) = rows.get(2 * i..).and_then(<[_]>::first_chunk) else { return };
            let [first, second] = [*first, *second];
            if let Some(to) = rows.get_mut(i) {
                for c in 0..COLS {
                    to[c] = pairs.pair(first[c], second[c]);
                }
            }
        }
    }
}

/// [`Softmax::update_in_pairs`]
pub(super) struct UpdateInPairs<'t, S: Simd, const COLS: usize> {
    pub(super) pairs: S::Bf16Pairs,
    pub(super) softmax: &'t mut Softmax<S, COLS>,
    pub(super) max: [S::Vector; COLS],
    pub(super) factor: S::Scalar,
    pub(super) scores: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for UpdateInPairs<'_, S, COLS> {
    type Output = [S::Vector; COLS];

    #[inline(always)]
    fn run(self) -> [S::Vector; COLS] {
        self.softmax.update_in_pairs(self.pairs, self.max, self.factor, self.scores)
    }
}

/// Copies rows, two numbers in the place of one scalar, each as long as `row_len` and at least as many as `least`; what there is not, are zeros.
pub(super) struct Gather<'t, 'a, S: Simd> {
    pub(super) simd: S,
    pub(super) pairs: S::Bf16Pairs,
    pub(super) from: Strip<'a, Bf16>,
    pub(super) rows: Range<usize>,
    pub(super) row_len: NonZeroUsize,
    pub(super) least: usize,
    pub(super) to: &'t mut [S::Scalar],
}

impl<S: Simd> Task for Gather<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, pairs, from, rows, row_len, least, to } = self;
        let (mut walk, mut left) = (from.walk(rows.start), rows.len());
        each(to, row_len.get(), rows.len().max(least), |to| {
            // SAFETY: there are as many rows.
            let row = if left > 0 { unsafe { walk.next_row() } } else { &[] };
            left = left.saturating_sub(1);
            for (i, to) in to.chunks_mut(S::LANES).enumerate() {
                simd.store(pairs.load(row.get(2 * i * S::LANES..).unwrap_or_default()), to);
            }
        });
    }
}

/// `to[i][c] = (rows[2 i][c], rows[2 i + 1][c])`, with zeros for rows that nobody sees.
pub(super) struct PairValues<'t, 'a, S: Simd> {
    pub(super) simd: S,
    pub(super) pairs: S::Bf16Pairs,
    pub(super) from: Strip<'a, Bf16>,
    pub(super) rows: Range<usize>,
    /// How many rows before those nobody sees: one or none.
    pub(super) unseen: usize,
    pub(super) to: &'t mut [S::Scalar],
}

impl<S: Simd> Task for PairValues<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, pairs, from, rows, unseen, to } = self;
        let (mut walk, seen, mut i) = (from.walk(rows.start), unseen..unseen + rows.len(), 0);
        let mut next = || {
            i += 1;
            // SAFETY: there are as many rows.
            if seen.contains(&(i - 1)) { unsafe { walk.next_row() } } else { &[] }
        };
        each(to, from.dim(), seen.end.div_ceil(2), |to| {
            let (first, second) = (next(), next());
            let mut t = 0;
            if first.len() == to.len() && second.len() == to.len() {
                while t + S::LANES <= to.len() {
                    // SAFETY: each of them has these elements. Of vectors known to be whole, no lane is masked off.
                    let load = |row: &[Bf16]| unsafe { from_raw_parts(row.as_ptr().add(t), S::LANES) };
                    // SAFETY: as above.
                    simd.store(pairs.load_both([load(first), load(second)]), unsafe {
                        from_raw_parts_mut(to.as_mut_ptr().add(t), S::LANES)
                    });
                    t += S::LANES;
                }
            }
            while let Some(to @ [_, ..]) = to.get_mut(t..) {
                let (first, second) = (first.get(t..).unwrap_or_default(), second.get(t..).unwrap_or_default());
                simd.store(pairs.load_both([first, second]), to);
                t += S::LANES;
            }
        });
    }
}

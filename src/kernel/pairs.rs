//! Products of `bf16` numbers by instructions that take two of them at a time, side by side in the 32 bits of a lane.
//!
//! Queries, weights and values are paired here; keys lie in memory as they are wanted.

use core::ops::Range;

use super::{Columns, key_tile::each};
use crate::{
    element::Load,
    simd::{Pairs, Simd, Task},
    view::Strip,
};

/// `rows[i] = (rows[2 i], rows[2 i + 1])` for as many as there are of those, each number rounded.
pub(super) struct PairRows<'t, S: Simd, const N: usize, const COLS: usize> {
    pub(super) pairs: S::Pairs,
    pub(super) columns: Columns<N>,
    pub(super) rows: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const N: usize, const COLS: usize> Task for PairRows<'_, S, N, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { pairs, columns, rows } = self;
        for i in 0..rows.len() / 2 {
            let Some([first, second]) = rows.get(2 * i..).and_then(<[_]>::first_chunk) else { return };
            let [first, second] = [*columns.of(first), *columns.of(second)];
            if let Some(to) = rows.get_mut(i) {
                let to = columns.of_mut(to);
                for c in 0..N {
                    to[c] = pairs.pair(first[c], second[c]);
                }
            }
        }
    }
}

/// `to[i][c] = (rows[2 i][c], rows[2 i + 1][c])`, with zeros for rows that nobody sees.
pub(super) struct PairValues<'t, 'a, S: Simd, T> {
    pub(super) simd: S,
    pub(super) pairs: S::Pairs,
    pub(super) from: Strip<'a, T>,
    pub(super) rows: Range<usize>,
    /// How many rows before those nobody sees: one or none.
    pub(super) unseen: usize,
    pub(super) to: &'t mut [f32],
}

impl<S: Simd, T: Load> Task for PairValues<'_, '_, S, T> {
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
            let load = |row: &[T], t| T::load(simd, row.get(t..).unwrap_or_default());
            let mut t = 0;
            while let Some(to @ [_, ..]) = to.get_mut(t..) {
                simd.store(pairs.pair(load(first, t), load(second, t)), to);
                t += S::LANES;
            }
        });
    }
}

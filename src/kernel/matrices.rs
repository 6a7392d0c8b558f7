//! Products of many queries by a unit of the CPU that multiplies matrices of `bf16`: [`Matrices`].
//!
//! Keys are the rows of its left factor where they lie, if there are enough of them and they go evenly; queries and weights are its right factor, in pairs
//! as for [pairs](super::pairs). For the second product the left factor is values with their keys side by side, for which a tile of them is
//! transposed once. What such a unit multiplies at once are as many keys as two of its rows have numbers: so many begin with a multiple of as many, and of those that a
//! block does not see, weights are zero.

use core::{num::NonZeroUsize, ops::Range};

use super::MatricesOf;
use crate::{
    element::Bf16,
    scalar::Scalar,
    simd::{CACHE_LINE, MAX_BLOCKS, Matrices, Simd, Task, prefetch},
    view::{Pair, Rows, Strip, Walker},
};

/// The most blocks that go over the keys together, so that values are transposed for all of them.
pub(crate) const BLOCKS: usize = MAX_BLOCKS;

/// As [`Scores`](crate::score::tile::Scores): `scores[j][query] = factor * queries[..][query] . keys[first + j]`, and the largest.
pub(super) struct MatrixScores<'t, S: Simd, M, const COLS: usize> {
    pub(super) simd: S,
    pub(super) matrices: M,
    /// In pairs, as many rows as those of the keys have.
    pub(super) queries: &'t [[S::Vector; COLS]],
    /// At least as many as the unit takes, and `first` more than scores.
    pub(super) keys: Rows<'t, Pair>,
    pub(super) first: usize,
    pub(super) factor: Option<S::Scalar>,
    pub(super) scores: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, M: Matrices<S>, const COLS: usize> Task for MatrixScores<'_, S, M, COLS> {
    type Output = [S::Vector; COLS];

    #[inline(always)]
    fn run(mut self) -> [S::Vector; COLS] {
        let Self { simd, matrices, queries, keys, first, factor, .. } = self;
        let (scores, mut max) = (core::mem::take(&mut self.scores), [simd.splat(f32::NEG_INFINITY); COLS]);
        for (group, scores) in scores.chunks_mut(2 * M::ROWS).enumerate() {
            let wanted = first + group * 2 * M::ROWS;
            if scores.len() == 2 * M::ROWS
                && let Some(keys) = keys.range(wanted, 2 * M::ROWS)
            {
                matrices.multiply(keys, queries, scores, false);
            } else {
                self.part(wanted, scores);
            }
            for scores in scores {
                for (score, max) in scores.iter_mut().zip(&mut max) {
                    if let Some(factor) = factor {
                        *score = simd.mul(*score, simd.broadcast(factor));
                    }
                    *max = simd.max(*max, *score);
                }
            }
        }
        max
    }
}

impl<S: Simd, M: Matrices<S>, const COLS: usize> MatrixScores<'_, S, M, COLS> {
    /// Fewer scores than are computed at once, with the keys from row `first` on.
    #[inline(always)]
    fn part(&self, first: usize, scores: &mut [[S::Vector; COLS]]) {
        let Self { simd, matrices, queries, keys, .. } = *self;
        for (group, scores) in scores.chunks_mut(M::ROWS).enumerate() {
            // Some that are not wanted come before, where there are not as many behind.
            let wanted = first + group * M::ROWS;
            let row = wanted.min(keys.len().saturating_sub(M::ROWS));
            let (Some(keys), mut room) = (keys.range(row, M::ROWS), [[simd.splat(0.0); COLS]; 16]) else { break };
            matrices.multiply(keys, queries, &mut room, false);
            for (to, from) in scores.iter_mut().zip(room.iter().skip(wanted - row)) {
                *to = *from;
            }
        }
    }
}

/// As [`Accumulate`](crate::weighted_sum::Accumulate): `output[c][query] = output[c][query] * rescale[query] + sum_j values[c][j] * weights[j][query]`.
pub(super) struct MatrixSums<'t, S: Simd, M, const COLS: usize> {
    pub(super) simd: S,
    pub(super) matrices: M,
    /// In pairs of keys.
    pub(super) weights: &'t [[S::Vector; COLS]],
    /// A row for each column of them, of at least as many pairs.
    pub(super) values: Rows<'t, Pair>,
    /// What the sums over earlier tiles are to be multiplied with, if there are any.
    pub(super) rescale: Option<[S::Vector; COLS]>,
    /// As many rows as the values have; a multiple of what the unit takes.
    pub(super) output: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, M: Matrices<S>, const COLS: usize> Task for MatrixSums<'_, S, M, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, matrices, weights, values, rescale, output } = self;
        let moved = rescale.filter(|rescale| have_moved(simd, rescale));
        for (group, output) in output.chunks_mut(2 * M::ROWS).enumerate() {
            if let Some(rescale) = &moved {
                for row in &mut *output {
                    for c in 0..COLS {
                        row[c] = simd.mul(row[c], rescale[c]);
                    }
                }
            }
            let Some(values) = values.range(2 * group * M::ROWS, output.len()) else { break };
            matrices.multiply(values, weights, output, rescale.is_some());
        }
    }
}

/// Whether any maximum has, of those that [move far](crate::softmax::SLACK) if they do: else all factors are 1.
#[inline(always)]
fn have_moved<S: Simd, const COLS: usize>(simd: S, rescale: &[S::Vector; COLS]) -> bool {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let moved = rescale.iter().fold(zero, |moved, factor| {
        let stays = simd.less(simd.splat(0.5), *factor);
        simd.select(stays, moved, one)
    });
    simd.max_each([moved; 4])[0] > S::Scalar::ZERO
}

/// `to[c][j] = rows[j][c]`, with zeros for rows that nobody sees, and on demand for what is not finite.
pub(super) struct TransposeValues<'t, 'a, S: Simd> {
    pub(super) simd: S,
    pub(super) matrices: MatricesOf<S>,
    pub(super) from: Strip<'a, Bf16>,
    pub(super) rows: Range<usize>,
    /// How many rows before those nobody sees.
    pub(super) unseen: usize,
    pub(super) only_finite: bool,
    /// Pairs of rows for which there is room.
    pub(super) row_len: NonZeroUsize,
    pub(super) to: &'t mut [S::Scalar],
}

impl<S: Simd> Task for TransposeValues<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, matrices, from, rows, unseen, only_finite, row_len, to } = self;
        /// Numbers of a cache line.
        const LINE: usize = CACHE_LINE / size_of::<Bf16>();

        let (mut walk, seen) = (from.walk(rows.start), unseen..unseen + rows.len());
        for first_pair in (0..seen.end.div_ceil(2)).step_by(MatricesOf::<S>::ROWS) {
            let (mut rows, mut are_all) = ([&[][..]; 32], !only_finite);
            for (row, i) in rows.iter_mut().zip(2 * first_pair..) {
                if seen.contains(&i) {
                    // SAFETY: there are as many rows.
                    *row = unsafe { walk.next_row() };
                }
                are_all &= row.len() == from.dim();
            }
            let (pointers, whole) = (rows.map(<[_]>::as_ptr), if are_all { from.dim() / 8 * 8 } else { 0 });
            // The next rows are fetched meanwhile, a line of each.
            let (mut walk, mut later) = (walk, pointers);
            later.iter_mut().for_each(|row| *row = walk.next());
            for t in (0..whole).step_by(8) {
                for row in later.iter().skip(t % LINE).take(8) {
                    prefetch(row.wrapping_add(t / LINE * LINE));
                }
                // SAFETY: each row has these elements.
                let columns = unsafe { matrices.columns(&pointers, t) };
                store_columns(simd, &columns, t, row_len, first_pair, to);
            }
            for t in (whole..from.dim()).step_by(8) {
                let room = rows.map(|row| padded(row.get(t..).unwrap_or_default(), only_finite));
                let eights = room.each_ref().map(|eight| eight.as_ptr().cast());
                // SAFETY: each of them has as many elements.
                let columns = unsafe { matrices.columns(&eights, 0) };
                store_columns(simd, &columns, t, row_len, first_pair, to);
            }
        }
    }
}

/// Writes columns from number `t` on, each a row of so many pairs, from number `first` on.
#[inline(always)]
fn store_columns<S: Simd>(
    simd: S,
    columns: &[S::Vector; 8],
    t: usize,
    row_len: NonZeroUsize,
    first: usize,
    to: &mut [S::Scalar],
) {
    for (of_column, c) in columns.iter().zip(t..) {
        if let Some(to) = to.get_mut(c * row_len.get() + first..).and_then(<[_]>::first_chunk_mut::<16>) {
            simd.store(*of_column, to);
        }
    }
}

/// The first eight numbers of a row, with zeros for what there is not, or is not finite.
fn padded(row: &[Bf16], only_finite: bool) -> [u16; 8] {
    let mut eight = [0; 8];
    for (to, x) in eight.iter_mut().zip(row).filter(|(_, x)| !only_finite || is_finite(**x)) {
        *to = x.to_bits();
    }
    eight
}

fn is_finite(x: Bf16) -> bool {
    const EXPONENT: u16 = 0x7f80;
    x.to_bits() & EXPONENT != EXPONENT
}

/// The first and the second number of each pair.
#[inline(always)]
fn halves<S: Simd>(simd: S, pairs: S::Vector) -> [S::Vector; 2] {
    let mut lanes = [[S::Scalar::ZERO; 16]; 2];
    let [first, second] = &mut lanes;
    simd.store(pairs, first);
    for (first, second) in first.iter_mut().zip(second).take(S::LANES) {
        let bits = first.to_word();
        (*first, *second) = (Scalar::from_word(bits << 16), Scalar::from_word(bits & 0xffff_0000));
    }
    let [first, second] = &lanes;
    [simd.load(first), simd.load(second)]
}

/// `rows[2 i], rows[2 i + 1] = rows[i]` for the pairs of the first half of the rows.
pub(super) struct UnpairRows<'t, S: Simd, const COLS: usize> {
    pub(super) simd: S,
    pub(super) rows: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for UnpairRows<'_, S, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, rows } = self;
        for i in (0..rows.len() / 2).rev() {
            let of_pairs = rows.get(i).copied().unwrap_or([simd.splat(0.0); COLS]);
            if let Some([first, second]) = rows.get_mut(2 * i..).and_then(<[_]>::first_chunk_mut) {
                for c in 0..COLS {
                    [first[c], second[c]] = halves(simd, of_pairs[c]);
                }
            }
        }
    }
}

/// Adds the products of weights with values that are infinite or NaN, passing over weights that are negative marks.
pub(super) struct AddUnbounded<'t, 'a, S: Simd, const COLS: usize> {
    pub(super) simd: S,
    /// `[key][query]`
    pub(super) weights: &'t [[S::Vector; COLS]],
    pub(super) values: Strip<'a, Bf16>,
    /// The row of the first key.
    pub(super) first: usize,
    pub(super) output: &'t mut [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for AddUnbounded<'_, '_, S, COLS> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { simd, weights, values, first, output } = self;
        let (mut walk, zero) = (values.walk(first), simd.splat(0.0));
        for weights in weights {
            // SAFETY: there are as many rows as weights.
            let row = unsafe { walk.next_row() };
            for (value, sums) in row.iter().zip(&mut *output) {
                if is_finite(*value) {
                    continue;
                }
                let value = f32::from_bits(u32::from(value.to_bits()) << 16);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    let added = simd.mul_add(*weight, simd.splat(value), *sum);
                    *sum = simd.select(simd.less(*weight, zero), *sum, added);
                }
            }
        }
    }
}

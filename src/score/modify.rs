//! What becomes of a score between the product and the softmax: `cap * tanh(s / cap)`, `+ bias`, `- slope * distance`, a
//! caller's own function, the mask; in this order.

use core::f32::consts::{LN_2, LOG2_E};

use super::{
    custom::{Modify, Position},
    mask::{Sight, Words},
};
use crate::{Stage, kernel::Columns, math::tanh::tanh, simd::Simd, view::Rows};

/// What modifies the scores of one head, besides the mask.
#[derive(Clone, Copy)]
pub(crate) struct Modifiers<'a> {
    /// The queries are then scaled by the scale over this.
    pub(crate) softcap: Option<f32>,
    /// Rows of the whole call's queries.
    pub(crate) bias: Option<Rows<'a, f32>>,
    pub(crate) alibi_slope: Option<f32>,
}

/// A tile of scores to modify.
pub(crate) struct Tile<'t, 'a, S: Simd, M, const N: usize> {
    pub(crate) simd: S,
    pub(crate) modifiers: &'t Modifiers<'a>,
    pub(crate) sight: &'t Sight<'a, M>,
    /// Which of the tile's vectors of queries these are.
    pub(crate) columns: Columns<N>,
    /// The query in each vector's first lane.
    pub(crate) first: [usize; N],
    /// The last query of the block; lanes past it repeat it.
    pub(crate) last: usize,
    /// The tile's first key.
    pub(crate) key: usize,
    /// `None` where every query sees every key.
    pub(crate) words: Option<&'t Words<S, N>>,
}

/// The smallest bias that does not mask. A bias that is smaller still but finite counts as this, so that even the most negative numbers can
/// be multiplied with `log2(e)`.
const LEAST_BIAS: f32 = -1e38;

impl<S: Simd, M: Modify, const N: usize> Tile<'_, '_, S, M, N> {
    /// Whether there is anything to do.
    #[inline(always)]
    pub(crate) fn is_needed(&self) -> bool {
        let Modifiers { softcap, bias, alibi_slope } = self.modifiers;
        M::SCORES || self.words.is_some() || softcap.is_some() || bias.is_some() || alibi_slope.is_some()
    }

    /// Takes scores as the product left them, in base 2 (or, with a softcap, over the cap), to `stage`, in base 2.
    /// Returns each query's largest score.
    ///
    /// Each modifier passes by itself over as many keys as fit in the first-level cache: what is not asked for costs nothing.
    #[inline(always)]
    pub(crate) fn apply<const COLS: usize>(&self, stage: Stage, scores: &mut [[S::Vector; COLS]]) -> [S::Vector; N] {
        let simd = self.simd;
        let mut max = [simd.splat(f32::NEG_INFINITY); N];
        for (c, max) in max.iter_mut().enumerate() {
            for (chunk, j) in scores.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
                if let Some(cap) = self.modifiers.softcap {
                    self.softcap(c, chunk, cap, stage);
                }
                if stage >= Stage::Masked {
                    self.bias(c, j, chunk);
                    self.alibi(c, j, chunk);
                    self.custom(c, j, chunk);
                    self.mask(c, j, chunk);
                }
                let column = self.column(c);
                for row in chunk {
                    *max = simd.max(*max, column.of(row)[0]);
                }
            }
        }
        max
    }

    /// Overwrites the weights of keys that are masked with -1: their values must not even be multiplied by zero.
    #[inline(always)]
    pub(crate) fn mark<const COLS: usize>(&self, weights: &mut [[S::Vector; COLS]]) {
        let simd = self.simd;
        let (mark, least) = (simd.splat(-1.0), simd.splat(f32::MIN));
        for c in 0..N {
            let column = self.column(c);
            for (chunk, j) in weights.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
                if let Some(square) = self.bias_square(c, j, chunk.len()) {
                    for (row, bias) in chunk.iter_mut().zip(square.as_ref()) {
                        let [weight] = column.of_mut(row);
                        *weight = simd.select(simd.less(*bias, least), mark, *weight);
                    }
                }
                if let Some(words) = self.words {
                    for (k, row) in chunk.iter_mut().enumerate() {
                        let [weight] = column.of_mut(row);
                        *weight = simd.select(words.lanes(simd, c, j + k), *weight, mark);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn column(&self, c: usize) -> Columns<1> {
        Columns::new(self.columns.first() + c)
    }

    /// The query in the first lane of vector `c`.
    #[inline(always)]
    fn first_query(&self, c: usize) -> usize {
        let [first] = *Columns::<1>::new(c).of(&self.first);
        first
    }

    #[inline(always)]
    fn softcap<const COLS: usize>(&self, c: usize, chunk: &mut [[S::Vector; COLS]], cap: f32, stage: Stage) {
        let (simd, column) = (self.simd, self.column(c));
        let cap = simd.splat(cap * LOG2_E);
        for row in chunk {
            let [score] = column.of_mut(row);
            let share = if stage == Stage::Scaled { *score } else { tanh(simd, *score) };
            *score = simd.mul(share, cap);
        }
    }

    #[inline(always)]
    fn bias<const COLS: usize>(&self, c: usize, j: usize, chunk: &mut [[S::Vector; COLS]]) {
        let Some(square) = self.bias_square(c, j, chunk.len()) else { return };
        let (simd, column) = (self.simd, self.column(c));
        let (nothing, infinite) = (simd.splat(f32::NEG_INFINITY), simd.splat(f32::MIN));
        let (least, log2_e) = (simd.splat(LEAST_BIAS), simd.splat(LOG2_E));
        for (row, bias) in chunk.iter_mut().zip(square.as_ref()) {
            let [score] = column.of_mut(row);
            let biased = simd.mul_add(simd.max(least, *bias), log2_e, *score);
            *score = simd.select(simd.less(*bias, infinite), nothing, biased);
        }
    }

    /// The bias of the keys `j .. j + len` of the tile, a vector each, if there is one.
    #[inline(always)]
    fn bias_square(&self, c: usize, j: usize, len: usize) -> Option<S::Square> {
        let rows = self.modifiers.bias?;
        let [first_query, first_key] = self.sight.origin;
        let first = self.first_query(c);
        let mut square = self.simd.zeros();
        for (i, lane) in square.as_mut().iter_mut().enumerate() {
            let row = rows.row(first_query + (first + i).min(self.last));
            *lane = match row {
                [only] => self.simd.splat(*only),
                _ => {
                    let start = first_key + self.key + j;
                    self.simd.load(row.get(start..).map_or(&[], |row| row.get(..len).unwrap_or(row)))
                }
            };
        }
        self.simd.transpose(&mut square);
        Some(square)
    }

    #[inline(always)]
    fn alibi<const COLS: usize>(&self, c: usize, j: usize, chunk: &mut [[S::Vector; COLS]]) {
        let Some(slope) = self.modifiers.alibi_slope else { return };
        let (simd, column) = (self.simd, self.column(c));
        let slope = simd.splat(-slope * LOG2_E);
        let first = self.first_query(c);
        // Exact up to 2^24, as f32 is.
        let position = (first as i64).saturating_add(self.sight.band.diagonal).saturating_sub((self.key + j) as i64);
        let mut distance = simd.add(simd.splat(position as f32), simd.iota());
        for row in chunk {
            let [score] = column.of_mut(row);
            let absolute = simd.max(distance, simd.sub(simd.splat(0.0), distance));
            *score = simd.mul_add(absolute, slope, *score);
            distance = simd.sub(distance, simd.splat(1.0));
        }
    }

    #[inline(always)]
    fn custom<const COLS: usize>(&self, c: usize, j: usize, chunk: &mut [[S::Vector; COLS]]) {
        if !M::SCORES {
            return;
        }
        let (simd, column, Sight { modify, sequence, head, .. }) = (self.simd, self.column(c), *self.sight);
        let first = self.first_query(c);
        for (row, key) in chunk.iter_mut().zip(self.key + j..) {
            let [score] = column.of_mut(row);
            let mut lanes = [0.0; 16];
            simd.store(*score, &mut lanes);
            for (i, score) in lanes.iter_mut().take(S::LANES).enumerate() {
                let at = Position { sequence, head, query: (first + i).min(self.last), key };
                *score = modify.score(*score * LN_2, at) * LOG2_E;
            }
            *score = simd.load(&lanes);
        }
    }

    #[inline(always)]
    fn mask<const COLS: usize>(&self, c: usize, j: usize, chunk: &mut [[S::Vector; COLS]]) {
        let Some(words) = self.words else { return };
        let (simd, column) = (self.simd, self.column(c));
        for (k, row) in chunk.iter_mut().enumerate() {
            let [score] = column.of_mut(row);
            *score = simd.select(words.lanes(simd, c, j + k), *score, simd.splat(f32::NEG_INFINITY));
        }
    }
}

//! What becomes of a score between the product and the softmax: `cap * tanh(s / cap)`, `- slope * distance`, `+ bias`, a
//! caller's own function, the mask; in this order. What is masked, by a bias too, is `-inf` whatever came before.

use core::{
    f64::consts::{LN_2, LOG2_E},
    ops::Range,
};

use super::{
    custom::Position,
    function::Score,
    head::{Head, Queries},
    mask::Words,
};
use crate::{
    Float, Stage,
    math::tanh::tanh,
    scalar::Scalar,
    simd::{Simd, Task, prefetch, prefetch_early},
    view::Rows,
};

/// One vector of queries, and the keys of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Column<'t, 'a, S: Simd, F> {
    pub(crate) simd: S,
    pub(crate) head: &'t Head<'a, F, S::Scalar>,
    pub(crate) queries: Queries,
    /// Which of them is in the first lane; lanes past the last repeat it.
    pub(crate) first: usize,
    /// The first key.
    pub(crate) key: usize,
    pub(crate) words: &'t Words<S>,
}

/// Scores of one vector of queries in a tile that has several: every `stride`-th, from the first on, is of the next key.
pub(crate) struct Strided<'t, V> {
    pub(crate) vectors: &'t mut [V],
    pub(crate) stride: usize,
}

impl<V> Strided<'_, V> {
    /// That of key `j`, if there is one.
    #[inline(always)]
    fn get(&mut self, j: usize) -> Option<&mut V> {
        self.vectors.get_mut(j * self.stride)
    }
}

/// Takes scores as the product left them, in base 2 (or, with a softcap, over the cap), to `stage`, in base 2. Gives each
/// query's largest score.
///
/// Each modifier passes by itself over as many keys as a vector has lanes: what is not asked for costs nothing.
pub(crate) struct Apply<'t, 'a, S: Simd, F> {
    pub(crate) column: Column<'t, 'a, S, F>,
    pub(crate) stage: Stage,
    pub(crate) scores: Strided<'t, S::Vector>,
    /// Which of the scores, from a multiple of as many as a vector has lanes on.
    pub(crate) rows: Range<usize>,
}

impl<S: Simd, F: Score> Task for Apply<'_, '_, S, F> {
    type Output = S::Vector;

    #[inline(always)]
    fn run(self) -> S::Vector {
        let Self { column, stage, mut scores, rows } = self;
        let simd = column.simd;
        let nothing = simd.splat(f32::NEG_INFINITY);
        let bias_rows = if stage >= Stage::Masked { column.bias_rows() } else { None };
        // Several, so that one need not wait for the other.
        let mut max = [nothing; 4];
        for start in rows.clone().step_by(S::LANES) {
            let keys = start..rows.end.min(start + S::LANES);
            column.softcap(&keys, &mut scores, stage);
            if stage >= Stage::Masked {
                let bias = bias_rows.as_ref().map(|rows| column.bias_square(&keys, rows));
                column.alibi(&keys, &mut scores);
                column.bias(&keys, bias.as_ref(), &mut scores);
                if F::MODIFIES {
                    column.custom(&keys, &mut scores);
                    column.bias_mask(&keys, bias.as_ref(), &mut scores);
                }
            }
            let is_masked = stage >= Stage::Masked && !column.words.all_see(&keys);
            let bits = column.words.bits(keys.start);
            for j in keys {
                let Some(score) = scores.get(j) else { break };
                if is_masked {
                    *score = simd.select(simd.has_bit(bits, j as u32 % 32), *score, nothing);
                }
                let [a, b, c, d] = max;
                max = [b, c, d, simd.max(a, *score)];
            }
        }
        let [a, b, c, d] = max;
        simd.max(simd.max(a, b), simd.max(c, d))
    }
}

/// Overwrites the weights of keys that are masked.
pub(crate) struct Mark<'t, 'a, S: Simd, F> {
    pub(crate) column: Column<'t, 'a, S, F>,
    pub(crate) weights: Strided<'t, S::Vector>,
    pub(crate) len: usize,
    pub(crate) mark: f32,
}

impl<S: Simd, F: Score> Task for Mark<'_, '_, S, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { column, mut weights, len, mark } = self;
        let simd = column.simd;
        let (mark, least) = (simd.splat(mark), simd.splat(f32::MIN));
        let bias_rows = column.bias_rows();
        for start in (0..len).step_by(S::LANES) {
            let keys = start..len.min(start + S::LANES);
            let bias = bias_rows.as_ref().map_or(simd.zeros(), |rows| column.bias_square(&keys, rows));
            let bits = column.words.bits(keys.start);
            for (j, bias) in keys.zip(bias.as_ref()) {
                let Some(weight) = weights.get(j) else { break };
                let is_masked = simd.less(*bias, least);
                *weight = simd.select(is_masked, mark, simd.select(simd.has_bit(bits, j as u32 % 32), *weight, mark));
            }
        }
    }
}

impl<'a, S: Simd, F: Score> Column<'_, 'a, S, F> {
    #[inline(always)]
    fn softcap(&self, keys: &Range<usize>, scores: &mut Strided<'_, S::Vector>, stage: Stage) {
        let (simd, Some(cap)) = (self.simd, self.head.call.softcap) else { return };
        let cap = simd.broadcast(S::Scalar::from_f64(cap * LOG2_E));
        for j in keys.clone() {
            let Some(score) = scores.get(j) else { break };
            let share = if stage == Stage::Scaled { *score } else { tanh(simd, *score) };
            *score = simd.mul(share, cap);
        }
    }

    #[inline(always)]
    fn bias(&self, keys: &Range<usize>, square: Option<&S::Square>, scores: &mut Strided<'_, S::Vector>) {
        let (simd, Some(square)) = (self.simd, square) else { return };
        let (nothing, infinite) = (simd.splat(f32::NEG_INFINITY), simd.splat(f32::MIN));
        let (least, log2_e) = (simd.splat(S::Scalar::LEAST_BIAS), simd.broadcast(S::Scalar::from_f64(LOG2_E)));
        for (j, bias) in keys.clone().zip(square.as_ref()) {
            let Some(score) = scores.get(j) else { break };
            let biased = simd.mul_add(simd.max(least, *bias), log2_e, *score);
            *score = simd.select(simd.less(*bias, infinite), nothing, biased);
        }
    }

    /// The rows of the bias for the queries in the lanes, if there is one.
    #[inline(always)]
    fn bias_rows(&self) -> Option<[&'a [f32]; 16]> {
        self.head.call.bias?;
        let [first_query, _] = self.head.origin();
        let (mut rows, mut rows_of) = (None, None);
        let mut of_lanes = [&[][..]; 16];
        for (i, lane) in of_lanes.iter_mut().enumerate().take(S::LANES) {
            let [head, query] = self.queries.at(self.first + i);
            if rows_of != Some(head) {
                (rows, rows_of) = (self.head.bias(head), Some(head));
            }
            *lane = rows.map_or(&[][..], |rows: Rows<'_, f32>| rows.row(first_query + query));
        }
        Some(of_lanes)
    }

    /// The bias of some keys, as many as a vector has lanes or fewer, a vector each.
    #[inline(always)]
    fn bias_square(&self, keys: &Range<usize>, rows: &[&[f32]; 16]) -> S::Square {
        let [_, first_key] = self.head.origin();
        let start = first_key + self.key + keys.start;
        let mut square = self.simd.zeros();
        for (lane, row) in square.as_mut().iter_mut().zip(rows) {
            let rest = row.get(start..).unwrap_or_default();
            *lane = match (rest.get(..S::LANES), row) {
                (Some(whole), _) => {
                    // Where the same of the next tile ends, and the next square; they begin where those before end.
                    prefetch_early(whole.as_ptr().wrapping_add(S::KEY_TILE + S::LANES - 1));
                    prefetch(whole.as_ptr().wrapping_add(2 * S::LANES - 1));
                    self.simd.load_f32(whole)
                }
                (None, [only]) => self.simd.splat(*only),
                (None, _) => self.simd.load_f32(rest),
            };
        }
        self.simd.transpose(&mut square);
        square
    }

    #[inline(always)]
    fn alibi(&self, keys: &Range<usize>, scores: &mut Strided<'_, S::Vector>) {
        let (simd, Some(slopes)) = (self.simd, self.head.call.alibi_slopes) else { return };
        // Exact up to 2^24 in f32; beyond, rounded for each query by itself.
        let position = self.head.band.diagonal.saturating_sub((self.key + keys.start) as i64);
        let (mut distances, mut factors) = ([S::Scalar::ZERO; 16], [S::Scalar::ZERO; 16]);
        for (i, (distance, factor)) in distances.iter_mut().zip(&mut factors).enumerate() {
            let [head, query] = self.queries.at(self.first + i);
            *distance = S::Scalar::from_f64(position.saturating_add(query as i64) as f64);
            *factor =
                slopes.get(head).map_or(S::Scalar::ZERO, |slope| S::Scalar::from(-slope) * S::Scalar::from_f64(LOG2_E));
        }
        let (mut distance, slope) = (simd.load(&distances), simd.load(&factors));
        for j in keys.clone() {
            let Some(score) = scores.get(j) else { break };
            let absolute = simd.max(distance, simd.sub(simd.splat(0.0), distance));
            *score = simd.mul_add(absolute, slope, *score);
            distance = simd.sub(distance, simd.splat(1.0));
        }
    }

    #[inline(always)]
    fn custom(&self, keys: &Range<usize>, scores: &mut Strided<'_, S::Vector>) {
        let Head { score: function, sequence, .. } = *self.head;
        let [ln_2, log2_e] = [LN_2, LOG2_E].map(S::Scalar::from_f64);
        for j in keys.clone() {
            let Some(score) = scores.get(j) else { break };
            let mut lanes = [S::Scalar::ZERO; 16];
            self.simd.store(*score, &mut lanes);
            for (i, score) in lanes.iter_mut().take(S::LANES).enumerate() {
                let [head, query] = self.queries.at(self.first + i);
                let at = Position { sequence: sequence.index, head, query, key: self.key + j };
                let modified = function.modify((*score * ln_2).to_f32(), at);
                *score = S::Scalar::from(modified) * log2_e;
            }
            *score = self.simd.load(&lanes);
        }
    }

    /// What a bias masks stays masked, whatever a custom modification has made of its score.
    #[inline(always)]
    fn bias_mask(&self, keys: &Range<usize>, square: Option<&S::Square>, scores: &mut Strided<'_, S::Vector>) {
        let (simd, Some(square)) = (self.simd, square) else { return };
        let (nothing, least) = (simd.splat(f32::NEG_INFINITY), simd.splat(f32::MIN));
        for (j, bias) in keys.clone().zip(square.as_ref()) {
            let Some(score) = scores.get(j) else { break };
            *score = simd.select(simd.less(*bias, least), nothing, *score);
        }
    }
}

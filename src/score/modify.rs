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
    kernel::transpose::load_square,
    math::tanh::tanh,
    pieces::pieces,
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
        let bias_rows = if stage >= Stage::Masked { column.bias_rows() } else { None };
        let mut max = [simd.splat(f32::NEG_INFINITY); 4];
        for start in rows.clone().step_by(S::LANES) {
            let keys = start..rows.end.min(start + S::LANES);
            column.softcap(&keys, &mut scores, stage);
            let (mut bias, mut bits) = (None, None);
            if stage >= Stage::Masked {
                bias = bias_rows.as_ref().map(|rows| column.bias_square(&keys, rows));
                column.alibi(&keys, &mut scores);
                if F::MODIFIES {
                    column.bias(&keys, bias.as_ref(), &mut scores);
                    column.custom(&keys, &mut scores);
                }
                if !column.words.all_see(&keys) {
                    bits = Some(column.words.bits(keys.start));
                }
            }
            let (keys, scores) = ((keys, bits), (&mut scores, &mut max));
            match bias {
                // What a bias masks stays masked, whatever a custom modification has made of its score.
                Some(bias) => finish(simd, keys, bias.as_ref().iter().copied(), scores, |score, bias| {
                    if F::MODIFIES { masked(simd, score, bias) } else { biased(simd, score, bias) }
                }),
                None => finish(simd, keys, core::iter::repeat(()), scores, |score, ()| score),
            }
        }
        let [a, b, c, d] = max;
        simd.max(simd.max(a, b), simd.max(c, d))
    }
}

/// The last step for some keys' scores: what `f` makes of each, or `-inf` where `bits` don't have the key. Their largest ones are gathered in several
/// maxima, so that one need not wait for the other.
#[inline(always)]
fn finish<S: Simd, B>(
    simd: S,
    (keys, bits): (Range<usize>, Option<S::Vector>),
    biases: impl Iterator<Item = B>,
    (scores, max): (&mut Strided<'_, S::Vector>, &mut [S::Vector; 4]),
    f: impl Fn(S::Vector, B) -> S::Vector,
) {
    for (j, bias) in keys.zip(biases) {
        let Some(score) = scores.get(j) else { break };
        let mut finished = f(*score, bias);
        if let Some(bits) = bits {
            finished = simd.select(simd.has_bit(bits, j as u32 % 32), finished, simd.splat(f32::NEG_INFINITY));
        }
        *score = finished;
        let [a, b, c, d] = *max;
        *max = [b, c, d, simd.max(a, finished)];
    }
}

/// A score, in base 2, and its bias.
#[inline(always)]
fn biased<S: Simd>(simd: S, score: S::Vector, bias: S::Vector) -> S::Vector {
    let (least, log2_e) = (simd.splat(S::Scalar::LEAST_BIAS), simd.broadcast(S::Scalar::from_f64(LOG2_E)));
    masked(simd, simd.mul_add(simd.max(least, bias), log2_e, score), bias)
}

/// A score, but for a bias of `-inf`.
#[inline(always)]
fn masked<S: Simd>(simd: S, score: S::Vector, bias: S::Vector) -> S::Vector {
    simd.select(simd.less(bias, simd.splat(f32::MIN)), simd.splat(f32::NEG_INFINITY), score)
}

/// Rows of the bias for the queries in the lanes, and the length of the shortest.
struct BiasRows<'a> {
    rows: [&'a [f32]; 16],
    len: usize,
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
        for (j, bias) in keys.clone().zip(square.as_ref()) {
            let Some(score) = scores.get(j) else { break };
            *score = biased(simd, *score, *bias);
        }
    }

    #[inline(always)]
    fn bias_rows(&self) -> Option<BiasRows<'a>> {
        self.head.call.bias?;
        let [first_query, _] = self.head.origin();
        let (mut rows, mut rows_of) = (None, None);
        let mut of_lanes = BiasRows { rows: [&[][..]; 16], len: usize::MAX };
        for (i, lane) in of_lanes.rows.iter_mut().enumerate().take(S::LANES) {
            let [head, query] = self.queries.at(self.first + i);
            if rows_of != Some(head) {
                (rows, rows_of) = (self.head.bias(head), Some(head));
            }
            *lane = rows.map_or(&[][..], |rows: Rows<'_, f32>| rows.row(first_query + query));
            of_lanes.len = of_lanes.len.min(lane.len());
        }
        Some(of_lanes)
    }

    /// The bias of some keys, as many as a vector has lanes or fewer, a vector each.
    #[inline(always)]
    fn bias_square(&self, keys: &Range<usize>, of: &BiasRows<'a>) -> S::Square {
        let (simd, [_, first_key]) = (self.simd, self.head.origin());
        let start = first_key + self.key + keys.start;
        let mut pointers = [core::ptr::null(); 16];
        pointers.iter_mut().zip(&of.rows).for_each(|(pointer, row)| *pointer = row.as_ptr());
        for row in pointers.iter().take(S::LANES) {
            // Where the same of the next tile ends, and the next square; they begin where those before end.
            prefetch_early(row.wrapping_add(start + S::KEY_TILE + S::LANES - 1));
            prefetch(row.wrapping_add(start + 2 * S::LANES - 1));
        }
        if of.len.checked_sub(start).is_some_and(|rest| rest >= S::LANES) {
            // SAFETY: each lane's row has these elements.
            return unsafe { load_square(simd, &pointers, start, S::LANES) };
        }
        let mut square = simd.zeros();
        for (lane, row) in square.as_mut().iter_mut().zip(&of.rows) {
            *lane = match row {
                [only] => simd.splat(*only),
                _ => {
                    let rest = row.get(start..).unwrap_or_default();
                    simd.load_f32(rest.get(..S::LANES).unwrap_or(rest))
                }
            };
        }
        simd.transpose(&mut square);
        square
    }

    #[inline(always)]
    fn alibi(&self, keys: &Range<usize>, scores: &mut Strided<'_, S::Vector>) {
        let (simd, Some(slopes)) = (self.simd, self.head.call.alibi_slopes) else { return };
        let mut factors = [S::Scalar::ZERO; 16];
        for (i, factor) in factors.iter_mut().enumerate() {
            let [head, _] = self.queries.at(self.first + i);
            *factor =
                slopes.get(head).map_or(S::Scalar::ZERO, |slope| S::Scalar::from(-slope) * S::Scalar::from_f64(LOG2_E));
        }
        let (slope, first) = (simd.load(&factors), self.key + keys.start);
        for piece in pieces(first, keys.len(), S::LANES) {
            let offset = (first + piece.start) % S::LANES;
            let origin = self.distances(first + piece.start - offset);
            let mut from_origin = simd.splat(offset as f32);
            for j in piece {
                let Some(score) = scores.get(keys.start + j) else { break };
                let distance = simd.sub(origin, from_origin);
                let absolute = simd.max(distance, simd.sub(simd.splat(0.0), distance));
                *score = simd.mul_add(absolute, slope, *score);
                from_origin = simd.add(from_origin, simd.splat(1.0));
            }
        }
    }

    /// How far each query stands behind a key: exact up to 2^24 in `f32`. Beyond, it is rounded, and so are distances from keys that are
    /// reckoned from it: that is to be the same key, whatever the first one is that is looked at.
    #[inline(always)]
    fn distances(&self, key: usize) -> S::Vector {
        let position = self.head.band.diagonal.saturating_sub(key as i64);
        let mut distances = [S::Scalar::ZERO; 16];
        for (i, distance) in distances.iter_mut().enumerate() {
            let [_, query] = self.queries.at(self.first + i);
            *distance = S::Scalar::from_f64(position.saturating_add(query as i64) as f64);
        }
        self.simd.load(&distances)
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
}

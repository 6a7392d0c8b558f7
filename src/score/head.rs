//! One head of one sequence of a call.

use core::{f64::consts::LOG2_E, num::NonZeroUsize};

use super::{band::Band, function::Score, product::Function, projection::HeadProjection};
use crate::{
    scalar::Scalar,
    simd::Simd,
    store::Strips,
    validate::{Call, Sequence},
    view::{Rows, split_index},
};

#[derive(Clone, Copy)]
pub(crate) struct Head<'a, F, E> {
    pub(crate) call: &'a Call<'a, E>,
    pub(crate) score: &'a F,
    pub(crate) sequence: &'a Sequence,
    /// Which query head, the first one of several.
    pub(crate) index: usize,
    pub(crate) band: Band,
}

/// Which queries are computed side by side: `per_head` of one head, as many of the next one that has the same keys, and so on.
#[derive(Clone, Copy)]
pub(crate) struct Queries {
    /// The first head, and the first query of each.
    pub(crate) head: usize,
    pub(crate) first: usize,
    pub(crate) per_head: NonZeroUsize,
    /// How many there are, at least 1.
    pub(crate) len: usize,
}

impl Queries {
    /// Head and query `i`; past the end, those of the last one.
    #[inline(always)]
    pub(crate) fn at(&self, i: usize) -> [usize; 2] {
        let [head, query] = split_index(i.min(self.len - 1), self.per_head);
        [self.head + head, self.first + query]
    }

    /// Those from `start` on, at most `len`, of one head.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        Self { first: self.first + start, len: len.min(self.len - start), ..*self }
    }

    /// The first and the last query of the vector that begins at `i`.
    #[inline(always)]
    pub(crate) fn ends(&self, i: usize, lanes: usize) -> [usize; 2] {
        if self.len > self.per_head.get() {
            return [self.first, self.first + (self.per_head.get() - 1)];
        }
        [i, i + (lanes - 1)].map(|i| self.first + i.min(self.len - 1))
    }
}

impl<'a, F: Score, E: Scalar> Head<'a, F, E> {
    pub(crate) fn new(call: &'a Call<'a, E>, score: &'a F, sequence: &'a Sequence, index: usize) -> Self {
        let &Sequence { kv_len, diagonal, .. } = sequence;
        let band = Band { kv_len, diagonal, left: call.window.left, right: call.window.right };
        Self { call, score, sequence, index, band }
    }

    /// The keys, and the values that belong to them, those of the sequence from its [origin](Self::origin) on; `None` where there are none.
    #[inline(always)]
    pub(crate) fn kv(&self) -> Option<[Strips<'a, E>; 2]> {
        let Sequence { batch, room, kv_len, .. } = self.sequence;
        self.call.kv.head(*batch, self.index / self.call.group, room.start.saturating_add(*kv_len))
    }

    /// What queries are multiplied with before they meet the keys.
    #[inline(always)]
    pub(crate) fn projection(&self) -> Option<HeadProjection<'a>> {
        let (q, key_dim) = (self.call.queries.shape(), self.call.kv.shape().dim);
        self.score.projection()?.head(q, key_dim, self.sequence.batch, self.index)
    }

    #[inline(always)]
    pub(crate) fn function<S: Simd<Scalar = E>>(&self, simd: S) -> Function<'a, S, F> {
        Function::new(simd, self.score, self.call.score_factor)
    }

    /// Where the sequence's first query and first key stand in masks and biases.
    #[inline(always)]
    pub(crate) fn origin(&self) -> [usize; 2] {
        [self.sequence.queries.start, self.sequence.room.start]
    }

    /// What scores of pairs are multiplied with, for pairs themselves stay as they are: at first, and in the softmax, which costs less where nothing else
    /// is done to them.
    #[inline(always)]
    pub(crate) fn factors_of_pairs(&self) -> [E; 2] {
        let (factor, one) = (self.call.query_factor, E::ONE);
        if factor > E::ZERO && !self.modifies() { [one, factor] } else { [factor, one] }
    }

    /// Whether position alone decides what a query sees.
    #[inline(always)]
    pub(crate) fn is_band(&self) -> bool {
        !F::MASKS && self.call.masks.iter().all(Option::is_none)
    }

    /// Whether anything but a mask is done to scores.
    #[inline(always)]
    pub(crate) fn modifies(&self) -> bool {
        let Call { softcap, bias, alibi_slopes, .. } = self.call;
        F::MODIFIES || softcap.is_some() || bias.is_some() || alibi_slopes.is_some()
    }

    /// Rows of the whole call's queries.
    #[inline(always)]
    pub(crate) fn bias(&self, head: usize) -> Option<Rows<'a, f32>> {
        self.call.bias.as_ref()?.rows(self.sequence.batch, head)
    }

    /// In base 2; negative infinity where there is none.
    #[inline(always)]
    pub(crate) fn sink(&self, head: usize) -> E {
        let sink = self.call.sinks.and_then(|sinks| sinks.get(head));
        sink.map_or(E::NEG_INFINITY, |sink| E::from(*sink) * E::from_f64(LOG2_E))
    }
}

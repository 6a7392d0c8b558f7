//! One head of one sequence of a call.

use core::f32::consts::LOG2_E;

use super::{band::Band, function::Score, mask::MaskRows, projection::HeadProjection, tile::Function};
use crate::{
    validate::{Call, Sequence},
    view::Rows,
};

#[derive(Clone, Copy)]
pub(crate) struct Head<'a, F> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) score: &'a F,
    pub(crate) sequence: &'a Sequence,
    /// Which query head.
    pub(crate) index: usize,
    pub(crate) band: Band,
}

impl<'a, F: Score> Head<'a, F> {
    pub(crate) fn new(call: &'a Call<'a>, score: &'a F, sequence: &'a Sequence, index: usize) -> Self {
        let &Sequence { kv_len, diagonal, .. } = sequence;
        let band = Band { kv_len, diagonal, left: call.window.left, right: call.window.right };
        Self { call, score, sequence, index, band }
    }

    /// The keys, and the values that belong to them; `None` where there are none. There may be more than the queries see.
    #[inline(always)]
    pub(crate) fn kv(&self) -> Option<(Rows<'a, f32>, Rows<'a, f32>)> {
        let Sequence { batch, room, .. } = self.sequence;
        let head = self.index / self.call.group;
        let rows = self.call.kv.keys.rows(*batch, head)?.range(room.start, room.len());
        rows.zip(self.call.kv.values.rows(*batch, head)?.range(room.start, room.len()))
    }

    /// What queries are multiplied with before they meet the keys.
    #[inline(always)]
    pub(crate) fn projection(&self) -> Option<HeadProjection<'a>> {
        let (q, key_dim) = (self.call.queries.shape(), self.call.kv.keys.shape().dim);
        self.score.projection()?.head(q, key_dim, self.sequence.batch, self.index)
    }

    #[inline(always)]
    pub(crate) fn function<S>(&self, simd: S) -> Function<'a, S, F> {
        Function { simd, score: self.score, factor: self.call.score_factor }
    }

    /// Where the sequence's first query and first key stand in masks and biases.
    #[inline(always)]
    pub(crate) fn origin(&self) -> [usize; 2] {
        [self.sequence.queries.start, self.sequence.room.start]
    }

    /// Whether position alone decides what a query sees.
    #[inline(always)]
    pub(crate) fn is_band(&self) -> bool {
        !F::MASKS && self.call.masks.iter().all(Option::is_none)
    }

    #[inline(always)]
    pub(crate) fn masks(&self) -> [Option<MaskRows<'a>>; 2] {
        let [mask, block_mask] = &self.call.masks;
        [mask, block_mask].map(|mask| mask.as_ref()?.rows(self.sequence.batch, self.index))
    }

    /// Whether anything but a mask is done to scores.
    #[inline(always)]
    pub(crate) fn modifies(&self) -> bool {
        let Call { softcap, bias, alibi_slopes, .. } = self.call;
        F::MODIFIES || softcap.is_some() || bias.is_some() || alibi_slopes.is_some()
    }

    /// Rows of the whole call's queries.
    #[inline(always)]
    pub(crate) fn bias(&self) -> Option<Rows<'a, f32>> {
        self.call.bias.as_ref()?.rows(self.sequence.batch, self.index)
    }

    #[inline(always)]
    pub(crate) fn alibi_slope(&self) -> Option<f32> {
        self.call.alibi_slopes?.get(self.index).copied()
    }

    /// In base 2.
    #[inline(always)]
    pub(crate) fn sink(&self) -> Option<f32> {
        self.call.sinks?.get(self.index).map(|sink| sink * LOG2_E)
    }
}

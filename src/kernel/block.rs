//! A block of queries, each in a lane of its own, and what it does with a tile of keys.

use core::{array::from_fn, ops::Range};

use super::{
    Ahead, Columns, Products,
    few::Rounded,
    is_zero,
    key_tile::{KeyTile, RawRows},
    matrices::{AddUnbounded, MatrixScores, MatrixSums, UnpairRows},
    pairs::{PairRows, UpdateInPairs},
    reach::{Sight, scores_within, sums_within},
};
use crate::{
    Stage,
    scalar::Scalar,
    score::{
        band::{Span, hull},
        function::Score,
        head::{Head, Queries},
        mask::{Look, Words},
        modify::{Apply, Column, Mark, Strided},
        product::{Function, PairDot},
        tile::Scores,
    },
    simd::{Matrices, Pairs, Simd, Task},
    softmax::Softmax,
    weighted_sum::Sums,
};

/// The weight of a key that is masked, where weights of zero would not do.
const MARK: f32 = -1.0;

/// One block of queries, and what it has gathered so far.
pub(super) struct Block<'s, S: Simd, F, const COLS: usize> {
    pub(super) simd: S,
    pub(super) head: &'s Head<'s, F, S::Scalar>,
    pub(super) of: Queries,
    /// What the queries of each vector see by their position.
    pub(super) spans: [Span; COLS],
    pub(super) products: Products,
    /// What became of few queries.
    pub(super) rounded: Rounded<S::Scalar>,
    pub(super) softmax: Softmax<S, COLS>,
    /// `[key_dim][query]`, or as the products for few queries want them; scaled
    pub(super) queries: &'s mut [[S::Vector; COLS]],
    /// `[value_dim][query]`, or as the products for few queries have it; not yet normalised
    pub(super) output: &'s mut [[S::Vector; COLS]],
    /// Whether there is any yet.
    has_output: bool,
    pub(super) trust: Trust,
}

/// Whether values of masked keys are taken to be finite, without a look at them. Where they were not, the output is not either: zero times NaN is NaN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    None,
    /// There has been no need to.
    Ready,
    Given,
}

/// Room for what a block does with a tile.
pub(super) struct Room<'s, S: Simd, const COLS: usize> {
    pub(super) scores: &'s mut [[S::Vector; COLS]],
    pub(super) words: [Words<S>; COLS],
}

/// What a block sees of a tile.
struct Visible<'w, S: Simd, const COLS: usize> {
    sight: Sight<COLS>,
    /// Where its keys begin or end with a part of those that are multiplied at once, the others have rows, too: so many before, and so many behind.
    halves: [usize; 2],
    /// Whether all queries see all of its keys.
    is_all: bool,
    /// Who sees what, where that is asked.
    words: &'w [Words<S>; COLS],
}

impl<S: Simd, const COLS: usize> Visible<'_, S, COLS> {
    const fn keys(&self) -> &Range<usize> {
        &self.sight.keys
    }

    /// Rows of scores or weights.
    #[inline(always)]
    fn rows(&self) -> usize {
        self.halves[0] + self.keys().len() + self.halves[1]
    }

    /// Rows without those that stand for the other halves.
    #[inline(always)]
    fn without_halves<'r, V>(&self, rows: &'r mut [V]) -> &'r mut [V] {
        let [first, last] = self.halves;
        let end = rows.len() - last;
        rows.get_mut(first..end).unwrap_or_default()
    }

    /// Puts something in the rows that [`without_halves`](Self::without_halves) leaves out.
    #[inline(always)]
    fn fill_halves(&self, rows: &mut [[S::Vector; COLS]], with: S::Vector) {
        let [first, last] = self.halves;
        let end = rows.len() - last;
        for part in [0..first, end..rows.len()] {
            rows.get_mut(part).unwrap_or_default().fill([with; COLS]);
        }
    }
}

impl<'s, S: Simd, F: Score, const COLS: usize> Block<'s, S, F, COLS> {
    /// Of queries that are loaded.
    #[inline(always)]
    pub(super) fn new(
        simd: S,
        head: &'s Head<'s, F, S::Scalar>,
        of: Queries,
        has_sinks: bool,
        products: Products,
        [queries, output]: [&'s mut [[S::Vector; COLS]]; 2],
    ) -> Self {
        let mut spans = [const { Span { some: 0..0, all: 0..0 } }; COLS];
        for (c, span) in spans.iter_mut().enumerate() {
            let [first, last] = of.ends(c * S::LANES, S::LANES);
            *span = head.band.span(first, last);
        }
        let sinks: [S::Scalar; 16] =
            from_fn(|lane| if has_sinks { head.sink(of.at(lane)[0]) } else { S::Scalar::NEG_INFINITY });
        let softmax = Softmax::new(simd, simd.load(&sinks));
        let (rounded, trust) = (Rounded::NOT, Trust::None);
        let mut block =
            Self { simd, head, of, spans, products, rounded, softmax, queries, output, has_output: false, trust };
        if products.are_for_few() {
            block.begin();
        }
        block
    }

    /// Has an output of zero, if it had none yet.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        if !core::mem::replace(&mut self.has_output, true) {
            self.output.fill([self.simd.splat(0.0); COLS]);
        }
    }

    /// Whether values that are not finite may have come from masked keys.
    #[inline(always)]
    pub(super) fn is_spoilt(&self) -> bool {
        let Self { simd, trust, has_output, .. } = *self;
        trust == Trust::Given && has_output && !simd.call(LanesAreFinite { simd, rows: self.output })
    }

    /// What any of its queries sees by its position is among these.
    #[inline(always)]
    pub(super) fn keys(&self) -> Range<usize> {
        self.spans.iter().map(|span| span.some.clone()).reduce(hull).unwrap_or_default()
    }

    /// Attends to the keys of a tile.
    #[inline(always)]
    pub(super) fn attend<const ROWS: usize, const NARROW: usize>(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        room: &mut Room<'_, S, COLS>,
        ahead: &Ahead<'_>,
    ) {
        // A constant, so that products of few queries are not compiled for every number of columns.
        if const { COLS == 1 } && self.products.are_for_few() {
            ahead.step();
            return self.attend_few(tile, room);
        }
        let Some(visible) = self.visible(tile, &mut room.words) else { return };
        let Some(rows) = room.scores.get_mut(..visible.rows()) else { return };
        let Some(max) = self.score::<ROWS, NARROW>(tile, &visible, rows, ahead) else { return };
        if self.products == Products::ManyInMatrices {
            self.add_in_matrices(tile, &visible, max, rows, ahead);
        } else {
            self.add::<ROWS, NARROW>(tile, &visible, max, rows, ahead);
        }
    }

    /// What is seen of a tile, if any of its keys is.
    #[inline(always)]
    fn visible<'w>(
        &self,
        tile: &KeyTile<'_, '_, S::Scalar>,
        words: &'w mut [Words<S>; COLS],
    ) -> Option<Visible<'w, S, COLS>> {
        let sight = Sight::new(&self.spans, &tile.range)?;
        let seen = self.seen(&sight.keys, &sight.are_full, words);
        if seen == Seen::Nothing {
            return None;
        }
        let keys_in_one = self.products.keys_in_one::<S>();
        let halves = [sight.keys.start % keys_in_one, sight.keys.end.wrapping_neg() % keys_in_one];
        // They are asked what all see only where scores are modified, or weights marked.
        if seen == Seen::All && (self.head.modifies() || halves != [0, 0] || tile.is_known_unbounded()) {
            words.fill(Words::all(self.simd));
        }
        Some(Visible { sight, halves, is_all: seen == Seen::All, words })
    }

    /// Fills rows with the scores of a tile's keys, modified and masked, and gives the largest ones; `None` where there is no key.
    #[inline(always)]
    fn score<const ROWS: usize, const NARROW: usize>(
        &self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        visible: &Visible<'_, S, COLS>,
        rows: &mut [[S::Vector; COLS]],
        ahead: &Ahead<'_>,
    ) -> Option<[S::Vector; COLS]> {
        let (simd, scores) = (self.simd, visible.without_halves(rows));
        let mut max = self.products_with_keys::<ROWS, NARROW>(tile, &visible.sight, scores, ahead)?;
        if !visible.is_all || self.head.modifies() {
            for (c, (max, words)) in max.iter_mut().zip(visible.words).enumerate() {
                let column = self.column(c, visible.keys().start, words);
                let rows = visible.sight.rows(c, S::LANES);
                fill_beside(scores, c, &rows, simd.splat(f32::NEG_INFINITY));
                *max = simd.call(Apply { column, stage: Stage::Masked, scores: strided(scores, c), rows });
            }
        }
        Some(max)
    }

    /// Makes weights of scores, and adds the values of a tile's keys.
    #[inline(always)]
    fn add<const ROWS: usize, const NARROW: usize>(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        visible: &Visible<'_, S, COLS>,
        max: [S::Vector; COLS],
        rows: &mut [[S::Vector; COLS]],
        ahead: &Ahead<'_>,
    ) {
        let (simd, may_be_marked) = (self.simd, self.may_be_marked(visible));
        let is_marked = may_be_marked && self.trust == Trust::None && !tile.is_finite(simd);
        if may_be_marked && self.trust == Trust::Ready {
            self.trust = Trust::Given;
        }
        let rescale = self.weigh(max, visible, rows, is_marked);
        if is_marked {
            self.mark(visible, rows);
            if let Some(pairs) = self.products.pairs(simd) {
                visible.fill_halves(rows, simd.splat(MARK));
                pairs.call(PairRows::<S, COLS> { pairs, rows: &mut *rows });
            }
        }
        self.products_with_values::<ROWS, NARROW>(tile, &visible.sight, rows, is_marked, rescale, ahead);
    }

    /// [`add`](Self::add) by the unit for matrices.
    #[inline(always)]
    fn add_in_matrices(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        visible: &Visible<'_, S, COLS>,
        max: [S::Vector; COLS],
        rows: &mut [[S::Vector; COLS]],
        ahead: &Ahead<'_>,
    ) {
        let simd = self.simd;
        let is_unbounded = tile.is_known_unbounded() || self.may_be_marked(visible) && !tile.is_finite(simd);
        let rescale = self.weigh(max, visible, rows, false);
        ahead.step();
        self.matrices_with_values(tile, visible.keys(), rows, is_unbounded, rescale);
        if is_unbounded {
            simd.call(UnpairRows { simd, rows: &mut *rows });
            self.mark(visible, rows);
            self.add_unbounded(tile, visible.keys(), visible.without_halves(rows));
        }
    }

    /// Whether keys that are seen by some are masked for others.
    #[inline(always)]
    fn may_be_marked(&self, visible: &Visible<'_, S, COLS>) -> bool {
        !visible.is_all || self.head.call.bias.is_some() || visible.halves != [0, 0]
    }

    /// Turns scores into weights; into pairs of them where products are of pairs, unless some are yet to be marked. Gives what the output is to be
    /// multiplied with, if there is any.
    #[inline(always)]
    fn weigh(
        &mut self,
        max: [S::Vector; COLS],
        visible: &Visible<'_, S, COLS>,
        rows: &mut [[S::Vector; COLS]],
        is_marked: bool,
    ) -> Option<[S::Vector; COLS]> {
        let (softmax, [_, factor]) = (&mut self.softmax, self.head.factors_of_pairs());
        let rescale = match self.products.pairs(self.simd) {
            None => softmax.update(max, visible.keys().start, rows),
            Some(_) if is_marked => softmax.update_scaled(max, factor, visible.without_halves(rows)),
            Some(pairs) => {
                visible.fill_halves(rows, self.simd.splat(f32::NEG_INFINITY));
                pairs.call(UpdateInPairs { pairs, softmax, max, factor, scores: rows })
            }
        };
        self.has_output.then_some(rescale)
    }

    /// Marks the weights of keys that are masked: their values must not even be multiplied by zero.
    #[inline(always)]
    fn mark(&self, visible: &Visible<'_, S, COLS>, rows: &mut [[S::Vector; COLS]]) {
        let (weights, keys) = (visible.without_halves(rows), visible.keys());
        for (c, words) in visible.words.iter().enumerate() {
            let (column, weights) = (self.column(c, keys.start, words), strided(weights, c));
            self.simd.call(Mark { column, weights, len: keys.len(), mark: MARK });
        }
    }

    /// The scores, scaled, and the largest one of each query, of those that all see; `None` where there is no key.
    #[inline(always)]
    fn products_with_keys<const ROWS: usize, const NARROW: usize>(
        &self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        sight: &Sight<COLS>,
        scores: &mut [[S::Vector; COLS]],
        ahead: &Ahead<'_>,
    ) -> Option<[S::Vector; COLS]> {
        let (simd, head, queries, range) = (self.simd, self.head, &*self.queries, &sight.keys);
        let [factor, _] = head.factors_of_pairs();
        let factor = Some(factor).filter(|factor| *factor != S::Scalar::ONE);
        if let Some(matrices) = self.products.matrices(simd) {
            let (keys, first) = tile.matrix_keys(simd, range)?;
            let queries = queries.get(..keys.dim())?;
            ahead.step();
            return Some(matrices.call(MatrixScores { simd, matrices, queries, keys, first, factor, scores }));
        }
        let (reach, columns, ahead) = (sight.reach([0, 1]), Columns::new(0), ahead.or_never());
        Some(match self.products.pairs(simd) {
            None => {
                let (product, keys) = (head.function(simd), tile.keys(simd, range)?);
                let scores = Scores { product, columns, queries, keys, scores, ahead };
                scores_within::<S, _, ROWS, NARROW, COLS>(&reach, scores)
            }
            Some(pairs) => {
                let (product, keys) = (PairDot { simd, pairs, factor }, tile.keys_in_pairs(simd, range)?);
                let queries = queries.get(..keys.dim())?;
                let scores = Scores { product, columns, queries, keys, scores, ahead };
                scores_within::<S, _, ROWS, NARROW, COLS>(&reach, scores)
            }
        })
    }

    /// Adds the values, weighed; `None` where there is no key.
    #[inline(always)]
    fn products_with_values<const ROWS: usize, const NARROW: usize>(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        sight: &Sight<COLS>,
        weights: &[[S::Vector; COLS]],
        is_marked: bool,
        rescale: Option<[S::Vector; COLS]>,
        ahead: &Ahead<'_>,
    ) -> Option<()> {
        let (simd, range, output, ahead) = (self.simd, &sight.keys, &mut *self.output, Some(ahead));
        match self.products.pairs(simd) {
            None => {
                let (product, reach) = (Function::dot(simd), sight.reach([0, 1]));
                let values = tile.values(simd, range)?;
                let sums = Sums { product, weights, reach, values, is_marked, rescale, ahead };
                sums_within::<S, _, ROWS, NARROW, COLS>(range.start, sums, output);
            }
            Some(pairs) => {
                let (product, reach) = (PairDot { simd, pairs, factor: None }, sight.reach([range.start % 2, 2]));
                let (values, weights) = (tile.values_in_pairs(simd, range)?, weights.get(..weights.len() / 2)?);
                let sums = Sums { product, weights, reach, values, is_marked, rescale, ahead };
                sums_within::<S, _, ROWS, NARROW, COLS>(range.start / 2, sums, output);
            }
        }
        self.has_output = true;
        Some(())
    }

    /// [`products_with_values`](Self::products_with_values) by the unit for matrices, of those values that are finite, or of all.
    #[inline(always)]
    fn matrices_with_values(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        range: &Range<usize>,
        weights: &[[S::Vector; COLS]],
        only_finite: bool,
        rescale: Option<[S::Vector; COLS]>,
    ) -> Option<()> {
        let simd = self.simd;
        let (matrices, values) = (self.products.matrices(simd)?, tile.matrix_values(simd, range, only_finite)?);
        let (weights, output) = (weights.get(..weights.len() / 2)?, &mut *self.output);
        matrices.call(MatrixSums { simd, matrices, weights, values, rescale, output });
        self.has_output = true;
        Some(())
    }

    /// Adds the values that are not finite, weighed.
    #[inline(always)]
    fn add_unbounded(
        &mut self,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        range: &Range<usize>,
        weights: &[[S::Vector; COLS]],
    ) -> Option<()> {
        let simd = self.simd;
        let RawRows { strips, first } = tile.raw_values(simd, range)?;
        let (values, output) = (strips.bf16()?, &mut *self.output);
        simd.call(AddUnbounded { simd, weights, values, first, output });
        Some(())
    }

    /// What the first vectors of queries see of some keys, all of which some of them see by their position; where that is told key by key, by `words`.
    #[inline(always)]
    pub(super) fn seen(&self, keys: &Range<usize>, are_full: &[bool], words: &mut [Words<S>]) -> Seen {
        let (simd, head) = (self.simd, self.head);
        if head.is_band() && are_full.iter().all(|is_full| *is_full) {
            return Seen::All;
        }
        for (c, (words, is_full)) in words.iter_mut().zip(are_full).enumerate() {
            if *is_full && head.is_band() {
                *words = Words::all(simd);
            } else {
                self.look(c, keys, words);
            }
        }
        match () {
            () if words.iter().all(|words| !words.any) => Seen::Nothing,
            () if words.iter().all(|words| words.all) => Seen::All,
            () => Seen::Some,
        }
    }

    /// What vector `c` of the queries sees of some keys.
    #[inline(always)]
    pub(super) fn look(&self, c: usize, keys: &Range<usize>, words: &mut Words<S>) {
        let Self { simd, head, .. } = *self;
        simd.call(Look { simd, head, queries: self.of, first: c * S::LANES, keys: keys.clone(), words });
    }

    /// Vector `c` of the queries, and the keys from `key` on.
    #[inline(always)]
    pub(super) fn column<'t>(&'t self, c: usize, key: usize, words: &'t Words<S>) -> Column<'t, 's, S, F> {
        Column { simd: self.simd, head: self.head, queries: self.of, first: c * S::LANES, key, words }
    }
}

/// Whether no lane of some rows is infinite or NaN.
struct LanesAreFinite<'t, S: Simd, const COLS: usize> {
    simd: S,
    rows: &'t [[S::Vector; COLS]],
}

impl<S: Simd, const COLS: usize> Task for LanesAreFinite<'_, S, COLS> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let (simd, zero) = (self.simd, self.simd.splat(0.0));
        let mut sums = [zero; COLS];
        for row in self.rows {
            for c in 0..COLS {
                sums[c] = simd.mul_add(row[c], zero, sums[c]);
            }
        }
        is_zero(simd, sums.into_iter().fold(zero, |sum, of| simd.add(sum, of)))
    }
}

/// What some vectors of queries see of some keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    All,
    Some,
}

/// Overwrites scores of vector `c` of the queries that are not among these rows.
#[inline(always)]
fn fill_beside<V: Copy, const COLS: usize>(scores: &mut [[V; COLS]], c: usize, rows: &Range<usize>, with: V) {
    let len = scores.len();
    for part in [0..rows.start, rows.end..len] {
        for row in scores.get_mut(part).unwrap_or_default() {
            row[c % COLS] = with;
        }
    }
}

/// Those of vector `c` of the queries.
#[inline(always)]
pub(super) fn strided<V: Copy, const COLS: usize>(scores: &mut [[V; COLS]], c: usize) -> Strided<'_, V> {
    Strided { vectors: scores.as_flattened_mut().get_mut(c..).unwrap_or_default(), stride: COLS }
}

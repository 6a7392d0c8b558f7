//! Many queries at once, each in a SIMD lane of its own.
//!
//! A block of queries is transposed once. From then on keys and values are read one element at a time where they lie,
//! maxima, sums and rescaling are plain vertical operations, and nothing has a tail but the queries themselves. Several
//! blocks go over the keys together, so that each tile of keys and values is fetched from memory once for all of them.

use core::{array::from_fn, num::NonZeroUsize, ops::Range};

use super::{
    Columns, Products,
    edges::{LoadQueries, StoreOutput},
    few::{self, Rounded},
    is_zero,
    key_tile::{KeyTile, Tiles},
    matrices::{AddUnbounded, MatrixScores, MatrixSums, UnpairRows},
    pairs::{PairRows, UpdateInPairs},
    reach::{Reach, SINGLE, Sight, scores_within, sums_within},
    score_matrix::{StoreScores, Tiled},
};
use crate::{
    Stage,
    floats::{FloatRows, FloatRowsMut},
    ranges,
    scalar::Scalar,
    score::{
        band::Span,
        function::Score,
        head::{Head, Queries},
        mask::{Look, Words},
        modify::{Apply, Column, Mark, Strided},
        product::{Function, PairDot},
        projection::HeadProjection,
        tile::Scores,
    },
    scratch::Scratch,
    simd::{Kernel, MAX_BLOCKS, Matrices, Pairs, Simd, Task},
    softmax::Softmax,
    view::RowsMut,
    weighted_sum::{Accumulate, Sums},
};

/// The weight of a key that is masked, where weights of zero would not do.
const MARK: f32 = -1.0;

/// How often a block asks for something while it attends to a tile.
const ASKS: usize = 3;

/// Queries of heads that share keys and values, and where their results go.
pub(crate) struct Unit<'a, F, E> {
    pub(crate) head: Head<'a, F, E>,
    /// Those of one head at most as many as `BLOCKS` blocks have lanes; those of several heads as one vector has.
    pub(crate) queries: Queries,
    pub(crate) products: Products,
    pub(crate) rows: FloatRows<'a, E>,
    /// What will probably be asked for next, if it is worth asking for before.
    pub(crate) next_rows: Option<FloatRows<'a, E>>,
    /// As many rows as there are queries.
    pub(crate) output: FloatRowsMut<'a, E>,
    /// Rows of one element.
    pub(crate) lse: Option<RowsMut<'a, E>>,
    /// Rows of the whole call's keys.
    pub(crate) scores: Option<(Stage, RowsMut<'a, E>)>,
    /// If not all keys are meant.
    pub(crate) range: Option<KeyRange<'a, E>>,
    pub(crate) scratch: &'a mut [E],
}

/// Some of the keys, beginning with a tile.
pub(crate) struct KeyRange<'a, E> {
    pub(crate) keys: Range<usize>,
    /// Whether sinks count: in one of the ranges only.
    pub(crate) is_first: bool,
    /// Rows of two elements: of each query, the largest score in base 2, and the sum of the exponentials with respect to it.
    pub(crate) states: RowsMut<'a, E>,
}

impl<F: Score, E: Scalar> Kernel for Unit<'_, F, E> {
    type Scalar = E;
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<Scalar = E>, const ROWS: usize, const NARROW: usize, const COLS: usize>(mut self, simd: S) {
        let scratch = core::mem::take(&mut self.scratch);
        // Hardly ever a second time.
        for trusts in [true, false] {
            let scratch = Scratch::new(&mut *scratch);
            if self.attempt::<S, ROWS, NARROW, COLS>(simd, scratch, trusts) {
                return;
            }
        }
    }
}

impl<'a, F: Score, E: Scalar> Unit<'a, F, E> {
    /// Computes all, if values of masked keys turn out to be finite: that is to be trusted in, or looked after.
    #[inline(always)]
    fn attempt<'s, S: Simd<Scalar = E>, const ROWS: usize, const NARROW: usize, const COLS: usize>(
        &mut self,
        simd: S,
        mut scratch: Scratch<'s, S, COLS>,
        trusts: bool,
    ) -> bool
    where
        'a: 's,
    {
        let products = self.products;
        let Some(scores) = scratch.score_tile(products) else { return true };
        let mut words = [Words::all(simd); COLS];
        let Some(raw) = scratch.take(if self.head.projection().is_some() { self.rows.dim() } else { 0 }) else {
            return true;
        };
        let cache = &self.head.call.kv;
        let has_several_blocks = self.queries.len > COLS * S::LANES;
        let copies_values = products == Products::Many && has_several_blocks && cache.has_far_values::<S>();
        let rows = products.rows::<S>(cache.shape().dim, self.output.dim());
        let [_, first_key] = self.head.origin();
        let tiles = |strips| Tiles::new(strips, first_key, (cache.is_plain(), copies_values, products), &mut scratch);
        let mut tiles = self.head.kv().and_then(tiles);
        // Unlike a constant that is repeated, these write nothing to the room for what they are not.
        let mut blocks: [_; MAX_BLOCKS] = from_fn(|_| None);
        let (mut start, mut end) = (usize::MAX, 0);
        for (block, first) in blocks.iter_mut().zip((0..self.queries.len).step_by(COLS * S::LANES)) {
            let queries = self.queries.part(first, COLS * S::LANES);
            let [Some(q), Some(o)] = rows.map(|rows| scratch.take(rows)) else { break };
            let factor = if products.are_in_pairs() { E::ONE } else { self.head.call.query_factor };
            let load = LoadQueries { simd, from: &self.rows, first, products, factor, to: &mut *q };
            load_queries::<_, _, ROWS, NARROW, COLS>(&self.head, load, raw);
            if let Some(pairs) = products.pairs(simd) {
                pair_queries(simd, pairs, self.rows.dim(), q);
            }
            let rounded = if const { COLS == 1 && Products::may_be_of_rows::<F>() } {
                few::pair_queries(simd, (&self.head, products), queries.len, q.as_flattened_mut())
            } else {
                Rounded::NOT
            };
            let has_sinks = self.range.as_ref().is_none_or(|range| range.is_first);
            let mut new = Block::new(simd, &self.head, (queries, has_sinks), (products, rounded), [q, o]);
            new.trust = if trusts { Trust::Ready } else { Trust::None };
            let keys = new.keys();
            (start, end) = (start.min(keys.start), end.max(keys.end));
            *block = Some(new);
        }

        if let Some(range) = &self.range {
            (start, end) = (start.max(range.keys.start), end.min(range.keys.end));
        }
        if let Some(tiles) = &mut tiles {
            // Tiles begin at the same keys whatever is seen of them: the order of summation is the same for every block.
            let first = start.min(end);
            let key_tile = products.key_tile::<S>();
            let mut start = first / key_tile * key_tile.get();
            let keys_at_once = products.keys_at_once::<S>(tiles.are_raw());
            let visits = |block: &Block<'_, S, COLS>| block.tiles(&(start..end), keys_at_once);
            let visits: usize = blocks.iter().flatten().map(visits).sum();
            let (mut asked, asks) = (0, NonZeroUsize::MIN.saturating_add(ASKS * visits));
            while start < end {
                let mut tile = tiles.tile(start..end.min(start + keys_at_once.get()), first);
                for block in blocks.iter_mut().flatten() {
                    let ask = || {
                        self.prefetch(asked, asks);
                        asked += 1;
                    };
                    block.attend::<_, ROWS, NARROW>(simd, &self.head, &mut tile, (scores, &mut words), ask);
                }
                start += keys_at_once.get();
            }
        }

        if blocks.iter().flatten().any(|block| block.is_spoilt(simd)) {
            return false;
        }
        for (block, first) in blocks.iter_mut().flatten().zip((0..).step_by(COLS * S::LANES)) {
            block.begin(simd);
            let (from, factor, to) = (&*block.output, block.softmax.normaliser(), &mut self.output);
            simd.call(StoreOutput { simd, from, products, factor, to, first });
            if let Some(lse) = &mut self.lse {
                block.softmax.store_state(lse, first, |max, sum| [ranges::log_sum_exp(max, sum)]);
            }
            if let Some(range) = &mut self.range {
                block.softmax.store_state(&mut range.states, first, |max, sum| [max, sum]);
            }
            if let Some((stage, to)) = &mut self.scores {
                let (head, stage, tiles) = (&self.head, *stage, tiles.as_mut());
                let task = StoreScores { simd, block, head, tiles, stage, scores, to, first_row: first };
                if const { COLS == 1 } {
                    simd.call(Tiled::<_, ROWS>(task));
                } else {
                    simd.call(Tiled::<_, SINGLE>(task));
                }
            }
        }
        true
    }

    /// Asks for a part of what lies at both ends of a unit, that number `asked` of so many: the rows that it will write, and the queries of the
    /// next one. Few at a time, as more than can be under way have to be waited for.
    #[inline(always)]
    fn prefetch(&self, asked: usize, asks: NonZeroUsize) {
        let Some(next) = &self.next_rows else { return };
        let rows = self.output.len() / asks + 1;
        for i in asked * rows..(asked + 1) * rows {
            self.output.prefetch(i);
            next.prefetch(i);
        }
    }
}

/// Queries as the score function wants them: transposed, scaled and projected. `raw` is room for them as they were.
#[inline(always)]
fn load_queries<S: Simd, F: Score, const ROWS: usize, const NARROW: usize, const COLS: usize>(
    head: &Head<'_, F, S::Scalar>,
    load: LoadQueries<'_, '_, S, COLS>,
    raw: &mut [[S::Vector; COLS]],
) {
    let simd = load.simd;
    let Some(projection) = head.projection() else { return simd.call(load) };
    let to = load.to;
    simd.call(LoadQueries { to: &mut *raw, ..load });
    match projection {
        HeadProjection::Rows(keys) => {
            let (product, columns) = (Function::dot(simd), Columns::new(0));
            simd.call(Scores::<_, _, ROWS, NARROW, COLS, COLS> { product, columns, queries: raw, keys, scores: to });
        }
        HeadProjection::Columns(values) => {
            let product = Function::dot(simd);
            let (weights, reach) = (&*raw, Reach::whole(raw.len()));
            let sums = Sums { product, weights, reach, values, is_marked: false, rescale: None };
            simd.call(Accumulate::<_, _, ROWS, NARROW, COLS, false> { sums, output: to });
        }
    }
}

/// Queries of so many elements become pairs, with zeros in the rows that are left.
#[inline(always)]
fn pair_queries<S: Simd, const COLS: usize>(
    simd: S,
    pairs: S::Bf16Pairs,
    dim: usize,
    queries: &mut [[S::Vector; COLS]],
) {
    pairs.call(PairRows::<S, COLS> { pairs, rows: queries.get_mut(..dim).unwrap_or_default() });
    queries.get_mut(dim / 2..).unwrap_or_default().fill([simd.splat(0.0); COLS]);
}

/// One block of queries, each in a lane of its own, and what it has gathered so far.
pub(super) struct Block<'s, S: Simd, const COLS: usize> {
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
    trust: Trust,
}

/// Whether values of masked keys are taken to be finite, without a look at them. Where they were not, the output is not either: zero times NaN is NaN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    None,
    /// There has been no need to.
    Ready,
    Given,
}

impl<'s, S: Simd, const COLS: usize> Block<'s, S, COLS> {
    #[inline(always)]
    fn new<F: Score>(
        simd: S,
        head: &Head<'_, F, S::Scalar>,
        (of, has_sinks): (Queries, bool),
        (products, rounded): (Products, Rounded<S::Scalar>),
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
        let mut block =
            Self { of, spans, products, rounded, softmax, queries, output, has_output: false, trust: Trust::None };
        if products.are_for_few() {
            block.begin(simd);
        }
        block
    }

    /// Has an output of zero, if it had none yet.
    #[inline(always)]
    fn begin(&mut self, simd: S) {
        if !core::mem::replace(&mut self.has_output, true) {
            self.output.fill([simd.splat(0.0); COLS]);
        }
    }

    /// Whether values that are not finite may have come from masked keys.
    #[inline(always)]
    fn is_spoilt(&self, simd: S) -> bool {
        self.trust == Trust::Given && self.has_output && !simd.call(LanesAreFinite { simd, rows: self.output })
    }

    /// What any of its queries sees by its position is among these.
    #[inline(always)]
    fn keys(&self) -> Range<usize> {
        let first = self.spans[0].some.clone();
        self.spans.iter().fold(first, |keys, Span { some, .. }| keys.start.min(some.start)..keys.end.max(some.end))
    }

    /// Of how many tiles, each of so many keys, which cover a range, it sees any.
    #[inline(always)]
    fn tiles(&self, range: &Range<usize>, keys_at_once: NonZeroUsize) -> usize {
        let Range { start, end } = self.keys();
        let (start, end) = (start.max(range.start), end.min(range.end));
        if start < end { end.div_ceil(keys_at_once.get()) - start / keys_at_once } else { 0 }
    }

    /// Attends to the keys of a tile.
    #[inline(always)]
    fn attend<F: Score, const ROWS: usize, const NARROW: usize>(
        &mut self,
        simd: S,
        head: &Head<'_, F, S::Scalar>,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
        (scores, words): (&mut [[S::Vector; COLS]], &mut [Words<S>; COLS]),
        mut ask: impl FnMut(),
    ) {
        // A constant, so that products of few queries are not compiled for every number of columns.
        if const { COLS == 1 } && self.products.are_for_few() {
            (0..ASKS).for_each(|_| ask());
            return self.attend_few(simd, head, tile, (scores, words));
        }
        let Some(sight) = Sight::new(&self.spans, &tile.range) else { return };
        let range = &sight.keys;
        let seen = self.seen(simd, head, (range, &sight.are_full), words);
        if seen == Seen::Nothing {
            return;
        }
        // Where the range begins or ends with a part of the keys that are multiplied at once, the others have rows, too.
        let keys_in_one = self.products.keys_in_one::<S>();
        let halves = [range.start % keys_in_one, range.end.wrapping_neg() % keys_in_one];
        // They are asked what all see only where scores are modified, or weights marked.
        if seen == Seen::All && (head.modifies() || halves != [0, 0] || tile.is_known_unbounded()) {
            words.fill(Words::all(simd));
        }
        let Some(rows) = scores.get_mut(..halves[0] + range.len() + halves[1]) else { return };
        let scores = without(rows, halves);
        ask();
        let Some(mut max) = self.products_with_keys::<F, ROWS, NARROW>((simd, head), (&mut *tile, &sight), scores)
        else {
            return;
        };
        if seen == Seen::Some || head.modifies() {
            for (c, (max, words)) in max.iter_mut().zip(&*words).enumerate() {
                let column = self.column(simd, head, c, range.start, words);
                let rows = sight.rows(c, S::LANES);
                fill_beside(scores, c, &rows, simd.splat(f32::NEG_INFINITY));
                *max = simd.call(Apply { column, stage: Stage::Masked, scores: strided(scores, c), rows });
            }
        }
        ask();
        let may_be_marked = seen == Seen::Some || head.call.bias.is_some() || halves != [0, 0];
        let [_, factor] = head.factors_of_pairs();
        if self.products == Products::ManyInMatrices {
            let is_unbounded = tile.is_known_unbounded() || may_be_marked && !tile.is_finite(simd);
            let rescale = self.weigh(simd, (max, factor), (range.start, rows, halves), false);
            ask();
            self.matrices_with_values(simd, (tile, range), rows, (is_unbounded, rescale));
            if is_unbounded {
                simd.call(UnpairRows { simd, rows: &mut *rows });
                self.mark((simd, head), (range, words), (rows, halves));
                self.add_unbounded(simd, (tile, range), without(rows, halves));
            }
            return;
        }
        let is_marked = may_be_marked && self.trust == Trust::None && !tile.is_finite(simd);
        if may_be_marked && self.trust == Trust::Ready {
            self.trust = Trust::Given;
        }
        let rescale = self.weigh(simd, (max, factor), (range.start, rows, halves), is_marked);
        if is_marked {
            self.mark((simd, head), (range, words), (rows, halves));
            if let Some(pairs) = self.products.pairs(simd) {
                fill_halves(rows, halves, simd.splat(MARK));
                pairs.call(PairRows::<S, COLS> { pairs, rows: &mut *rows });
            }
        }
        ask();
        self.products_with_values::<ROWS, NARROW>(simd, (tile, &sight), rows, (is_marked, rescale));
    }

    /// Turns scores into weights; into pairs of them where products are of pairs, unless some are yet to be marked.
    #[inline(always)]
    fn weigh(
        &mut self,
        simd: S,
        (max, factor): ([S::Vector; COLS], S::Scalar),
        (first, scores, halves): (usize, &mut [[S::Vector; COLS]], [usize; 2]),
        is_marked: bool,
    ) -> [S::Vector; COLS] {
        let softmax = &mut self.softmax;
        match self.products.pairs(simd) {
            None => softmax.update(max, (first, scores)),
            Some(_) if is_marked => softmax.update_scaled((max, factor), without(scores, halves)),
            Some(pairs) => {
                fill_halves(scores, halves, simd.splat(f32::NEG_INFINITY));
                pairs.call(UpdateInPairs { pairs, softmax, max, factor, scores })
            }
        }
    }

    /// Marks the weights of keys that are masked: their values must not even be multiplied by zero.
    #[inline(always)]
    fn mark<F: Score>(
        &self,
        (simd, head): (S, &Head<'_, F, S::Scalar>),
        (range, words): (&Range<usize>, &[Words<S>; COLS]),
        (weights, halves): (&mut [[S::Vector; COLS]], [usize; 2]),
    ) {
        for (c, words) in words.iter().enumerate() {
            let column = self.column(simd, head, c, range.start, words);
            let weights = strided(without(weights, halves), c);
            simd.call(Mark { column, weights, len: range.len(), mark: MARK });
        }
    }

    /// The scores, scaled, and the largest one of each query, of those that all see; `None` where there is no key.
    #[inline(always)]
    fn products_with_keys<F: Score, const ROWS: usize, const NARROW: usize>(
        &self,
        (simd, head): (S, &Head<'_, F, S::Scalar>),
        (tile, sight): (&mut KeyTile<'_, '_, S::Scalar>, &Sight<COLS>),
        scores: &mut [[S::Vector; COLS]],
    ) -> Option<[S::Vector; COLS]> {
        let (queries, range) = (&*self.queries, &sight.keys);
        if let Some(matrices) = self.products.matrices(simd) {
            let [factor, _] = head.factors_of_pairs();
            let factor = Some(factor).filter(|factor| *factor != S::Scalar::ONE);
            let (keys, first) = tile.matrix_keys(simd, range)?;
            let queries = queries.get(..keys.dim())?;
            return Some(matrices.call(MatrixScores { simd, matrices, queries, keys, first, factor, scores }));
        }
        Some(match self.products.pairs(simd) {
            None => {
                let (product, keys) = (head.function(simd), tile.keys(simd, range)?);
                scores_within::<S, _, ROWS, NARROW, COLS>(product, &sight.reach([0, 1]), queries, keys, scores)
            }
            Some(pairs) => {
                let [factor, _] = head.factors_of_pairs();
                let product = PairDot { simd, pairs, factor: Some(factor).filter(|factor| *factor != S::Scalar::ONE) };
                let keys = tile.keys_in_pairs(simd, range)?;
                let queries = queries.get(..keys.dim())?;
                scores_within::<S, _, ROWS, NARROW, COLS>(product, &sight.reach([0, 1]), queries, keys, scores)
            }
        })
    }

    /// Adds the values, weighed; `None` where there is no key.
    #[inline(always)]
    fn products_with_values<const ROWS: usize, const NARROW: usize>(
        &mut self,
        simd: S,
        (tile, sight): (&mut KeyTile<'_, '_, S::Scalar>, &Sight<COLS>),
        weights: &[[S::Vector; COLS]],
        (is_marked, rescale): (bool, [S::Vector; COLS]),
    ) -> Option<()> {
        let (rescale, range, output) = (self.has_output.then_some(rescale), &sight.keys, &mut *self.output);
        match self.products.pairs(simd) {
            None => {
                let (product, reach) = (Function::dot(simd), sight.reach([0, 1]));
                let values = tile.values(simd, range)?;
                let sums = Sums { product, weights, reach, values, is_marked, rescale };
                sums_within::<S, _, ROWS, NARROW, COLS>((range.start, sums), output);
            }
            Some(pairs) => {
                let (product, reach) = (PairDot { simd, pairs, factor: None }, sight.reach([range.start % 2, 2]));
                let (values, weights) = (tile.values_in_pairs(simd, range)?, weights.get(..weights.len() / 2)?);
                let sums = Sums { product, weights, reach, values, is_marked, rescale };
                sums_within::<S, _, ROWS, NARROW, COLS>((range.start / 2, sums), output);
            }
        }
        self.has_output = true;
        Some(())
    }

    /// [`products_with_values`](Self::products_with_values) by the unit for matrices, of those values that are finite, or of all.
    #[inline(always)]
    fn matrices_with_values(
        &mut self,
        simd: S,
        (tile, range): (&mut KeyTile<'_, '_, S::Scalar>, &Range<usize>),
        weights: &[[S::Vector; COLS]],
        (only_finite, rescale): (bool, [S::Vector; COLS]),
    ) -> Option<()> {
        let rescale = self.has_output.then_some(rescale);
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
        simd: S,
        (tile, range): (&mut KeyTile<'_, '_, S::Scalar>, &Range<usize>),
        weights: &[[S::Vector; COLS]],
    ) -> Option<()> {
        let (values, first) = tile.raw_values(simd, range)?;
        let (values, output) = (values.bf16()?, &mut *self.output);
        simd.call(AddUnbounded { simd, weights, values, first, output });
        Some(())
    }

    /// What the first vectors of queries see of some keys, all of which some of them see by their position; where that is told key by key, by `words`.
    #[inline(always)]
    pub(super) fn seen<F: Score>(
        &self,
        simd: S,
        head: &Head<'_, F, S::Scalar>,
        (keys, are_full): (&Range<usize>, &[bool]),
        words: &mut [Words<S>],
    ) -> Seen {
        if head.is_band() && are_full.iter().all(|is_full| *is_full) {
            return Seen::All;
        }
        for (c, (words, is_full)) in words.iter_mut().zip(are_full).enumerate() {
            if *is_full && head.is_band() {
                *words = Words::all(simd);
            } else {
                self.look(simd, head, c, keys, words);
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
    pub(super) fn look<F: Score>(
        &self,
        simd: S,
        head: &Head<'_, F, S::Scalar>,
        c: usize,
        keys: &Range<usize>,
        words: &mut Words<S>,
    ) {
        simd.call(Look { simd, head, queries: self.of, first: c * S::LANES, keys: keys.clone(), words });
    }

    /// Vector `c` of the queries, and the keys from `key` on.
    #[inline(always)]
    pub(super) fn column<'t, 'a, F>(
        &self,
        simd: S,
        head: &'t Head<'a, F, S::Scalar>,
        c: usize,
        key: usize,
        words: &'t Words<S>,
    ) -> Column<'t, 'a, S, F> {
        Column { simd, head, queries: self.of, first: c * S::LANES, key, words }
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

/// Rows without those that stand for the other halves of pairs of which one half is meant: before the first, and the last.
#[inline(always)]
fn without<V>(rows: &mut [V], [first, last]: [usize; 2]) -> &mut [V] {
    let end = rows.len() - last;
    rows.get_mut(first..end).unwrap_or_default()
}

/// Puts something in the rows that [`without`] leaves out.
#[inline(always)]
fn fill_halves<V: Copy, const COLS: usize>(rows: &mut [[V; COLS]], [first, last]: [usize; 2], with: V) {
    let end = rows.len() - last;
    for part in [0..first, end..rows.len()] {
        rows.get_mut(part).unwrap_or_default().fill([with; COLS]);
    }
}

/// Those of vector `c` of the queries.
#[inline(always)]
pub(super) fn strided<V: Copy, const COLS: usize>(scores: &mut [[V; COLS]], c: usize) -> Strided<'_, V> {
    Strided { vectors: scores.as_flattened_mut().get_mut(c..).unwrap_or_default(), stride: COLS }
}

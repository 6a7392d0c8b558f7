//! Many queries at once, each in a SIMD lane of its own.
//!
//! A block of queries is transposed once. From then on keys and values are read one element at a time where they lie,
//! maxima, sums and rescaling are plain vertical operations, and nothing has a tail but the queries themselves. Several
//! blocks go over the keys together, so that each tile of keys and values is fetched from memory once for all of them.

use core::{array::from_fn, num::NonZeroUsize, ops::Range};

use super::{
    Ahead, Columns, Products,
    block::{Block, Room, Trust},
    edges::{LoadQueries, StoreOutput},
    key_tile::Tiles,
    pairs::PairRows,
    reach::{Reach, SINGLE},
    score_matrix::{StoreScores, Tiled},
};
use crate::{
    Stage,
    floats::{FloatRows, FloatRowsMut},
    pieces::pieces,
    ranges,
    scalar::Scalar,
    score::{
        band::hull,
        function::Score,
        head::{Head, Queries},
        mask::Words,
        product::Function,
        projection::HeadProjection,
        tile::Scores,
    },
    scratch::Scratch,
    simd::{Kernel, MAX_BLOCKS, Pairs, Simd},
    view::RowsMut,
    weighted_sum::{Accumulate, Sums},
};

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
        for trust in [Trust::Ready, Trust::None] {
            let scratch = Scratch::new(&mut *scratch);
            if self.attempt::<S, ROWS, NARROW, COLS>(simd, scratch, trust) {
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
        trust: Trust,
    ) -> bool
    where
        'a: 's,
    {
        let (head, products) = (self.head, self.products);
        let Some(scores) = scratch.score_tile(products) else { return true };
        let mut room = Room { scores, words: [Words::all(simd); COLS] };
        let raw = if head.projection().is_some() { self.rows.dim() } else { 0 };
        let Some(raw) = scratch.take(raw) else { return true };
        let mut tiles = self.tiles(&mut scratch);
        // Unlike a constant that is repeated, these write nothing to the room for what they are not.
        let mut blocks: [_; MAX_BLOCKS] = from_fn(|_| None);
        for (block, first) in blocks.iter_mut().zip((0..self.queries.len).step_by(COLS * S::LANES)) {
            *block = self.load_block::<S, ROWS, NARROW, COLS>(simd, &head, first, &mut scratch, &mut *raw);
            block.iter_mut().for_each(|block| block.trust = trust);
        }
        if let Some(tiles) = &mut tiles {
            self.attend::<S, ROWS, NARROW, COLS>(&mut blocks, tiles, &mut room);
        }
        if blocks.iter().flatten().any(Block::is_spoilt) {
            return false;
        }
        for (block, first) in blocks.iter_mut().flatten().zip((0..).step_by(COLS * S::LANES)) {
            self.store_block::<S, ROWS, COLS>(block, first, tiles.as_mut(), &mut *room.scores);
        }
        true
    }

    /// Keys and values; `None` where there are none.
    #[inline(always)]
    fn tiles<'s, S: Simd<Scalar = E>, const COLS: usize>(
        &self,
        scratch: &mut Scratch<'s, S, COLS>,
    ) -> Option<Tiles<'s, E>>
    where
        'a: 's,
    {
        let (cache, products) = (&self.head.call.kv, self.products);
        let has_several_blocks = self.queries.len > COLS * S::LANES;
        let copies_values = products == Products::Many && has_several_blocks && cache.has_far_values::<S>();
        let [_, first_key] = self.head.origin();
        Tiles::new(self.head.kv()?, first_key, products, cache.is_plain(), copies_values, scratch)
    }

    /// The block of queries from number `first` on, which there is; `None` only if the scratch is too short. `raw` is room for queries that are yet to be projected.
    #[inline(always)]
    fn load_block<'b, 's: 'b, S: Simd<Scalar = E>, const ROWS: usize, const NARROW: usize, const COLS: usize>(
        &self,
        simd: S,
        head: &'b Head<'b, F, E>,
        first: usize,
        scratch: &mut Scratch<'s, S, COLS>,
        raw: &mut [[S::Vector; COLS]],
    ) -> Option<Block<'b, S, F, COLS>> {
        let products = self.products;
        let queries = self.queries.part(first, COLS * S::LANES);
        let rows = products.rows::<S>(queries.len, [head.call.kv.shape().dim, self.output.dim()]);
        let [q, o] = rows.map(|rows| scratch.take(rows));
        let (q, o) = (q?, o?);
        let factor = if products.are_in_pairs() { E::ONE } else { head.call.query_factor };
        let load = LoadQueries { simd, from: &self.rows, first, products, factor, to: &mut *q };
        load_queries::<_, _, ROWS, NARROW, COLS>(head, load, raw);
        if let Some(pairs) = products.pairs(simd) {
            pair_queries(simd, pairs, self.rows.dim(), q);
        }
        let has_sinks = self.range.as_ref().is_none_or(|range| range.is_first);
        let mut block = Block::new(simd, head, queries, has_sinks, products, [q, o]);
        if const { COLS == 1 && Products::may_be_of_rows::<F>() } {
            block.round_queries();
        }
        Some(block)
    }

    /// Has blocks attend to all keys that are meant, tile by tile.
    #[inline(always)]
    fn attend<S: Simd<Scalar = E>, const ROWS: usize, const NARROW: usize, const COLS: usize>(
        &self,
        blocks: &mut [Option<Block<'_, S, F, COLS>>; MAX_BLOCKS],
        tiles: &mut Tiles<'_, E>,
        room: &mut Room<'_, S, COLS>,
    ) {
        let mut keys = blocks.iter().flatten().map(Block::keys).reduce(hull).unwrap_or_default();
        if let Some(range) = &self.range {
            keys = keys.start.max(range.keys.start)..keys.end.min(range.keys.end);
        }
        // Tiles begin at the same keys whatever is seen of them: the order of summation is the same for every block.
        let first = keys.start.min(keys.end);
        let key_tile = self.products.key_tile::<S>();
        let mut start = first / key_tile * key_tile.get();
        let keys_at_once = self.products.keys_at_once::<S>(tiles.are_raw());
        let seen = start..keys.end;
        let ask = |i| self.prefetch(i);
        let steps = blocks.iter().flatten().map(|block| {
            let keys = block.keys();
            self.steps::<S, ROWS>(&keys, tiles_of(&keys, &seen, keys_at_once))
        });
        let steps = steps.reduce(|[a, b], [c, d]| [a + c, b + d]).unwrap_or_default();
        let ahead = Ahead::new(&ask, self.next_rows.map_or(0, |_| 2 * self.output.len()), steps);
        while start < keys.end {
            let mut tile = tiles.tile(start..keys.end.min(start + keys_at_once.get()), first);
            for block in blocks.iter_mut().flatten() {
                block.attend::<ROWS, NARROW>(&mut tile, room, &ahead);
            }
            start += keys_at_once.get();
        }
    }

    /// Writes the results of a block whose queries are those from number `first` on.
    #[inline(always)]
    fn store_block<S: Simd<Scalar = E>, const ROWS: usize, const COLS: usize>(
        &mut self,
        block: &mut Block<'_, S, F, COLS>,
        first: usize,
        tiles: Option<&mut Tiles<'_, E>>,
        scores: &mut [[S::Vector; COLS]],
    ) {
        block.begin();
        let Block { simd, products, .. } = *block;
        let (from, factor, to) = (&*block.output, block.softmax.normaliser(), &mut self.output);
        simd.call(StoreOutput { simd, from, products, factor, to, first });
        if let Some(lse) = &mut self.lse {
            block.softmax.store_state(lse, first, |max, sum| [ranges::log_sum_exp(max, sum)]);
        }
        if let Some(range) = &mut self.range {
            block.softmax.store_state(&mut range.states, first, |max, sum| [max, sum]);
        }
        if let Some((stage, to)) = &mut self.scores {
            let task = StoreScores { block, tiles, stage: *stage, scores, to, first_row: first };
            if const { COLS == 1 } {
                simd.call(Tiled::<_, ROWS>(task));
            } else {
                simd.call(Tiled::<_, SINGLE>(task));
            }
        }
    }

    /// Asks for what lies at both ends of a unit: row `i` of those that it will write, and of the queries of the next one.
    fn prefetch(&self, i: usize) {
        if i.is_multiple_of(2) {
            self.output.prefetch(i / 2);
        } else {
            self.next_rows.inspect(|rows| rows.prefetch(i / 2));
        }
    }

    /// How many steps a block that sees these keys takes to attend to them, about: to values, and to keys.
    #[inline(always)]
    fn steps<S: Simd<Scalar = E>, const ROWS: usize>(&self, keys: &Range<usize>, tiles: usize) -> [usize; 2] {
        match self.products {
            Products::Many | Products::ManyInPairs => {
                let at_once = self.products.keys_in_one::<S>();
                let pieces = pieces(keys.start / at_once, keys.len() / at_once, S::PIECE).count();
                [pieces * (self.output.dim() / ROWS), keys.len() / ROWS]
            }
            _ => [tiles, 0],
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
            simd.call(Scores::<_, _, ROWS, NARROW, COLS, COLS> {
                product,
                columns,
                queries: raw,
                keys,
                scores: to,
                ahead: None,
            });
        }
        HeadProjection::Columns(values) => {
            let product = Function::dot(simd);
            let (weights, reach) = (&*raw, Reach::whole(raw.len()));
            let sums = Sums { product, weights, reach, values, is_marked: false, rescale: None, ahead: None };
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

/// How many tiles, each of so many keys, which cover `all`, have any of some keys.
#[inline(always)]
fn tiles_of(keys: &Range<usize>, all: &Range<usize>, keys_at_once: NonZeroUsize) -> usize {
    let (start, end) = (keys.start.max(all.start), keys.end.min(all.end));
    if start < end { end.div_ceil(keys_at_once.get()) - start / keys_at_once } else { 0 }
}

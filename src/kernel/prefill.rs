//! Many queries at once, each in a SIMD lane of its own.
//!
//! A block of queries is transposed once. From then on keys and values are read one element at a time where they lie,
//! maxima, sums and rescaling are plain vertical operations, and nothing has a tail but the queries themselves. Several
//! blocks go over the keys together, so that each tile of keys and values is fetched from memory once for all of them.

use core::num::NonZeroUsize;

use crate::{
    score::{
        dot,
        mask::{Mask, Reach},
    },
    scratch::Scratch,
    simd::{Kernel, MAX_BLOCKS, Simd},
    softmax::Softmax,
    view::{Rows, RowsMut},
    weighted_sum,
};

/// Consecutive queries of one head, and where their results go.
pub(crate) struct Unit<'a> {
    /// At most as many as `BLOCKS` blocks have lanes.
    pub(crate) queries: Rows<'a, f32>,
    /// What will probably be asked for next.
    pub(crate) next_queries: Option<Rows<'a, f32>>,
    /// Which of the head's queries is the first one.
    pub(crate) first: usize,
    /// The head's keys and values; `None` where there are none.
    pub(crate) kv: Option<(Rows<'a, f32>, Rows<'a, f32>)>,
    pub(crate) mask: Mask,
    /// `scale * log2(e)`
    pub(crate) scale: f32,
    /// As many rows as there are queries.
    pub(crate) output: RowsMut<'a, f32>,
    /// Rows of one element.
    pub(crate) lse: Option<RowsMut<'a, f32>>,
    pub(crate) scratch: &'a mut [f32],
}

impl Kernel for Unit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const NARROW: usize, const COLS: usize>(mut self, simd: S) {
        let mut scratch = Scratch::<S, COLS>::new(core::mem::take(&mut self.scratch));
        let Some(scores) = scratch.score_tile() else { return };
        let mut blocks = [const { None }; MAX_BLOCKS];
        let mut end = 0;
        for (block, first) in blocks.iter_mut().zip((0..self.queries.len()).step_by(COLS * S::LANES)) {
            let Some(queries) = self.queries.range(first, COLS * S::LANES) else { break };
            let reach = self.mask.reach(self.first + first, queries.len());
            let (Some(q), Some(o)) = (scratch.take(queries.dim()), scratch.take(self.output.dim())) else { break };
            end = end.max(reach.end);
            *block = Some(Block::new(simd, queries, reach, self.scale, q, o));
        }

        if let Some((keys, values)) = self.kv {
            let tiles = NonZeroUsize::MIN.saturating_add(end / S::KEY_TILE);
            for (tile, start) in (0..end).step_by(S::KEY_TILE).enumerate() {
                self.prefetch(tile, tiles);
                for block in blocks.iter_mut().flatten() {
                    block.attend::<ROWS, NARROW>(simd, keys, values, start, scores);
                }
            }
        }

        for (block, first) in blocks.iter().flatten().zip((0..).step_by(COLS * S::LANES)) {
            store(simd, block.output, block.softmax.normaliser(), &mut self.output, first);
            if let Some(lse) = &mut self.lse {
                store_lse(simd, &block.softmax, lse, first);
            }
        }
    }
}

impl Unit<'_> {
    /// Asks for the part of what lies at both ends of a unit that falls to one of its tiles: the rows that it will write, and
    /// the queries of the next one.
    #[inline(always)]
    fn prefetch(&self, tile: usize, tiles: NonZeroUsize) {
        let rows = self.output.len() / tiles + 1;
        for i in tile * rows..(tile + 1) * rows {
            self.output.prefetch(i);
            if let Some(next) = &self.next_queries {
                next.prefetch(i);
            }
        }
    }
}

/// One block of queries, each in a lane of its own, and what it has gathered so far.
struct Block<'s, S: Simd, const COLS: usize> {
    reach: Reach,
    softmax: Softmax<S, COLS>,
    /// `[head_dim][query]`, scaled
    queries: &'s mut [[S::Vector; COLS]],
    /// `[value_dim][query]`, not yet normalised
    output: &'s mut [[S::Vector; COLS]],
}

impl<'s, S: Simd, const COLS: usize> Block<'s, S, COLS> {
    #[inline(always)]
    fn new(
        simd: S,
        from: Rows<'_, f32>,
        reach: Reach,
        scale: f32,
        queries: &'s mut [[S::Vector; COLS]],
        output: &'s mut [[S::Vector; COLS]],
    ) -> Self {
        load(simd, from, scale, queries);
        output.fill([simd.splat(0.0); COLS]);
        Self { reach, softmax: Softmax::new(simd), queries, output }
    }

    /// Attends to the keys of the tile that begins with key `start`.
    #[inline(always)]
    fn attend<const ROWS: usize, const NARROW: usize>(
        &mut self,
        simd: S,
        keys: Rows<'_, f32>,
        values: Rows<'_, f32>,
        start: usize,
        scores: &mut [[S::Vector; COLS]],
    ) {
        let len = S::KEY_TILE.min(self.reach.end.saturating_sub(start));
        let (Some(keys), Some(values)) = (keys.range(start, len), values.range(start, len)) else { return };
        let visible = self.reach.tile(simd, start, len);
        let Some(scores) = scores.get_mut(..len) else { return };
        let max = dot::Tile { simd, queries: self.queries, keys, visible: &visible }.scores::<ROWS, NARROW>(scores);
        let rescale = self.softmax.update(max, scores);
        let tile = weighted_sum::Tile { simd, weights: scores, values, visible: &visible, rescale };
        tile.accumulate::<ROWS, NARROW>(self.output);
    }
}

/// `to[t][query] = from[query][t] * scale`; lanes without a query repeat the last one.
#[inline(always)]
fn load<S: Simd, const COLS: usize>(simd: S, from: Rows<'_, f32>, scale: f32, to: &mut [[S::Vector; COLS]]) {
    let scale = simd.splat(scale);
    for c in 0..COLS {
        for (chunk, t) in to.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
            let len = chunk.len();
            let square = if len == S::LANES {
                load_square(simd, from, c * S::LANES, t, S::LANES)
            } else {
                load_square(simd, from, c * S::LANES, t, len)
            };
            for (to, from) in chunk.iter_mut().zip(square.as_ref()) {
                to[c] = simd.mul(*from, scale);
            }
        }
    }
}

/// Columns `t .. t + len` of `LANES` rows from `first` on, transposed.
#[inline(always)]
fn load_square<S: Simd>(simd: S, from: Rows<'_, f32>, first: usize, t: usize, len: usize) -> S::Square {
    let mut square = simd.zeros();
    for (i, row) in square.as_mut().iter_mut().enumerate() {
        // SAFETY: there is a row, so the last one exists; callers ask for columns that exist.
        *row = simd.load(unsafe { from.slice((first + i).min(from.len() - 1), t, len) });
    }
    simd.transpose(&mut square);
    square
}

/// `to[first + query][t] = from[t][query] * factor[query]`
#[inline(always)]
fn store<S: Simd, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    factor: [S::Vector; COLS],
    to: &mut RowsMut<'_, f32>,
    first: usize,
) {
    for c in 0..COLS {
        for (chunk, t) in from.chunks(S::LANES).zip((0..).step_by(S::LANES)) {
            let mut square = simd.zeros();
            for (to, from) in square.as_mut().iter_mut().zip(chunk) {
                *to = simd.mul(from[c], factor[c]);
            }
            simd.transpose(&mut square);
            let len = chunk.len();
            if len == S::LANES {
                store_square(simd, &square, to, first + c * S::LANES, t, S::LANES);
            } else {
                store_square(simd, &square, to, first + c * S::LANES, t, len);
            }
        }
    }
}

/// Writes columns `t .. t + len` of the rows from `first` on, at most `LANES` of them.
#[inline(always)]
fn store_square<S: Simd>(simd: S, square: &S::Square, to: &mut RowsMut<'_, f32>, first: usize, t: usize, len: usize) {
    let rows = to.len().saturating_sub(first);
    for (i, row) in square.as_ref().iter().enumerate().take(rows) {
        // SAFETY: `first + i < to.len()`; callers ask for columns that exist.
        simd.store(*row, unsafe { to.slice_mut(first + i, t, len) });
    }
}

/// `to[first + query] = ln(sum_j e^score_j)`
#[inline(always)]
fn store_lse<S: Simd, const COLS: usize>(simd: S, softmax: &Softmax<S, COLS>, to: &mut RowsMut<'_, f32>, first: usize) {
    let (max, sum) = softmax.state();
    for c in 0..COLS {
        let (mut maxima, mut sums) = ([0.0; 16], [0.0; 16]);
        simd.store(max[c], &mut maxima);
        simd.store(sum[c], &mut sums);
        for (i, (max, sum)) in maxima.iter().zip(&sums).take(S::LANES).enumerate() {
            if let [lse] = to.row_mut(first + c * S::LANES + i) {
                *lse = max * core::f32::consts::LN_2 + libm::logf(*sum);
            }
        }
    }
}

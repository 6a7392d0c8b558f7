//! Many queries at once, each in a SIMD lane of its own.
//!
//! A block of queries is transposed once. From then on keys and values are read one element at a time where they lie,
//! maxima, sums and rescaling are plain vertical operations, and nothing has a tail but the queries themselves.

use crate::{
    score::{dot, mask::Reach},
    scratch::Tiles,
    simd::{Kernel, Simd},
    softmax::Softmax,
    view::{Rows, RowsMut},
    weighted_sum,
};

/// One block of queries of one head, and where its results go.
pub(crate) struct Block<'a> {
    /// The block's queries: at most as many as its vectors have lanes.
    pub(crate) queries: Rows<'a, f32>,
    /// The head's keys and values; `None` where there are none.
    pub(crate) kv: Option<(Rows<'a, f32>, Rows<'a, f32>)>,
    pub(crate) reach: Reach,
    /// `scale * log2(e)`
    pub(crate) scale: f32,
    /// As many rows as there are queries.
    pub(crate) output: RowsMut<'a, f32>,
    /// Rows of one element.
    pub(crate) lse: Option<RowsMut<'a, f32>>,
    pub(crate) scratch: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const COLS: usize>(mut self, simd: S) {
        let tiles = Tiles::<S, COLS>::carve(self.scratch, self.queries.dim(), self.output.dim());
        let Some(Tiles { queries, scores, output }) = tiles else { return };
        load(simd, self.queries, self.scale, queries);
        output.fill([simd.splat(0.0); COLS]);
        let mut softmax = Softmax::new(simd);

        if let Some((keys, values)) = self.kv {
            for start in (0..self.reach.end).step_by(S::KEY_TILE) {
                let len = S::KEY_TILE.min(self.reach.end - start);
                let (Some(keys), Some(values)) = (keys.range(start, len), values.range(start, len)) else { break };
                let visible = self.reach.tile(simd, start, len);
                let max = dot::tile::<S, ROWS, COLS>(simd, queries, keys, &visible, scores);
                let Some(weights) = scores.get_mut(..len) else { break };
                let rescale = softmax.update(max, weights);
                weighted_sum::accumulate::<S, ROWS, COLS>(simd, weights, values, &visible, rescale, output);
            }
        }

        store(simd, output, softmax.normaliser(), &mut self.output);
        if let Some(lse) = &mut self.lse {
            store_lse(simd, &softmax, lse);
        }
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

/// `to[query][t] = from[t][query] * factor[query]`
#[inline(always)]
fn store<S: Simd, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    factor: [S::Vector; COLS],
    to: &mut RowsMut<'_, f32>,
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
                store_square(simd, &square, to, c * S::LANES, t, S::LANES);
            } else {
                store_square(simd, &square, to, c * S::LANES, t, len);
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

/// `to[query] = ln(sum_j e^score_j)`
#[inline(always)]
fn store_lse<S: Simd, const COLS: usize>(simd: S, softmax: &Softmax<S, COLS>, to: &mut RowsMut<'_, f32>) {
    let (max, sum) = softmax.state();
    for c in 0..COLS {
        let (mut maxima, mut sums) = ([0.0; 16], [0.0; 16]);
        simd.store(max[c], &mut maxima);
        simd.store(sum[c], &mut sums);
        for (i, (max, sum)) in maxima.iter().zip(&sums).take(S::LANES).enumerate() {
            if let [lse] = to.row_mut(c * S::LANES + i) {
                *lse = max * core::f32::consts::LN_2 + libm::logf(*sum);
            }
        }
    }
}

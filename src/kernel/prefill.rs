//! Many queries at once, each in a SIMD lane of its own.
//!
//! A block of queries is transposed once. From then on keys and values are read one element at a time where they lie,
//! maxima, sums and rescaling are plain vertical operations, and nothing has a tail but the queries themselves.

use crate::{
    score::{dot, mask::Reach},
    scratch::Tiles,
    simd::{Kernel, Simd},
    softmax::Softmax,
    view::Rows,
    weighted_sum,
};

/// One block of queries of one head, and where its results go.
pub(crate) struct Block<'a, O, L> {
    /// The block's queries: at most as many as its vectors have lanes.
    pub(crate) queries: Rows<'a, f32>,
    /// The head's keys and values; `None` where there are none.
    pub(crate) kv: Option<(Rows<'a, f32>, Rows<'a, f32>)>,
    pub(crate) value_dim: usize,
    pub(crate) reach: Reach,
    /// `scale * log2(e)`
    pub(crate) scale: f32,
    /// The output row of a query of the block.
    pub(crate) output: O,
    /// Takes the log-sum-exp of a query of the block.
    pub(crate) lse: Option<L>,
    pub(crate) scratch: &'a mut [f32],
}

impl<'a, O, L> Kernel for Block<'a, O, L>
where
    O: FnMut(usize) -> &'a mut [f32],
    L: FnMut(usize) -> &'a mut [f32],
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const COLS: usize>(self, simd: S) {
        let Some(tiles) = Tiles::<S, COLS>::carve(self.scratch, self.queries.dim(), self.value_dim) else {
            return;
        };
        let Tiles { queries, scores, output } = tiles;
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

        store(simd, output, softmax.normaliser(), self.queries.len(), self.output);
        if let Some(lse) = self.lse {
            store_lse(simd, &softmax, self.queries.len(), lse);
        }
    }
}

/// `to[t][query] = from[query][t] * scale`; zero in lanes without a query.
#[inline(always)]
fn load<S: Simd, const COLS: usize>(simd: S, from: Rows<'_, f32>, scale: f32, to: &mut [[S::Vector; COLS]]) {
    let scale = simd.splat(scale);
    for (chunk, first) in to.chunks_mut(S::LANES).zip((0..).step_by(S::LANES)) {
        for c in 0..COLS {
            let mut square = simd.zeros();
            for (i, row) in square.as_mut().iter_mut().enumerate() {
                let query = from.row(c * S::LANES + i);
                *row = simd.mul(simd.load(query.get(first..).unwrap_or_default()), scale);
            }
            simd.transpose(&mut square);
            for (to, from) in chunk.iter_mut().zip(square.as_ref()) {
                to[c] = *from;
            }
        }
    }
}

/// `to(query)[t] = from[t][query] * factor[query]` for the first `rows` queries.
#[inline(always)]
fn store<'a, S: Simd, const COLS: usize>(
    simd: S,
    from: &[[S::Vector; COLS]],
    factor: [S::Vector; COLS],
    rows: usize,
    mut to: impl FnMut(usize) -> &'a mut [f32],
) {
    for (chunk, first) in from.chunks(S::LANES).zip((0..).step_by(S::LANES)) {
        for c in 0..COLS {
            let mut square = simd.zeros();
            for (to, from) in square.as_mut().iter_mut().zip(chunk) {
                *to = simd.mul(from[c], factor[c]);
            }
            simd.transpose(&mut square);
            for (i, row) in square.as_ref().iter().enumerate().take(rows.saturating_sub(c * S::LANES)) {
                simd.store(*row, to(c * S::LANES + i).get_mut(first..).unwrap_or_default());
            }
        }
    }
}

/// `to(query) = ln(sum_j e^score_j)` for the first `rows` queries.
#[inline(always)]
fn store_lse<'a, S: Simd, const COLS: usize>(
    simd: S,
    softmax: &Softmax<S, COLS>,
    rows: usize,
    mut to: impl FnMut(usize) -> &'a mut [f32],
) {
    let (max, sum) = softmax.state();
    for c in 0..COLS {
        let (mut maxima, mut sums) = ([0.0; 16], [0.0; 16]);
        simd.store(max[c], &mut maxima);
        simd.store(sum[c], &mut sums);
        let lanes = maxima.iter().zip(&sums).take(S::LANES).enumerate();
        for (i, (max, sum)) in lanes.take(rows.saturating_sub(c * S::LANES)) {
            if let [lse] = to(c * S::LANES + i) {
                *lse = max * core::f32::consts::LN_2 + libm::logf(*sum);
            }
        }
    }
}

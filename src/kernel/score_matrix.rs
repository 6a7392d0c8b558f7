//! The scores themselves, for those who want to see them: a second pass over the keys, one vector of queries at a time.

use core::f64::consts::LN_2;

use super::{
    Columns,
    block::{Block, strided},
    key_tile::{KeyTile, Tiles},
    transpose::store,
};
use crate::{
    Stage,
    scalar::Scalar,
    score::{
        function::Score,
        mask::Words,
        modify::{Apply, Mark},
        tile::Scores,
    },
    simd::{Simd, Task},
    validate::Sequence,
    view::RowsMut,
};

/// Writes the scores of a block's queries with all keys, as they are at some stage.
pub(super) struct StoreScores<'t, 's, 'a, S: Simd, F, const COLS: usize> {
    pub(super) block: &'t Block<'t, S, F, COLS>,
    pub(super) tiles: Option<&'t mut Tiles<'s, S::Scalar>>,
    pub(super) stage: Stage,
    /// Room for a tile.
    pub(super) scores: &'t mut [[S::Vector; COLS]],
    pub(super) to: &'t mut RowsMut<'a, S::Scalar>,
    /// The row of the block's first query.
    pub(super) first_row: usize,
}

/// Computed `ROWS` keys at a time.
pub(super) struct Tiled<T, const ROWS: usize>(pub(super) T);

impl<S: Simd, F: Score, const ROWS: usize, const COLS: usize> Task
    for Tiled<StoreScores<'_, '_, '_, S, F, COLS>, ROWS>
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.0.store::<ROWS>();
    }
}

impl<S: Simd, F: Score, const COLS: usize> StoreScores<'_, '_, '_, S, F, COLS> {
    #[inline(always)]
    fn store<const ROWS: usize>(mut self) {
        let nothing = if self.stage == Stage::Weights { S::Scalar::ZERO } else { S::Scalar::NEG_INFINITY };
        for i in 0..self.block.of.len {
            self.to.row_mut(self.first_row + i).fill(nothing);
        }
        let Some(tiles) = self.tiles.take() else { return };
        let head = self.block.head;
        let Sequence { room, kv_len, .. } = head.sequence;
        // Pages past the length are of no use to anybody.
        let len = if head.call.kv.is_paged() { *kv_len } else { room.len() };
        for c in 0..COLS {
            for start in (0..len).step_by(S::KEY_TILE) {
                let mut tile = tiles.tile(start..len.min(start + S::KEY_TILE), 0);
                self.store_tile::<ROWS>(Columns::new(c), &mut tile);
            }
        }
    }

    /// Those of one vector of queries with the keys of a tile.
    #[inline(always)]
    fn store_tile<const ROWS: usize>(
        &mut self,
        column: Columns<1>,
        tile: &mut KeyTile<'_, '_, S::Scalar>,
    ) -> Option<()> {
        let Self { block, stage, .. } = *self;
        let Block { simd, head, .. } = *block;
        let is_masked = stage >= Stage::Masked;
        let [span] = column.of(&block.spans)?;
        let (range, is_full) = if is_masked { span.within(&tile.range) } else { (tile.range.clone(), true) };
        let keys = tile.keys(simd, &range)?;
        let scores = self.scores.get_mut(..range.len())?;

        let is_partial = is_masked && !(is_full && head.is_band());
        let mut words = Words::all(simd);
        if is_partial {
            block.look(column.first(), &range, &mut words);
        }
        let (product, queries) = (head.function(simd), &*block.queries);
        simd.call(Scores::<_, _, ROWS, ROWS, 1, COLS> { product, columns: column, queries, keys, scores, ahead: None });
        let of_queries = block.column(column.first(), range.start, &words);
        let len = range.len();
        if !words.all || head.modifies() {
            let scores = strided(scores, column.first());
            simd.call(Apply { column: of_queries, stage, scores, rows: 0..len });
        }
        let mut factor = simd.broadcast(Scalar::from_f64(LN_2));
        if stage == Stage::Weights {
            block.softmax.weights(column, scores);
            factor = simd.splat(1.0);
            // Zero, even where what is seen makes NaN of all weights.
            let weights = strided(scores, column.first());
            simd.call(Mark { column: of_queries, weights, len, mark: 0.0 });
        }
        let [_, first_key] = head.origin();
        let at = [self.first_row + column.first() * S::LANES, first_key + range.start];
        store(simd, scores, column, [factor], self.to, at);
        Some(())
    }
}

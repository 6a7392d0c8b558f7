//! Masks and changes of scores that a caller writes as closures, compiled into the kernel.

use super::{
    function::{IsDot, Score},
    lanes::Lanes,
    projection::Projection,
};

/// Where a score stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which sequence: of the batch, or of those packed together.
    pub sequence: usize,
    /// Which query head.
    pub head: usize,
    /// Which query of the sequence.
    pub query: usize,
    /// Which key of the sequence.
    pub key: usize,
}

/// A score function, and a closure that masks: see [`Attention::mask_mod`](crate::Attention::mask_mod).
#[derive(Clone, Copy, Debug)]
pub struct MaskMod<F, C> {
    pub(crate) score: F,
    pub(crate) sees: C,
}

/// A score function, and a closure that changes its scores: see [`Attention::score_mod`](crate::Attention::score_mod).
#[derive(Clone, Copy, Debug)]
pub struct ScoreMod<F, C> {
    pub(crate) score: F,
    pub(crate) modify: C,
}

/// What is that of the score function within.
macro_rules! delegate {
    () => {
        const LINEAR: bool = F::LINEAR;
        const IS_DOT: IsDot = F::IS_DOT;

        fn projection(&self) -> Option<Projection<'_>> {
            self.score.projection()
        }

        fn key_dim(&self) -> Option<usize> {
            self.score.key_dim()
        }

        fn default_scale(&self, key_dim: usize) -> f64 {
            self.score.default_scale(key_dim)
        }

        #[inline(always)]
        fn add<V: Lanes>(&self, sum: V, query: V, key: V, t: usize) -> V {
            self.score.add(sum, query, key, t)
        }
    };
}

impl<F: Score, C: Fn(Position) -> bool + Copy> Score for MaskMod<F, C> {
    const MASKS: bool = true;
    const MODIFIES: bool = F::MODIFIES;
    delegate!();

    #[inline(always)]
    fn sees(&self, at: Position) -> bool {
        self.score.sees(at) && (self.sees)(at)
    }

    #[inline(always)]
    fn modify(&self, score: f32, at: Position) -> f32 {
        self.score.modify(score, at)
    }
}

impl<F: Score, C: Fn(f32, Position) -> f32 + Copy> Score for ScoreMod<F, C> {
    const MASKS: bool = F::MASKS;
    const MODIFIES: bool = true;
    delegate!();

    #[inline(always)]
    fn sees(&self, at: Position) -> bool {
        self.score.sees(at)
    }

    #[inline(always)]
    fn modify(&self, score: f32, at: Position) -> f32 {
        (self.modify)(self.score.modify(score, at), at)
    }
}

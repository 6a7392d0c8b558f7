//! Masks and changes of scores that a caller writes in Rust, compiled into the kernel.

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

/// What a caller adds to [`Attention`](crate::Attention): see [`mask_mod`](crate::Attention::mask_mod) and
/// [`score_mod`](crate::Attention::score_mod), which take closures. It may be asked about any query and key of the call, more than once, in any
/// order and from any thread that runs it, and must give the same answer each time.
pub trait Modify: Copy {
    /// Whether [`sees`](Self::sees) ever says no.
    const MASKS: bool;
    /// Whether [`score`](Self::score) ever changes anything.
    const SCORES: bool;

    /// Whether the query may attend to the key.
    fn sees(&self, at: Position) -> bool {
        let _ = at;
        true
    }

    /// The score that is to take the place of `score`, which is scaled, capped and biased.
    fn score(&self, score: f32, at: Position) -> f32 {
        let _ = at;
        score
    }
}

/// Changes nothing.
impl Modify for () {
    const MASKS: bool = false;
    const SCORES: bool = false;
}

/// A closure that masks.
#[derive(Clone, Copy, Debug)]
pub struct MaskMod<F>(pub(crate) F);

impl<F: Fn(Position) -> bool + Copy> Modify for MaskMod<F> {
    const MASKS: bool = true;
    const SCORES: bool = false;

    #[inline(always)]
    fn sees(&self, at: Position) -> bool {
        self.0(at)
    }
}

/// A closure that changes scores.
#[derive(Clone, Copy, Debug)]
pub struct ScoreMod<F>(pub(crate) F);

impl<F: Fn(f32, Position) -> f32 + Copy> Modify for ScoreMod<F> {
    const MASKS: bool = false;
    const SCORES: bool = true;

    #[inline(always)]
    fn score(&self, score: f32, at: Position) -> f32 {
        self.0(score, at)
    }
}

/// First the one, then the other.
impl<A: Modify, B: Modify> Modify for (A, B) {
    const MASKS: bool = A::MASKS || B::MASKS;
    const SCORES: bool = A::SCORES || B::SCORES;

    #[inline(always)]
    fn sees(&self, at: Position) -> bool {
        self.0.sees(at) && self.1.sees(at)
    }

    #[inline(always)]
    fn score(&self, score: f32, at: Position) -> f32 {
        self.1.score(self.0.score(score, at), at)
    }
}

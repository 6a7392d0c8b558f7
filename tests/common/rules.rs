//! Masks and changes of scores written in Rust: what a caller's closures may be like.

use simd_attention::Position;

/// `[sequence, head, query, key]`
pub type At = [usize; 4];

const fn at(position: Position) -> At {
    [position.sequence, position.head, position.query, position.key]
}

/// What a kind of rule says, of a call that may be part of a whole: what it adds to sequence and query.
#[derive(Clone, Copy, Debug)]
pub struct Rule<K> {
    kind: K,
    sequence: usize,
    query: usize,
}

pub type MaskRule = Rule<MaskKind>;
pub type ScoreRule = Rule<ScoreKind>;

impl<K> Rule<K> {
    pub const fn new(kind: K) -> Self {
        Self { kind, sequence: 0, query: 0 }
    }

    /// For a call that begins at a query of a sequence.
    pub fn moved(self, sequence: usize, query: usize) -> Self {
        Self { sequence, query, ..self }
    }

    const fn whole(&self, [sequence, head, query, key]: At) -> At {
        [sequence + self.sequence, head, query + self.query, key]
    }
}

#[derive(Clone, Copy, Debug)]
pub enum MaskKind {
    /// Every second key.
    Parity,
    /// One key in eight, by no rule that anybody would see.
    Sparse,
    Nothing,
}

impl MaskRule {
    pub fn sees(self, at: At) -> bool {
        let at = self.whole(at);
        match self.kind {
            MaskKind::Parity => at.iter().sum::<usize>().is_multiple_of(2),
            MaskKind::Sparse => hash(at).is_multiple_of(8),
            MaskKind::Nothing => false,
        }
    }
}

const fn hash([sequence, head, query, key]: At) -> usize {
    let sum = sequence.wrapping_mul(0x9e37_79b1) ^ head.wrapping_mul(0x85eb_ca77);
    let sum = sum ^ query.wrapping_mul(0xc2b2_ae3d) ^ key.wrapping_mul(0x27d4_eb2f);
    (sum ^ (sum >> 15)).wrapping_mul(0x2c1b_3c6d) >> 12
}

/// None makes a difference of scores larger, and none adds more than [`MOST_ADDED`]: the bounds on errors rely on it.
#[derive(Clone, Copy, Debug)]
pub enum ScoreKind {
    Halved,
    /// By where it stands.
    Shifted,
    /// To -1 and 1, be it infinite.
    Clamped,
}

/// What a [`ScoreRule`] adds at most.
pub const MOST_ADDED: f64 = 3.0;

impl ScoreRule {
    pub fn score(self, score: f32, at: At) -> f32 {
        let at = self.whole(at);
        match self.kind {
            ScoreKind::Halved => score * 0.5,
            ScoreKind::Shifted => score + ((hash(at) % 7) as f32 - 3.0),
            ScoreKind::Clamped => score.clamp(-1.0, 1.0),
        }
    }
}

/// A closure, of one type wherever it comes from: kernels are compiled for each.
pub fn mask_mod(rule: Option<MaskRule>) -> impl Fn(Position) -> bool + Copy {
    move |position| rule.is_none_or(|rule| rule.sees(at(position)))
}

/// As [`mask_mod`].
pub fn score_mod(rule: Option<ScoreRule>) -> impl Fn(f32, Position) -> f32 + Copy {
    move |score, position| rule.map_or(score, |rule| rule.score(score, at(position)))
}

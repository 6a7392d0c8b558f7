//! What is done to scores, owned.

use super::{
    pattern::Sequence,
    random::{Content, Random},
    rules::ScoreRule,
    tensor::{Extent, Row, Tensor},
};
use simd_attention::{Attention, Error, Score, Shape};

/// A bias in numbers.
#[derive(Clone, Copy, Debug)]
pub struct BiasPlan {
    pub content: Content,
    /// Along batch, heads, queries and keys.
    pub extents: [Extent; 4],
}

impl BiasPlan {
    /// One for each score.
    pub const fn new(content: Content) -> Self {
        Self { content, extents: [Extent::Own; 4] }
    }

    /// `shape` is that of the scores.
    pub fn bias(&self, shape: Shape, random: &mut Random) -> Tensor<f32> {
        Tensor::repeated(shape, self.extents, || self.content.sample(random))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Modifiers {
    /// `None`: the default, `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    pub softcap: Option<f64>,
    pub bias: Option<Tensor<f32>>,
    pub alibi_slopes: Option<Vec<f32>>,
    pub sinks: Option<Vec<f32>>,
    pub rule: Option<ScoreRule>,
    pub batch_invariant: bool,
}

impl Modifiers {
    /// What can be said without a closure.
    pub fn apply<'a, F: Score>(&'a self, mut attention: Attention<'a, F>) -> Result<Attention<'a, F>, Error> {
        let Self { scale, softcap, bias, alibi_slopes, sinks, rule: _, batch_invariant } = self;
        if let Some(scale) = scale {
            attention = attention.scale(*scale);
        }
        if let Some(cap) = softcap {
            attention = attention.softcap(*cap);
        }
        if let Some(bias) = bias {
            attention = attention.bias(bias.view()?);
        }
        if let Some(slopes) = alibi_slopes {
            attention = attention.alibi_slopes(slopes);
        }
        if let Some(sinks) = sinks {
            attention = attention.sinks(sinks);
        }
        if *batch_invariant {
            attention = attention.batch_invariant();
        }
        Ok(attention)
    }

    /// The bias of a score; zero if there is none.
    pub fn bias_at(&self, row: Row, j: usize) -> f32 {
        self.bias.as_ref().and_then(|bias| bias.at(row, j)).unwrap_or(0.0)
    }

    /// Those of query `i` of a sequence in a call of its own.
    pub fn alone(&self, sequence: &Sequence, i: usize) -> Self {
        Self {
            bias: self.bias.as_ref().map(|bias| bias.part(sequence.batch, i, 1)),
            rule: self.rule.map(|rule| rule.moved(sequence.index, i - sequence.queries.start)),
            ..self.clone()
        }
    }
}

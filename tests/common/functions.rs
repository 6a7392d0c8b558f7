//! Score functions, owned, and what their rounding errors grow with.

use super::{
    random::{Content, Random},
    tensor::{Extent, Tensor},
};
use simd_attention::{Lanes, Projection, Score, Shape};

/// Each with the number of elements that queries have, if not those of the keys.
#[derive(Clone, Copy, Debug)]
pub enum FunctionKind {
    Dot,
    Bilinear(usize),
    Additive(Option<usize>),
    /// None of the crate's own.
    Distance,
}

#[derive(Clone, Debug)]
pub enum Function {
    Dot,
    /// `[query_dim, key_dim]`, for each head.
    Bilinear(Tensor<f32>),
    /// `v`, and `[key_dim, query_dim]` for all heads.
    Additive(Vec<f32>, Option<Tensor<f32>>),
    Distance,
    /// What the error of another one grows with.
    Sizes(Box<Function>),
}

impl FunctionKind {
    pub const fn query_dim(self, key_dim: usize) -> usize {
        match self {
            Self::Bilinear(query_dim) | Self::Additive(Some(query_dim)) => query_dim,
            _ => key_dim,
        }
    }

    pub fn function(self, heads: usize, key_dim: usize, random: &mut Random) -> Function {
        let query_dim = self.query_dim(key_dim);
        let mut matrix = |heads: Extent, shape| {
            let extents = [Extent::One, heads, Extent::Own, Extent::Own];
            Tensor::repeated(shape, extents, || Content::Normal(0.5).sample(random))
        };
        let shape = Shape { batch: 1, heads, len: key_dim, dim: query_dim };
        match self {
            Self::Dot => Function::Dot,
            Self::Bilinear(_) => {
                Function::Bilinear(matrix(Extent::Own, Shape { len: query_dim, dim: key_dim, ..shape }))
            }
            Self::Additive(projected) => {
                let weights = projected.map(|_| matrix(Extent::One, shape));
                Function::Additive((0..key_dim).map(|_| Content::Normal(1.0).sample(random)).collect(), weights)
            }
            Self::Distance => Function::Distance,
        }
    }
}

impl Function {
    /// The scale, if none is asked for.
    pub fn default_scale(&self, key_dim: usize) -> f64 {
        match self {
            Self::Dot => (1.0 / key_dim as f64).sqrt(),
            _ => 1.0,
        }
    }

    /// Whether a case takes a caller's closures along with it: each combination compiles the kernels once more.
    pub const fn takes_closures(&self) -> bool {
        matches!(self, Self::Dot | Self::Additive(..))
    }

    pub const fn is_dot(&self) -> bool {
        matches!(self, Self::Dot)
    }

    pub const fn is_linear(&self) -> bool {
        matches!(self, Self::Dot | Self::Bilinear(_))
    }

    /// At most how many times larger than a query's elements those of its projection are, and at least 1.
    pub fn gain(&self) -> f64 {
        match self {
            Self::Bilinear(weights) | Self::Additive(_, Some(weights)) => {
                1.0 + weights.data.iter().map(|w| f64::from(w.abs())).sum::<f64>()
            }
            _ => 1.0,
        }
    }

    /// A score function for the reference that gives sizes instead of scores: applied to the magnitudes of queries and keys, the
    /// error of a score is in proportion to it.
    pub fn sizes(&self) -> Self {
        if self.is_dot() {
            return Self::Dot;
        }
        let magnitudes = |tensor: &Tensor<f32>| tensor.map(f32::abs);
        Self::Sizes(Box::new(match self {
            Self::Bilinear(weights) => Self::Bilinear(magnitudes(weights)),
            Self::Additive(v, weights) => {
                Self::Additive(v.iter().copied().map(f32::abs).collect(), weights.as_ref().map(magnitudes))
            }
            other => other.clone(),
        }))
    }
}

/// `-|q - k|^2`
#[derive(Clone, Copy)]
pub struct Distance;

impl Score for Distance {
    #[inline(always)]
    fn add<V: Lanes>(&self, sum: V, query: V, key: V, _: usize) -> V {
        let difference = query - key;
        sum - difference * difference
    }
}

/// See [`Function::sizes`].
#[derive(Clone, Copy)]
pub struct Sizes<'a>(pub &'a Function);

impl Score for Sizes<'_> {
    fn projection(&self) -> Option<Projection<'_>> {
        match self.0 {
            Function::Bilinear(weights) => weights.view().ok().map(Projection::Columns),
            Function::Additive(_, Some(weights)) => weights.view().ok().map(Projection::Rows),
            _ => None,
        }
    }

    fn add<V: Lanes>(&self, sum: V, query: V, key: V, t: usize) -> V {
        match self.0 {
            // The slope of the tangent is at most 1, and so is its error's share of its argument.
            Function::Additive(v, _) => sum + (query + key) * sum.splat(v[t]),
            Function::Distance => sum + (query + key) * (query + key),
            _ => sum + query * key,
        }
    }
}

//! What is done to queries before they meet a key.

use crate::{Error, Shape, View, error::Operand, kv::expect_shape, view::Rows};

/// A matrix that queries are multiplied with, `[batch, q_heads, ...]`; extents of 1 are repeated along batch and heads.
#[derive(Clone, Copy, Debug)]
pub enum Projection<'a> {
    /// `p = W q`, with `W` `[key_dim, query_dim]`, as linear layers have it.
    Rows(View<'a, f32>),
    /// `p = W' q`, with `W` `[query_dim, key_dim]`, as it stands in `q' W k`.
    Columns(View<'a, f32>),
}

impl<'a> Projection<'a> {
    /// The elements of a query that it has been applied to, if it fits the queries.
    pub(super) fn key_dim(&self, q: Shape) -> Result<usize, Error> {
        let (weights, expected, key_dim) = match self {
            Self::Rows(weights) => (weights, Shape { dim: q.dim, ..weights.shape() }, weights.shape().len),
            Self::Columns(weights) => (weights, Shape { len: q.dim, ..weights.shape() }, weights.shape().dim),
        };
        expect_shape(Operand::Weights, expected, weights.shape())?;
        repeated(weights, q).and(Ok(key_dim))
    }

    /// The matrix of one head, if it gives queries that many elements.
    pub(crate) fn head(&self, q: Shape, key_dim: usize, batch: usize, head: usize) -> Option<HeadProjection<'a>> {
        if self.key_dim(q).ok()? != key_dim {
            return None;
        }
        Some(match self {
            Self::Rows(weights) => HeadProjection::Rows(repeated(weights, q).ok()?.rows(batch, head)?),
            Self::Columns(weights) => HeadProjection::Columns(repeated(weights, q).ok()?.rows(batch, head)?),
        })
    }
}

/// Weights for every batch and head that queries have.
fn repeated<'a>(weights: &View<'a, f32>, q: Shape) -> Result<View<'a, f32>, Error> {
    let shape = Shape { batch: q.batch, heads: q.heads, ..weights.shape() };
    weights.broadcast(Operand::Weights, shape)
}

/// The [`Projection`] of one head.
#[derive(Clone, Copy)]
pub(crate) enum HeadProjection<'a> {
    Rows(Rows<'a, f32>),
    Columns(Rows<'a, f32>),
}

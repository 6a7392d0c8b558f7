//! Stage 1: `s = F(q, k)`, what modifies it, and which of it the masks leave standing.

pub(crate) mod additive;
pub(crate) mod band;
pub(crate) mod bilinear;
pub(crate) mod custom;
pub(crate) mod function;
pub(crate) mod head;
pub(crate) mod lanes;
pub(crate) mod mask;
pub(crate) mod modify;
pub(crate) mod product;
pub(crate) mod projection;
pub(crate) mod tile;

//! Stage 1: `s = F(q, k)`, what modifies it, and which of it the masks leave standing.

pub(crate) mod band;
pub(crate) mod custom;
pub(crate) mod dot;
pub(crate) mod head;
pub(crate) mod mask;
pub(crate) mod modify;

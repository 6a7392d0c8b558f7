//! Stage 1: `s = F(q, k)`.

pub(crate) mod dot;
pub(crate) mod mask;

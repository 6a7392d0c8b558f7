//! Elementary functions over vectors.

pub(crate) mod exp;
pub(crate) mod tanh;

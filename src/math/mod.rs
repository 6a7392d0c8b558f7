//! Elementary functions over vectors.

pub(crate) mod exp;
#[cfg(test)]
mod sweep;
pub(crate) mod tanh;

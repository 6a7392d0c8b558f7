//! Elementary functions over vectors.

pub(crate) mod exp;

//! Keys and values.

use crate::{
    Error, Shape, View,
    error::{Axis, Operand},
};

/// Keys `[batch, kv_heads, kv_len, head_dim]` with their values `[batch, kv_heads, kv_len, value_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Kv<'a, T> {
    pub(crate) keys: View<'a, T>,
    pub(crate) values: View<'a, T>,
}

impl<'a, T> Kv<'a, T> {
    /// Pairs keys with values; `head_dim` and `value_dim` may differ.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `batch`, `heads` or `len` differ.
    pub fn new(keys: View<'a, T>, values: View<'a, T>) -> Result<Self, Error> {
        let expected = Shape { dim: values.shape().dim, ..keys.shape() };
        expect_shape(Operand::Value, expected, values.shape())?;
        Ok(Self { keys, values })
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> View<'a, T>
    where
        T: Copy,
    {
        self.keys
    }

    /// The values.
    #[must_use]
    pub const fn values(&self) -> View<'a, T>
    where
        T: Copy,
    {
        self.values
    }
}

/// Names the first axis in which two shapes differ.
pub(crate) fn expect_shape(operand: Operand, expected: Shape, actual: Shape) -> Result<(), Error> {
    [
        (Axis::Batch, expected.batch, actual.batch),
        (Axis::Heads, expected.heads, actual.heads),
        (Axis::Len, expected.len, actual.len),
        (Axis::Dim, expected.dim, actual.dim),
    ]
    .into_iter()
    .find(|&(_, expected, actual)| expected != actual)
    .map_or(Ok(()), |(axis, expected, actual)| Err(Error::ShapeMismatch { operand, axis, expected, actual }))
}

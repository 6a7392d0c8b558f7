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
    pub(crate) lens: Option<&'a [usize]>,
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
        Ok(Self { keys, values, lens: None })
    }

    /// How many keys each sequence of the batch has, where there is room for `kv_len`. What lies past them is never read
    /// (unless scores from before the mask are asked for, by [`Output::scores`](crate::Output::scores)); the diagonal of [causal
    /// masks](crate::Attention::causal) ends at the last one.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
    ///
    /// // Two sequences with room for three keys; the second has only one.
    /// let (q, k, v) = ([0.0; 2], [0.0; 6], [1.0, 2.0, 3.0, 4.0, f32::NAN, f32::NAN]);
    /// let mut out = [0.0; 2];
    /// let view = |data| View::heads_first(data, [2, 1, 3, 1]);
    /// Attention::new().forward(
    ///     View::heads_first(&q, [2, 1, 1, 1])?,
    ///     Kv::new(view(&k)?, view(&v)?)?.lens(&[3, 1]),
    ///     ViewMut::heads_first(&mut out, [2, 1, 1, 1])?,
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// assert_eq!(out, [2.0, 4.0]);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub const fn lens(self, lens: &'a [usize]) -> Self
    where
        T: Copy,
    {
        Self { lens: Some(lens), ..self }
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

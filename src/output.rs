//! What a call writes.

use crate::ViewMut;

/// The output, and what else a caller wants to know of the softmax.
#[derive(Debug)]
pub struct Output<'a, T> {
    pub(crate) values: ViewMut<'a, T>,
    pub(crate) lse: Option<&'a mut [T]>,
}

impl<'a, T> Output<'a, T> {
    /// Only the values, `[batch, q_heads, q_len, value_dim]`. A [`ViewMut`] converts into this by itself.
    #[must_use]
    pub const fn new(values: ViewMut<'a, T>) -> Self {
        Self { values, lse: None }
    }

    /// Also the log-sum-exp of each query's scaled scores (a natural logarithm), contiguous `[batch, q_heads, q_len]`: what is needed to
    /// merge results over disjoint sets of keys. `-inf` for a query that sees no key.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, Output, View, ViewMut, scratch_len};
    ///
    /// let (q, k, v) = ([0.0; 2 * 4], [0.0; 8 * 4], [1.0; 8 * 4]);
    /// let (mut out, mut lse) = ([0.0; 2 * 4], [0.0; 2]);
    /// Attention::new().forward(
    ///     View::matrix(&q, [2, 4])?,
    ///     Kv::new(View::matrix(&k, [8, 4])?, View::matrix(&v, [8, 4])?)?,
    ///     Output::new(ViewMut::matrix(&mut out, [2, 4])?).lse(&mut lse),
    ///     &mut [0.0; scratch_len(4, 4)],
    /// )?;
    /// assert!((lse[0] - 8f32.ln()).abs() < 1e-6);
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub fn lse(self, lse: &'a mut [T]) -> Self {
        Self { lse: Some(lse), ..self }
    }
}

impl<'a, T> From<ViewMut<'a, T>> for Output<'a, T> {
    fn from(values: ViewMut<'a, T>) -> Self {
        Self::new(values)
    }
}

//! What a call writes.

use crate::{Float, ViewMut};

/// The output, and what else a caller wants to know of the softmax.
///
/// Values may be of any [`Float`]; log-sum-exps and scores are `f64` if those are, else `f32`.
#[derive(Debug)]
pub struct Output<'a, T: Float> {
    pub(crate) values: ViewMut<'a, T>,
    pub(crate) lse: Option<&'a mut [T::Sum]>,
    pub(crate) scores: Option<(Stage, ViewMut<'a, T::Sum>)>,
}

/// How far scores have come: the four of the ONNX operator `Attention` (`qk_matmul_output_mode` 0 to 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `q k' * scale`. Keys that are masked have one too.
    Scaled,
    /// `cap * tanh(score / cap)`, if there is a [softcap](crate::Attention::softcap). Keys that are masked have one too.
    Capped,
    /// With biases and a caller's own modification added; `-inf` where masked.
    Masked,
    /// After the softmax: what the values are weighed with; 0 where masked.
    Weights,
}

impl<'a, T: Float> Output<'a, T> {
    /// Only the values, `[batch, q_heads, q_len, value_dim]`. A [`ViewMut`] converts into this by itself.
    #[must_use]
    pub const fn new(values: ViewMut<'a, T>) -> Self {
        Self { values, lse: None, scores: None }
    }

    /// Also the log-sum-exp of each query's scaled scores (a natural logarithm), contiguous `[batch, q_heads, q_len]`: what is needed to
    /// merge results over disjoint sets of keys. `-inf` for a query that sees no key.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, Output, View, ViewMut, scratch_len};
    ///
    /// let (q, k, v) = ([0f32; 2 * 4], [0f32; 8 * 4], [1f32; 8 * 4]);
    /// let (mut out, mut lse) = ([0f32; 2 * 4], [0f32; 2]);
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
    pub fn lse(self, lse: &'a mut [T::Sum]) -> Self {
        Self { lse: Some(lse), ..self }
    }

    /// Also the scores at some stage, `[batch, q_heads, q_len, kv_len]`: the attention matrix that people look at.
    ///
    /// The product of queries and keys is computed once more for it, and the memory written grows with `q_len * kv_len`. What is not of
    /// a query's own sequence, where [several are packed](crate::Attention::packed), counts as masked at every stage.
    ///
    /// ```
    /// use simd_attention::{Attention, Kv, Output, Stage, View, ViewMut, scratch_len};
    ///
    /// let (q, k, v) = ([1f32, 1.0], [0f32, 0.0, 3f32.ln()], [0f32; 3]);
    /// let (mut out, mut weights) = ([0f32; 2], [0f32; 2 * 3]);
    /// Attention::new().causal().forward(
    ///     View::matrix(&q, [2, 1])?,
    ///     Kv::new(View::matrix(&k, [3, 1])?, View::matrix(&v, [3, 1])?)?,
    ///     Output::new(ViewMut::matrix(&mut out, [2, 1])?)
    ///         .scores(Stage::Weights, ViewMut::matrix(&mut weights, [2, 3])?),
    ///     &mut [0.0; scratch_len(1, 1)],
    /// )?;
    /// for (weight, expected) in weights.iter().zip([0.5, 0.5, 0.0, 0.2, 0.2, 0.6]) {
    ///     assert!((weight - expected).abs() < 1e-6);
    /// }
    /// # Ok::<(), simd_attention::Error>(())
    /// ```
    #[must_use]
    pub fn scores(self, stage: Stage, scores: ViewMut<'a, T::Sum>) -> Self {
        Self { scores: Some((stage, scores)), ..self }
    }
}

impl<'a, T: Float> From<ViewMut<'a, T>> for Output<'a, T> {
    fn from(values: ViewMut<'a, T>) -> Self {
        Self::new(values)
    }
}

//! `v' tanh(Wq q + Wk k)`.

use super::{function::Score, lanes::Lanes, projection::Projection};
use crate::View;

/// `v' tanh(Wq q + Wk k)`, unscaled by default (Bahdanau et al., 2015, "Neural Machine Translation by Jointly Learning to Align and
/// Translate").
///
/// Keys are given as `Wk k`, which [`Linear`](crate::Linear) computes once, however often they are attended to. Queries are multiplied with `Wq` in
/// the kernel if it is [given](Self::query_weights), once for each block of them.
///
/// ```
/// use simd_attention::{Additive, Attention, Kv, View, ViewMut, scratch_len};
///
/// // Two hidden units. Scores of tanh(1 + 0) + 2 tanh(1 + 1) and of tanh(1 + 1) + 2 tanh(1 + 0).
/// let (q, wq, v) = ([0.5f32], [2f32, 2.0], [1f32, 2.0]);
/// let (projected_keys, values) = ([0f32, 1.0, 1.0, 0.0], [1f32, 0.0]);
/// let mut out = [0f32];
/// Attention::with_score(Additive::new(&v).query_weights(View::matrix(&wq, [2, 1])?)).forward(
///     View::matrix(&q, [1, 1])?,
///     Kv::new(View::matrix(&projected_keys, [2, 2])?, View::matrix(&values, [2, 1])?)?,
///     ViewMut::matrix(&mut out, [1, 1])?,
///     &mut [0.0; scratch_len(1 + 2, 1)],
/// )?;
/// let difference = 2f32.tanh() - 1f32.tanh();
/// assert!((out[0] - 1.0 / (1.0 + (-difference).exp())).abs() < 1e-6);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Additive<'a> {
    v: &'a [f32],
    query_weights: Option<View<'a, f32>>,
}

impl<'a> Additive<'a> {
    /// One factor for each hidden unit, of which a (projected) query and a key have as many elements.
    #[must_use]
    pub const fn new(v: &'a [f32]) -> Self {
        Self { v, query_weights: None }
    }

    /// `Wq`, `[batch, q_heads, hidden, query_dim]`; extents of 1 are repeated along batch and heads. Scratch of
    /// [`scratch_len(query_dim + hidden, value_dim)`](crate::scratch_len) elements is then needed.
    #[must_use]
    pub const fn query_weights(self, weights: View<'a, f32>) -> Self {
        Self { query_weights: Some(weights), ..self }
    }
}

impl Score for Additive<'_> {
    fn projection(&self) -> Option<Projection<'_>> {
        self.query_weights.map(Projection::Rows)
    }

    fn key_dim(&self) -> Option<usize> {
        Some(self.v.len())
    }

    #[inline(always)]
    fn add<V: Lanes>(&self, sum: V, query: V, key: V, t: usize) -> V {
        let v = self.v.get(t).copied().unwrap_or_default();
        (query + key).tanh().mul_add(sum.splat(v), sum)
    }
}

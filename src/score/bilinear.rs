//! `q' W k`.

use super::{function::Score, lanes::Lanes, projection::Projection};
use crate::View;

/// `q' W k`, unscaled by default ("general" in Luong et al., 2015, "Effective Approaches to Attention-based Neural Machine Translation").
///
/// Each block of queries is multiplied with `W` once, in the kernel's scratch, of which
/// [`scratch_len(query_dim + key_dim, value_dim)`](crate::scratch_len) elements are needed.
///
/// ```
/// use simd_attention::{Attention, Bilinear, Kv, View, ViewMut, scratch_len};
///
/// // Queries of two elements, keys of three: scores of 3 and 4.
/// let (q, w) = ([1f32, 2.0], [1f32, 0.0, 0.0, 1.0, 0.0, 2.0]);
/// let (k, v) = ([1f32, 9.0, 0.0, 0.0, 9.0, 1.0], [0f32, 1.0]);
/// let mut out = [0f32];
/// Attention::with_score(Bilinear::new(View::matrix(&w, [2, 3])?)).forward(
///     View::matrix(&q, [1, 2])?,
///     Kv::new(View::matrix(&k, [2, 3])?, View::matrix(&v, [2, 1])?)?,
///     ViewMut::matrix(&mut out, [1, 1])?,
///     &mut [0.0; scratch_len(2 + 3, 1)],
/// )?;
/// assert!((out[0] - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-6);
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Bilinear<'a> {
    weights: View<'a, f32>,
}

impl<'a> Bilinear<'a> {
    /// `W`, `[batch, q_heads, query_dim, key_dim]`; extents of 1 are repeated along batch and heads.
    #[must_use]
    pub const fn new(weights: View<'a, f32>) -> Self {
        Self { weights }
    }
}

impl Score for Bilinear<'_> {
    const LINEAR: bool = true;

    fn projection(&self) -> Option<Projection<'_>> {
        Some(Projection::Columns(self.weights))
    }

    #[inline(always)]
    fn add<V: Lanes>(&self, sum: V, query: V, key: V, _: usize) -> V {
        key.mul_add(query, sum)
    }
}

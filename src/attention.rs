//! Configuration and entry points: validate, then dispatch.

use crate::{Backend, Error, Kv, Output, View, Work, validate};

/// How to attend: configuration without data, reusable and `const`.
///
/// ```text
/// out = softmax(q k' * scale, masked) v
/// ```
///
/// (Vaswani et al., 2017, "Attention Is All You Need", equation 1), computed in one pass over keys and values with the online
/// softmax of FlashAttention (Dao et al., 2022). `k'` is `k` transposed.
///
/// ```
/// use simd_attention::{Attention, Kv, View, ViewMut, scratch_len};
///
/// let (q, k, v) = ([0.5; 6 * 16], [0.25; 6 * 16], [1.0; 6 * 16]);
/// let mut out = [0.0; 6 * 16];
/// let mut scratch = [0.0; scratch_len(16, 16)];
/// Attention::new().causal().forward(
///     View::matrix(&q, [6, 16])?,
///     Kv::new(View::matrix(&k, [6, 16])?, View::matrix(&v, [6, 16])?)?,
///     ViewMut::matrix(&mut out, [6, 16])?,
///     &mut scratch,
/// )?;
/// assert!(out.iter().all(|x| (x - 1.0).abs() < 1e-6));
/// # Ok::<(), simd_attention::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    pub(crate) scale: Option<f32>,
    pub(crate) causal: Option<Causal>,
    pub(crate) backend: Option<Backend>,
}

/// How the diagonal of a causal mask lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Causal {
    /// The last query sees the last key.
    BottomRight,
    /// Query `i` sees the keys `j <= i + offset`.
    Offset(i64),
}

impl Attention {
    /// Every query attends to every key; scores are scaled by `1 / sqrt(head_dim)`.
    #[must_use]
    pub const fn new() -> Self {
        Self { scale: None, causal: None, backend: None }
    }

    /// Multiplies scores by `scale` instead of `1 / sqrt(head_dim)`. Any finite number, zero and negative ones included.
    #[must_use]
    pub const fn scale(self, scale: f32) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// Query `i` sees key `j` where `j <= i + kv_len - q_len`: the last query sees the last key (bottom-right alignment, as in
    /// FlashAttention and in decoding with a cache).
    ///
    /// ```text
    /// q_len = 2, kv_len = 4:   1 1 1 0      q_len = 4, kv_len = 2:   0 0
    ///                          1 1 1 1                               0 0
    ///                                                                1 0
    ///                                                                1 1
    /// ```
    ///
    /// A query that sees no key gives zeros, and its log-sum-exp is `-inf`. Keys that no query sees are never read.
    #[must_use]
    pub const fn causal(self) -> Self {
        Self { causal: Some(Causal::BottomRight), ..self }
    }

    /// Query `i` sees key `j` where `j <= i + offset`. With 0, the first query sees the first key only (top-left alignment).
    #[must_use]
    pub const fn causal_offset(self, offset: i64) -> Self {
        Self { causal: Some(Causal::Offset(offset)), ..self }
    }

    /// Runs on this backend instead of the fastest one: the same build then gives the same bits on every CPU that has it.
    #[must_use]
    pub const fn backend(self, backend: Backend) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Computes attention: `q [batch, q_heads, q_len, head_dim]`, `k [batch, kv_heads, kv_len, head_dim]`,
    /// `v [batch, kv_heads, kv_len, value_dim]`, `out [batch, q_heads, q_len, value_dim]`.
    ///
    /// Query head `h` uses key/value head `h * kv_heads / q_heads`. `scratch` is working memory of at least
    /// [`scratch_len(head_dim, value_dim)`](crate::scratch_len) elements, whose contents don't matter before or after.
    ///
    /// Time is `O(head_dim + value_dim)` for each query-key pair that the mask leaves standing, in tiles.
    ///
    /// # Errors
    ///
    /// Before anything is written, as [`prepare`](Self::prepare), and [`Error::ScratchTooShort`].
    pub fn forward<'a>(
        &self,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: impl Into<Output<'a, f32>>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        self.prepare(q, kv, out)?.run(scratch)
    }

    /// Checks all that [`forward`](Self::forward) would check but the scratch, and returns the computation, to be [run](Work::run)
    /// from as many threads as the caller likes.
    ///
    /// # Errors
    ///
    /// - [`Error::ShapeMismatch`]: `batch`, heads, `len` or `dim` of two operands disagree.
    /// - [`Error::HeadsNotDivisible`]: `q_heads` is not a multiple of `kv_heads`.
    /// - [`Error::ScaleNotFinite`]: the scale is infinite or NaN, or overflows when multiplied by `log2(e)`.
    /// - [`Error::LseLength`]: the log-sum-exp slice is not as long as there are queries.
    /// - [`Error::BackendUnavailable`]: this CPU cannot run the backend that was asked for.
    pub fn prepare<'a>(
        &self,
        q: View<'a, f32>,
        kv: Kv<'a, f32>,
        out: impl Into<Output<'a, f32>>,
    ) -> Result<Work<'a>, Error> {
        validate::problem(self, q, kv, out.into()).map(Work::new)
    }
}

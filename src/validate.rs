//! Every precondition, checked once: raw arguments become a [`Problem`], on which nothing can fail any more.

use core::{f64::consts::LOG2_E, num::NonZeroUsize};

use crate::{
    Attention, Error, Kv, Output, Shape, View, ViewMut, attention::Causal, error::Operand, kv::expect_shape,
    score::mask::Mask, scratch::scratch_len, simd::Token, view::SharedRows,
};

/// Arguments that fit together.
pub(crate) struct Problem<'a> {
    pub(crate) queries: View<'a, f32>,
    pub(crate) kv: Kv<'a, f32>,
    pub(crate) output: SharedRows<'a, f32>,
    /// `[batch, q_heads, q_len, 1]`
    pub(crate) lse: Option<SharedRows<'a, f32>>,
    /// Query heads that share one key/value head.
    pub(crate) group: NonZeroUsize,
    /// `scale * log2(e)`
    pub(crate) scale: f32,
    pub(crate) mask: Mask,
    pub(crate) backend: Token,
    pub(crate) scratch_len: usize,
}

pub(crate) fn problem<'a>(
    attention: &Attention,
    queries: View<'a, f32>,
    kv: Kv<'a, f32>,
    output: Output<'a, f32>,
) -> Result<Problem<'a>, Error> {
    let q = queries.shape();
    let group = shapes(q, kv.keys.shape(), kv.values.shape(), output.values.shape())?;
    let scale = f64::from(scale(attention, q.dim)?) * LOG2_E;
    let kv_len = kv.keys.shape().len;
    lse_len(q, output.lse.as_deref().map(<[f32]>::len))?;
    let wanted = attention.backend.unwrap_or_else(crate::Backend::best);
    let backend = wanted.token().ok_or(Error::BackendUnavailable { backend: wanted })?;
    Ok(Problem {
        queries,
        kv,
        lse: output
            .lse
            .map(|lse| ViewMut::heads_first(lse, [q.batch, q.heads, q.len, 1]))
            .transpose()?
            .map(ViewMut::into_shared),
        output: output.values.into_shared(),
        group,
        scale: scale as f32,
        mask: Mask { kv_len, causal_offset: attention.diagonal(q.len, kv_len) },
        backend,
        scratch_len: scratch_len(q.dim, kv.values.shape().dim),
    })
}

/// How many query heads share one key/value head.
pub(crate) fn shapes(q: Shape, k: Shape, v: Shape, out: Shape) -> Result<NonZeroUsize, Error> {
    expect_shape(Operand::Key, Shape { batch: q.batch, dim: q.dim, ..k }, k)?;
    expect_shape(Operand::Output, Shape { dim: v.dim, ..q }, out)?;
    match q.heads.checked_rem(k.heads) {
        Some(0) => Ok(NonZeroUsize::new(q.heads / k.heads).unwrap_or(NonZeroUsize::MIN)),
        None if q.heads == 0 => Ok(NonZeroUsize::MIN),
        _ => Err(Error::HeadsNotDivisible { q_heads: q.heads, kv_heads: k.heads }),
    }
}

/// The scale asked for, or the default.
pub(crate) fn scale(attention: &Attention, head_dim: usize) -> Result<f32, Error> {
    let scale = attention.scale.unwrap_or_else(|| libm::sqrt(1.0 / head_dim as f64) as f32);
    if (scale * LOG2_E as f32).is_finite() { Ok(scale) } else { Err(Error::ScaleNotFinite { scale }) }
}

/// One element for each query.
pub(crate) fn lse_len(q: Shape, len: Option<usize>) -> Result<(), Error> {
    let expected = q.rows().ok_or(Error::SizeOverflow { shape: q })?;
    match len {
        Some(actual) if actual != expected => Err(Error::LseLength { expected, actual }),
        _ => Ok(()),
    }
}

impl Attention {
    /// Where the causal mask lies, if there is one: query `i` sees the keys `j <= i + diagonal`.
    pub(crate) fn diagonal(&self, q_len: usize, kv_len: usize) -> Option<i64> {
        self.causal.map(|causal| match causal {
            // Broadcast keys, or keys of no sequence, may be more than an `i64` counts.
            Causal::BottomRight => i64::try_from(kv_len).unwrap_or(i64::MAX).saturating_sub_unsigned(q_len as u64),
            Causal::Offset(offset) => offset,
        })
    }
}

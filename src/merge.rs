//! Results over disjoint keys become the result over all of them.

use crate::{Error, Scalar, View, ViewMut, error::Operand, kv::expect_shape, validate::expect_len};

/// Merges another result for the same queries, over other keys, into a first one: values `[batch, q_heads, q_len, value_dim]`, with the
/// log-sum-exp of each query, contiguous `[batch, q_heads, q_len]`, as [`Output::lse`](crate::Output::lse) gives it.
///
/// ```text
/// lse = ln(e^a + e^b)      out = e^(a - lse) out_a + e^(b - lse) out_b
/// ```
///
/// (FlashAttention-2, Dao, 2023, and flash-decoding, 2023.) So keys can be shared out over threads, calls or machines, in ranges of any size.
/// Merging is commutative and associative up to rounding; the same ranges merged in the same order give the same bits, whoever
/// computed them. A result over no keys, zeros and `-inf`, is the identity, exactly. A [sink](crate::Attention::sinks) belongs to one of the
/// parts only.
///
/// ```
/// use simd_attention::{Attention, Kv, Output, View, ViewMut, merge, scratch_len};
///
/// let (q, k, v) = ([0.5f32; 4], [0.25f32; 10 * 4], [1f32; 10 * 4]);
/// let (mut out, mut lse, mut other, mut other_lse) = ([0f32; 4], [0f32], [0f32; 4], [0f32]);
/// let mut scratch = [0f32; scratch_len(4, 4)];
/// let mut attend = |keys: core::ops::Range<usize>, out: &mut [f32], lse: &mut [f32]| {
///     let (len, range) = (keys.len(), 4 * keys.start..4 * keys.end);
///     let kv = Kv::new(View::matrix(&k[range.clone()], [len, 4])?, View::matrix(&v[range], [len, 4])?)?;
///     let out = Output::new(ViewMut::matrix(out, [1, 4])?).lse(lse);
///     Attention::new().forward(View::matrix(&q, [1, 4])?, kv, out, &mut scratch)
/// };
/// attend(0..7, &mut out, &mut lse)?;
/// attend(7..10, &mut other, &mut other_lse)?;
/// merge(ViewMut::matrix(&mut out, [1, 4])?, &mut lse, View::matrix(&other, [1, 4])?, &other_lse)?;
/// // Ten keys of the same score, 0.5.
/// assert!((lse[0] - 0.25 - 10f32.ln()).abs() < 1e-6);
/// assert!((out[0] - 1.0).abs() < 1e-6);
/// # Ok::<(), simd_attention::Error>(())
/// ```
///
/// # Errors
///
/// Before anything is written: [`Error::ShapeMismatch`] where the results' extents differ, [`Error::LengthMismatch`] where there are not as
/// many log-sum-exps as queries.
pub fn merge<E: Scalar>(
    mut out: ViewMut<'_, E>,
    lse: &mut [E],
    other: View<'_, E>,
    other_lse: &[E],
) -> Result<(), Error> {
    let shape = out.shape();
    expect_shape(Operand::Value, shape, other.shape())?;
    let rows = shape.rows().ok_or(Error::SizeOverflow { shape })?;
    expect_len(Operand::LogSumExp, rows, Some(lse))?;
    expect_len(Operand::LogSumExp, rows, Some(other_lse))?;
    if rows == 0 {
        return Ok(());
    }
    let mut of_rows = lse.iter_mut().zip(other_lse);
    for batch in 0..shape.batch {
        for head in 0..shape.heads {
            let Some(other) = other.rows(batch, head) else { return Ok(()) };
            for (i, (a, b)) in (0..shape.len).zip(&mut of_rows) {
                merge_row((out.row_mut(batch, head, i), a), (other.row(i), *b));
            }
        }
    }
    Ok(())
}

fn merge_row<E: Scalar>((out, a): (&mut [E], &mut E), (other, b): (&[E], E)) {
    if b == E::NEG_INFINITY {
        return;
    }
    if *a == E::NEG_INFINITY {
        out.iter_mut().zip(other).for_each(|(out, other)| *out = *other);
        *a = b;
        return;
    }
    // The larger one's weight is at least 1/2, so that nothing overflows; NaN stays.
    let max = if *a < b { b } else { *a };
    let [weight_a, weight_b] = [*a - max, b - max].map(E::exp);
    let sum = weight_a + weight_b;
    let [share_a, share_b] = [weight_a / sum, weight_b / sum];
    for (out, other) in out.iter_mut().zip(other) {
        *out = *out * share_a + *other * share_b;
    }
    *a = max + sum.ln();
}

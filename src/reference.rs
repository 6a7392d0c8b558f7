//! The paper's formula, naively, in f64: the oracle that the kernels are held to.

use core::ops::Range;

use crate::{Attention, Error, Kv, View, ViewMut, validate, view::Rows};

/// `softmax(q k' * scale, masked) v`, and on request each query's log-sum-exp, contiguous `[batch, q_heads, q_len]`.
///
/// A query with no key left, or none whose score is above `-inf`, gives zeros and a log-sum-exp of `-inf`.
///
/// Each score is computed three times instead of stored: `O(3 * head_dim + value_dim)` for each query-key pair.
///
/// # Errors
///
/// Those of [`Attention::prepare`] but for the backend, which does not matter here.
pub fn forward(
    attention: &Attention,
    q: View<'_, f32>,
    kv: Kv<'_, f32>,
    mut out: ViewMut<'_, f64>,
    mut lse: Option<&mut [f64]>,
) -> Result<(), Error> {
    let (shape, kv_len) = (q.shape(), kv.keys.shape().len);
    let group = validate::shapes(shape, kv.keys.shape(), kv.values.shape(), out.shape())?;
    let scale = f64::from(validate::scale(attention, shape.dim)?);
    validate::lse_len(shape, lse.as_deref().map(<[f64]>::len))?;
    let diagonal = attention.diagonal(shape.len, kv_len);

    for batch in 0..shape.batch {
        for head in 0..shape.heads {
            let Some(queries) = q.rows(batch, head) else { continue };
            let (keys, values) = (kv.keys.rows(batch, head / group), kv.values.rows(batch, head / group));
            for i in 0..shape.len {
                let row_lse = row(
                    |j| scale * keys.map_or(0.0, |keys| dot(queries.row(i), keys.row(j))),
                    seen(diagonal, i, kv_len),
                    values,
                    out.row_mut(batch, head, i),
                );
                if let Some(lse) =
                    lse.as_deref_mut().and_then(|lse| lse.get_mut((batch * shape.heads + head) * shape.len + i))
                {
                    *lse = row_lse;
                }
            }
        }
    }
    Ok(())
}

/// The keys that query `i` sees.
fn seen(diagonal: Option<i64>, i: usize, kv_len: usize) -> Range<usize> {
    match diagonal {
        None => 0..kv_len,
        Some(offset) => 0..(i as i128 + i128::from(offset) + 1).clamp(0, kv_len as i128) as usize,
    }
}

/// One row of the output; returns its log-sum-exp.
fn row(score: impl Fn(usize) -> f64, keys: Range<usize>, values: Option<Rows<'_, f32>>, out: &mut [f64]) -> f64 {
    out.fill(0.0);
    let max = keys.clone().map(&score).fold(f64::NEG_INFINITY, |max, s| if s > max || s.is_nan() { s } else { max });
    if max == f64::NEG_INFINITY {
        return max;
    }
    let sum: f64 = keys.clone().map(|j| libm::exp(score(j) - max)).sum();
    for j in keys {
        let weight = libm::exp(score(j) - max) / sum;
        for (out, v) in out.iter_mut().zip(values.map_or(&[][..], |values| values.row(j))) {
            *out += weight * f64::from(*v);
        }
    }
    max + libm::log(sum)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

//! The operator `Attention` of ONNX, in terms of this crate.

use std::error::Error;

use half::{bf16, f16};
use safetensors::Dtype;
use simd_attention::{
    Attention, Backend, Float, Kv, Mask, Output, Shape, Stage, View, ViewMut, Window, cache_scratch_len,
};

use crate::{
    case::{AttnMask, Attributes, Case, Inputs},
    tensor::Tensor,
};

/// What the operator gives, by its names.
pub type Outputs = Vec<(&'static str, Tensor<f32>)>;

/// All outputs of a case, those of the cache if there is a past.
pub fn run(case: &Case, backend: Backend) -> Result<Outputs, Box<dyn Error>> {
    let Inputs { q, k, v, .. } = &case.inputs;
    match (q.dtype, k.dtype, v.dtype) {
        (q, k, _) if q != k => Err(format!("Q is of {q}, K of {k}").into()),
        (_, Dtype::F16, Dtype::F16) => run_as::<f16>(case, backend),
        (_, Dtype::BF16, Dtype::BF16) => run_as::<bf16>(case, backend),
        _ => run_as::<f32>(case, backend),
    }
}

/// Computed with queries, keys, values and output of this type.
fn run_as<T: Float<Sum = f32>>(case: &Case, backend: Backend) -> Result<Outputs, Box<dyn Error>> {
    let Inputs { k, v, past, lens, .. } = &case.inputs;
    let heads = case.attributes.kv_num_heads;
    let (new_keys, new_values) = (by_head("K", k, heads)?, by_head("V", v, heads)?);
    let present = match past {
        Some(past) => {
            Some([append("past_key", &past.keys, k, new_keys)?, append("past_value", &past.values, v, new_values)?])
        }
        None => None,
    };
    let [keys, values] = present.as_ref().map_or([k, v], |[k, v]| [k, v]).map(Tensor::kept_as::<T>);
    let mut kv = Kv::new(by_head("K", &keys, heads)?, by_head("V", &values, heads)?)?;
    if let Some(lens) = lens {
        kv = kv.lens(lens);
    }
    let mut outputs = masked(&attention(case)?.backend(backend), case, kv)?;
    if let Some([keys, values]) = present {
        outputs.extend([("present_key", keys), ("present_value", values)]);
    }
    Ok(outputs)
}

/// For each head the rows of `past`, and then those of `new`, which lie as in `view`.
fn append(name: &str, past: &Tensor<f32>, new: &Tensor<f32>, view: View<'_, f32>) -> Result<Tensor<f32>, String> {
    let (shape, strides) = (view.shape(), view.strides());
    let [batch, heads, past_len, dim] = rank_4(name, past)?;
    if (past.dtype, batch, heads, dim) != (new.dtype, shape.batch, shape.heads, shape.dim) {
        let [past, new] = [past, new].map(|tensor| format!("{} {}", tensor.dtype, tensor.extents()));
        return Err(format!("{name} {past} does not go before {new}"));
    }
    let mut data = Vec::with_capacity(past.data.len() + new.data.len());
    for head in 0..batch * heads {
        data.extend_from_slice(&past.data[head * past_len * dim..][..past_len * dim]);
        let first = head / heads * strides.batch + head % heads * strides.heads;
        for i in 0..shape.len {
            data.extend_from_slice(&new.data[first + i * strides.len..][..dim]);
        }
    }
    Ok(Tensor { dtype: new.dtype, shape: vec![batch, heads, past_len + shape.len, dim], data })
}

/// All but the mask.
fn attention(case: &Case) -> Result<Attention<'static>, String> {
    let Attributes { is_causal, scale, softcap, softmax_precision, .. } = case.attributes;
    let mut attention = Attention::new().window(Window {
        left: window("left_window_size", case.attributes.left_window_size)?,
        right: window("right_window_size", case.attributes.right_window_size)?,
    });
    if let Some(scale) = scale {
        attention = attention.scale(scale.into());
    }
    if softcap != 0.0 {
        attention = attention.softcap(softcap.into());
    }
    match is_causal {
        0 => (),
        1 => attention = attention.causal(),
        _ => return Err(format!("is_causal is {is_causal}")),
    }
    if let Some(precision) = softmax_precision.filter(|precision| !FLOATS.contains(precision)) {
        return Err(format!("softmax_precision {precision} is no type of floating-point numbers"));
    }
    // With lengths, the last query stands at the last key of its sequence, which is what this crate does by default.
    if case.inputs.lens.is_none() {
        attention = attention.offset(past_len(&case.inputs)?);
    }
    Ok(attention)
}

/// What ONNX numbers f32, f16, f64 and bf16 with.
const FLOATS: [u8; 4] = [1, 10, 11, 16];

fn past_len(inputs: &Inputs) -> Result<i64, String> {
    let Some(past) = &inputs.past else { return Ok(0) };
    let [_, _, len, _] = rank_4("past_key", &past.keys)?;
    i64::try_from(len).map_err(|error| format!("past_key: {error}"))
}

fn window(name: &str, size: i64) -> Result<Option<usize>, String> {
    match size {
        -1 => Ok(None),
        _ => usize::try_from(size).map(Some).map_err(|_| format!("{name} is {size}")),
    }
}

/// `Y` and `qk_matmul_output`, with the mask if there is one.
fn masked<T: Float<Sum = f32>>(
    attention: &Attention<'_>,
    case: &Case,
    kv: Kv<'_, T>,
) -> Result<Outputs, Box<dyn Error>> {
    let kv_len = kv.keys().shape().len;
    match &case.inputs.mask {
        None => forward(attention, case, kv),
        Some(AttnMask::Boolean(mask)) => {
            let mask = padded(mask, kv_len, false)?;
            forward(&attention.mask(Mask::new(as_matrices(&mask)?)), case, kv)
        }
        Some(AttnMask::Additive(bias)) => {
            let bias = padded(bias, kv_len, f32::NEG_INFINITY)?;
            forward(&attention.bias(as_matrices(&bias)?), case, kv)
        }
    }
}

fn forward<T: Float<Sum = f32>>(
    attention: &Attention<'_>,
    case: &Case,
    kv: Kv<'_, T>,
) -> Result<Outputs, Box<dyn Error>> {
    let (dtype, rank) = (case.inputs.q.dtype, case.inputs.q.shape.len());
    let q = case.inputs.q.kept_as::<T>();
    let q = by_head("Q", &q, case.attributes.q_num_heads)?;
    let Shape { batch, heads, len, dim } = q.shape();
    let (kv_len, value_dim) = (kv.keys().shape().len, kv.values().shape().dim);

    let mut y = vec![T::from_f32(f32::NAN); batch * heads * len * value_dim];
    let (y_shape, y_view) = if rank == 3 {
        let view = ViewMut::tokens_first(&mut y, [batch, len, heads, value_dim])?;
        (vec![batch, len, heads * value_dim], view)
    } else {
        (vec![batch, heads, len, value_dim], ViewMut::heads_first(&mut y, [batch, heads, len, value_dim])?)
    };
    let mut scores = vec![f32::NAN; batch * heads * len * kv_len];
    let scores_view = ViewMut::heads_first(&mut scores, [batch, heads, len, kv_len])?;

    let output = Output::new(y_view).scores(stage(case.attributes.qk_matmul_output_mode)?, scores_view);
    attention.forward(q, kv, output, &mut vec![0.0; cache_scratch_len(dim, value_dim)])?;
    let y: Vec<_> = y.into_iter().map(T::to_f32).collect();
    Ok(vec![
        ("Y", Tensor::rounded(dtype, y_shape, &y)),
        ("qk_matmul_output", Tensor::rounded(dtype, vec![batch, heads, len, kv_len], &scores)),
    ])
}

fn stage(qk_matmul_output_mode: u8) -> Result<Stage, String> {
    match qk_matmul_output_mode {
        0 => Ok(Stage::Scaled),
        1 => Ok(Stage::Capped),
        2 => Ok(Stage::Masked),
        3 => Ok(Stage::Weights),
        mode => Err(format!("qk_matmul_output_mode is {mode}")),
    }
}

/// Queries, keys or values where they lie. Those of rank 3 don't tell how many heads they have.
fn by_head<'a, T>(name: &str, tensor: &'a Tensor<T>, heads: Option<usize>) -> Result<View<'a, T>, String> {
    let view = match (tensor.shape.as_slice(), heads) {
        (&[batch, actual, len, dim], heads) if heads.is_none_or(|heads| heads == actual) => {
            View::heads_first(&tensor.data, [batch, actual, len, dim])
        }
        (&[batch, len, width], Some(heads)) if width.is_multiple_of(heads) => {
            View::tokens_first(&tensor.data, [batch, len, heads, width.checked_div(heads).unwrap_or(0)])
        }
        (_, Some(heads)) => return Err(format!("{name} {} is not of {heads} heads", tensor.extents())),
        (_, None) => return Err(format!("{name} {} is of an unknown number of heads", tensor.extents())),
    };
    view.map_err(|error| format!("{name} {}: {error}", tensor.extents()))
}

fn rank_4(name: &str, tensor: &Tensor<f32>) -> Result<[usize; 4], String> {
    tensor.shape.as_slice().try_into().map_err(|_| format!("{name} {} is not of rank 4", tensor.extents()))
}

/// A mask with as many columns as there are keys; one that has fewer is continued with `fill`.
fn padded<T: Copy>(mask: &Tensor<T>, kv_len: usize, fill: T) -> Result<Tensor<T>, String> {
    let (Some(&columns @ 1..), true) = (mask.shape.last(), mask.shape.last() <= Some(&kv_len)) else {
        return Err(format!("attn_mask {} does not fit {kv_len} keys", mask.extents()));
    };
    let mut data = Vec::with_capacity(mask.data.len() / columns * kv_len);
    for row in mask.data.chunks_exact(columns) {
        data.extend_from_slice(row);
        data.resize(data.len() + kv_len - columns, fill);
    }
    let mut shape = mask.shape.clone();
    shape.splice(mask.shape.len() - 1.., [kv_len]);
    Ok(Tensor { dtype: mask.dtype, shape, data })
}

/// A mask of rank 1 to 4 as one of rank 4.
fn as_matrices<T>(mask: &Tensor<T>) -> Result<View<'_, T>, Box<dyn Error>> {
    let extents = match *mask.shape {
        [kv_len] => [1, 1, 1, kv_len],
        [q_len, kv_len] => [1, 1, q_len, kv_len],
        [heads, q_len, kv_len] => [1, heads, q_len, kv_len],
        [batch, heads, q_len, kv_len] => [batch, heads, q_len, kv_len],
        _ => return Err(format!("attn_mask {} is of rank {}", mask.extents(), mask.shape.len()).into()),
    };
    Ok(View::heads_first(&mask.data, extents)?)
}

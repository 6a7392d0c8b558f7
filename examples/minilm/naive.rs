//! The textbook form to compare with: plain f32 loops, as one would write them first.

use crate::model::Layer;

/// `softmax(q k' / sqrt(dim)) v` for each head.
pub fn forward(layer: &Layer, out: &mut [f32]) {
    let head = layer.len * layer.dim;
    let heads = layer.q.chunks_exact(head).zip(layer.k.chunks_exact(head)).zip(layer.v.chunks_exact(head));
    for (((q, k), v), out) in heads.zip(out.chunks_exact_mut(head)) {
        forward_head(q, k, v, out, layer.dim);
    }
}

fn forward_head(q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], dim: usize) {
    let scale = 1.0 / (dim as f32).sqrt();
    let mut weights = vec![0.0; k.len() / dim];
    for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        for (weight, k) in weights.iter_mut().zip(k.chunks_exact(dim)) {
            *weight = scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        }
        softmax(&mut weights);
        out.fill(0.0);
        for (weight, v) in weights.iter().zip(v.chunks_exact(dim)) {
            for (out, v) in out.iter_mut().zip(v) {
                *out += weight * v;
            }
        }
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum: f32 = row.iter().sum();
    for x in row {
        *x /= sum;
    }
}

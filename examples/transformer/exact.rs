//! The same layers in f64, in the plainest loops, which share nothing with the crate but the weights.

use crate::model::{Affine, Attend, FeedForward, Model, Norm, Tokens};

type Matrix = Vec<Vec<f64>>;

/// As [`Activations`](crate::forward::Activations), row by row.
pub struct Exact {
    pub encoder: Matrix,
    pub decoder: Matrix,
    pub causal: Matrix,
    pub cross: Matrix,
}

pub fn forward(model: &Model, source: &Tokens, target: &Tokens) -> Exact {
    let (source, target) = (matrix(source), matrix(target));
    let (x, _) = attend(&model.encoder.self_attention, &source, &source);
    let encoder = feed_forward(&model.encoder.feed_forward, &x);

    let (y, causal) = attend(&model.decoder.self_attention, &target, &target);
    let (y, cross) = attend(&model.decoder.cross_attention, &y, &encoder);
    Exact { decoder: feed_forward(&model.decoder.feed_forward, &y), encoder, causal, cross }
}

/// The sublayer's output, and the weights of all heads, one after the other.
fn attend(layer: &Attend, x: &Matrix, source: &Matrix) -> (Matrix, Matrix) {
    let [query, key, value, output] = &layer.projections;
    let (q, k, v) = (affine(query, x), affine(key, source), affine(value, source));
    let dim = q[0].len() / layer.heads;
    let mut context = vec![vec![0.0; v[0].len()]; x.len()];
    let mut weights = Matrix::new();
    for head in (0..q[0].len()).step_by(dim).map(|first| first..first + dim) {
        for i in 0..x.len() {
            let mut row = vec![0.0; source.len()];
            let seen = if layer.causal { i + 1 } else { source.len() };
            for j in 0..seen {
                row[j] = dot(&q[i][head.clone()], &k[j][head.clone()]) / (dim as f64).sqrt();
            }
            softmax(&mut row[..seen]);
            for j in 0..seen {
                for c in head.clone() {
                    context[i][c] += row[j] * v[j][c];
                }
            }
            weights.push(row);
        }
    }
    (add_and_norm(&layer.norm, x, &affine(output, &context)), weights)
}

fn feed_forward(layer: &FeedForward, x: &Matrix) -> Matrix {
    let mut hidden = affine(&layer.expand, x);
    for x in hidden.iter_mut().flatten() {
        *x = x.max(0.0);
    }
    add_and_norm(&layer.norm, x, &affine(&layer.contract, &hidden))
}

fn affine(layer: &Affine, x: &Matrix) -> Matrix {
    let weights = layer.weights.chunks(x[0].len()).map(|row| row.iter().copied().map(f64::from).collect());
    let weights: Matrix = weights.collect();
    let element = |x: &[f64], i: usize| dot(x, &weights[i]) + f64::from(layer.bias[i]);
    x.iter().map(|x| (0..weights.len()).map(|i| element(x, i)).collect()).collect()
}

fn add_and_norm(norm: &Norm, x: &Matrix, y: &Matrix) -> Matrix {
    let mut sums = Matrix::new();
    for (x, y) in x.iter().zip(y) {
        let sum: Vec<f64> = x.iter().zip(y).map(|(x, y)| x + y).collect();
        let mean = sum.iter().sum::<f64>() / sum.len() as f64;
        let variance = sum.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / sum.len() as f64;
        let deviation = (variance + f64::from(Norm::EPSILON)).sqrt();
        let element = |i: usize| (sum[i] - mean) / deviation * f64::from(norm.gain[i]) + f64::from(norm.bias[i]);
        sums.push((0..sum.len()).map(element).collect());
    }
    sums
}

fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for x in row.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum: f64 = row.iter().sum();
    for x in row {
        *x /= sum;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn matrix(tokens: &Tokens) -> Matrix {
    tokens.data.chunks(tokens.dim).map(|token| token.iter().copied().map(f64::from).collect()).collect()
}

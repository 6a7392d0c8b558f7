//! Queries, keys and values that follow from what the layer has put out before, in place of a model's other layers.

use std::ops::Range;

use simd_attention::{Error, View};

use crate::{options::Layer, random::Random};

/// How much the size of a token's elements follows from the last output. Their signs are noise: otherwise all tokens would soon be alike.
const FOLLOWS: f32 = 0.5;
/// Of uniform numbers with a root mean square of 1.
const NOISE: f32 = 1.732_050_8;

/// Which elements of the last output make the next query, key and value: a random order of them each.
pub struct Mixing([Vec<usize>; 3]);

impl Mixing {
    pub fn new(layer: &Layer, random: &mut Random) -> Self {
        Self([(); 3].map(|()| shuffled(layer.query(), random)))
    }
}

/// The numbers below `len` in some order.
pub fn shuffled(len: usize, random: &mut Random) -> Vec<usize> {
    let keys = random.vector(len, 1.0);
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    order
}

/// Some tokens' queries `[tokens, heads, dim]`, keys and values `[tokens, kv_heads, dim]`.
pub struct Tokens {
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl Tokens {
    pub fn zeros(layer: &Layer, len: usize) -> Self {
        let zeros = |elements| vec![0.0; len * elements];
        Self { queries: zeros(layer.query()), keys: zeros(layer.row()), values: zeros(layer.row()) }
    }

    /// Keys and values of a prompt; nobody asks for its outputs, so there are no queries.
    pub fn prompt(layer: &Layer, len: usize, random: &mut Random) -> Self {
        let mut noise = || normalized(random.vector(len * layer.row(), NOISE), layer.dim);
        Self { queries: Vec::new(), keys: noise(), values: noise() }
    }

    /// Keys and values of some of the tokens, as those of one sequence.
    pub fn part(&self, layer: &Layer, tokens: Range<usize>) -> Result<[View<'_, f32>; 2], Error> {
        let view = |rows| View::tokens_first(rows, [1, tokens.len(), layer.kv_heads, layer.dim]);
        let first = tokens.start * layer.row();
        Ok([view(&self.keys[first..])?, view(&self.values[first..])?])
    }

    /// Makes token `i` the one that follows an output.
    pub fn follow(&mut self, i: usize, layer: &Layer, output: &[f32], mixing: &Mixing, random: &mut Random) {
        let output = normalized(output.to_vec(), layer.dim);
        let parts =
            [(&mut self.queries, layer.query()), (&mut self.keys, layer.row()), (&mut self.values, layer.row())];
        for ((tokens, len), order) in parts.into_iter().zip(&mixing.0) {
            let mut token = random.vector(len, NOISE);
            token.iter_mut().zip(order).for_each(|(x, &from)| *x *= 1.0 + FOLLOWS * output[from]);
            tokens[i * len..][..len].copy_from_slice(&normalized(token, layer.dim));
        }
    }
}

/// Rows of `dim` elements with a root mean square of 1, as models have them behind their norms.
fn normalized(mut rows: Vec<f32>, dim: usize) -> Vec<f32> {
    for row in rows.chunks_exact_mut(dim) {
        let mean_square = row.iter().map(|x| x * x).sum::<f32>() / dim as f32;
        let factor = 1.0 / mean_square.max(f32::MIN_POSITIVE).sqrt();
        row.iter_mut().for_each(|x| *x *= factor);
    }
    rows
}

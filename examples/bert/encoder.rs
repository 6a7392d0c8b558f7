//! BERT's way from tokens to a sentence's embedding.

use std::error::Error;

use simd_attention::{Output, Stage, View, ViewMut, multi_head_scratch_len, scratch_len};

use crate::{
    elementwise::{gelu, mean_direction},
    model::{Config, Dense, Embeddings, Layer, Model},
    tokenizer::Input,
};

/// A model with the memory that it works in, which grows with the largest batch.
pub struct Encoder<'m> {
    model: &'m Model,
    buffers: Buffers,
}

/// Each but `scratch` has a row for every token of the batch.
#[derive(Default)]
struct Buffers {
    /// What is known of each token so far.
    hidden: Vec<f32>,
    /// What a part of a layer adds to it.
    update: Vec<f32>,
    inner: Vec<f32>,
    scratch: Vec<f32>,
}

/// Inputs side by side, with room for the longest in each.
struct Batch {
    lens: Vec<usize>,
    room: usize,
}

impl Batch {
    fn new(inputs: &[Input], positions: usize) -> Result<Self, String> {
        let lens: Vec<usize> = inputs.iter().map(|input| input.tokens.len()).collect();
        let room = lens.iter().copied().max().unwrap_or_default();
        if room > positions {
            return Err(format!("an input of {room} tokens; the model reads {positions}"));
        }
        Ok(Self { lens, room })
    }

    fn extents(&self, dim: usize) -> [usize; 4] {
        [self.lens.len(), 1, self.room, dim]
    }
}

impl<'m> Encoder<'m> {
    pub fn new(model: &'m Model) -> Self {
        Self { model, buffers: Buffers::default() }
    }

    /// A vector of length 1 for each input: near to those of inputs that mean the same.
    pub fn embed(&mut self, inputs: &[Input]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
        let dim = self.model.config.dim;
        let batch = self.run(inputs, self.model.layers.len())?;
        let sentences = self.buffers.hidden.chunks(batch.room * dim).zip(&batch.lens);
        Ok(sentences.map(|(rows, len)| mean_direction(&rows[..len * dim], dim)).collect())
    }

    /// The weights `[len, len]` with which the tokens of an input attend to each other in a head.
    pub fn attention(&mut self, input: &Input, layer: usize, head: usize) -> Result<Vec<f32>, Box<dyn Error>> {
        let &Config { dim, heads, .. } = &self.model.config;
        let batch = self.run(std::slice::from_ref(input), layer)?;
        let len = batch.room;
        let mut weights = vec![0.0; heads * len * len];
        let Buffers { hidden, update, scratch, .. } = &mut self.buffers;
        let out = Output::new(ViewMut::matrix(update, [len, dim])?)
            .scores(Stage::Weights, ViewMut::heads_first(&mut weights, [1, heads, len, len])?);
        let x = View::matrix(hidden, [len, dim])?;
        self.model.layers[layer].attention(&batch.lens)?.forward(x, x, out, scratch)?;
        Ok(weights[head * len * len..][..len * len].to_vec())
    }

    /// What the first layers make of the inputs is left in `hidden`, `[inputs, room, dim]`.
    fn run(&mut self, inputs: &[Input], layers: usize) -> Result<Batch, Box<dyn Error>> {
        let Model { config, embeddings, layers: all, .. } = self.model;
        let batch = Batch::new(inputs, config.positions)?;
        self.buffers.resize(&batch, config);
        self.buffers.embed(inputs, &batch, embeddings);
        for layer in all.iter().take(layers) {
            self.buffers.forward(&batch, layer)?;
        }
        Ok(batch)
    }
}

impl Buffers {
    fn resize(&mut self, batch: &Batch, config: &Config) {
        let (tokens, &Config { dim, inner_dim, heads, .. }) = (batch.lens.len() * batch.room, config);
        self.hidden.resize(tokens * dim, 0.0);
        self.update.resize(tokens * dim, 0.0);
        self.inner.resize(tokens * inner_dim, 0.0);
        self.scratch.resize(multi_head_scratch_len([tokens; 2], dim, heads).max(scratch_len(inner_dim, 0)), 0.0);
    }

    /// Rows past an input's end are zeros: something to compute with, which nobody looks at.
    fn embed(&mut self, inputs: &[Input], batch: &Batch, embeddings: &Embeddings) {
        let Embeddings { tokens, positions, segments, norm } = embeddings;
        let dim = norm.gain.len();
        let row = |i: usize| i * dim..(i + 1) * dim;
        self.hidden.fill(0.0);
        self.update.fill(0.0);
        for (first, input) in (0..).step_by(batch.room).zip(inputs) {
            for (i, (&token, &segment)) in input.tokens.iter().zip(&input.segments).enumerate() {
                self.hidden[row(first + i)].copy_from_slice(&tokens[row(token as usize)]);
                let place = positions[row(i)].iter().zip(&segments[row(segment)]);
                for (update, (position, segment)) in self.update[row(first + i)].iter_mut().zip(place) {
                    *update = position + segment;
                }
            }
        }
        norm.add(&mut self.hidden, &self.update);
    }

    /// Attention, then the same two linear layers for each token; both are added to what is there, and normalised.
    fn forward(&mut self, batch: &Batch, layer: &Layer) -> Result<(), simd_attention::Error> {
        let Self { hidden, update, inner, scratch } = self;
        let extents = batch.extents(layer.dim());
        let x = View::heads_first(hidden, extents)?;
        layer.attention(&batch.lens)?.forward(x, x, ViewMut::heads_first(update, extents)?, scratch)?;
        layer.attention_norm.add(hidden, update);
        project(&layer.widen, hidden, inner, scratch)?;
        gelu(inner);
        project(&layer.narrow, inner, update, scratch)?;
        layer.norm.add(hidden, update);
        Ok(())
    }
}

/// All tokens at once, whichever input they belong to.
fn project(dense: &Dense, x: &[f32], y: &mut [f32], scratch: &mut [f32]) -> Result<(), simd_attention::Error> {
    let linear = dense.linear()?;
    let (tokens, dims) = (x.len() / linear.in_dim(), [linear.in_dim(), linear.out_dim()]);
    linear.forward(View::matrix(x, [tokens, dims[0]])?, ViewMut::matrix(y, [tokens, dims[1]])?, scratch)
}

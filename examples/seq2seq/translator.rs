//! The model at work: every matrix is a `Linear`, and every output character one call of `Attention`.

use std::time::{Duration, Instant};

use simd_attention::{Additive, Attention, Backend, Error, Kv, Linear, Output, Stage, View, ViewMut, scratch_len};

use crate::model::{Gru, Model};

/// A model with the memory it computes in.
pub struct Translator<'m> {
    model: &'m Model,
    backend: Backend,
    pub attended: Attended,
    /// As long as any call so far has needed.
    scratch: Vec<f32>,
}

/// The calls of `Attention` so far.
#[derive(Clone, Copy, Default)]
pub struct Attended {
    pub calls: u64,
    pub time: Duration,
}

#[derive(Clone)]
pub struct Translation {
    pub text: String,
    pub iso: String,
    /// `[characters of iso, characters of text]`
    pub alignment: Vec<f32>,
}

/// The text as the decoder sees it.
struct Encoded {
    len: usize,
    /// What to compare a query with, `[len, hidden]`.
    keys: Vec<f32>,
    /// The states of both directions side by side, `[len, 2 * dim]`.
    values: Vec<f32>,
    /// The state that the decoder starts from.
    state: Vec<f32>,
}

impl<'m> Translator<'m> {
    pub fn new(model: &'m Model, backend: Backend) -> Self {
        Self { model, backend, attended: Attended::default(), scratch: Vec::new() }
    }

    /// Of no text, the encoder would have no last state: that is an error.
    pub fn translate(&mut self, text: &str) -> Result<Translation, Box<dyn std::error::Error>> {
        if text.is_empty() {
            return Err("the date is empty".into());
        }
        let encoded = self.encode(text)?;
        let (iso, alignment) = self.decode(encoded)?;
        Ok(Translation { text: text.to_owned(), iso, alignment })
    }

    fn encode(&mut self, text: &str) -> Result<Encoded, Error> {
        let Model { symbols, encoder, attention, decoder } = self.model;
        let x: Vec<f32> = symbols.indices(text).flat_map(|i| encoder.embedding.row(i)).copied().collect();
        let len = text.chars().count();
        let forward = self.states(&encoder.forward, &x, 0..len)?;
        let backward = self.states(&encoder.backward, &x, (0..len).rev())?;

        let dim = encoder.forward.dim();
        let pairs = || forward.chunks(dim).zip(backward.chunks(dim));
        let values: Vec<f32> = pairs().flat_map(|(f, b)| [f, b].concat()).collect();
        // Where each direction has ended.
        let last = [&forward[(len - 1) * dim..], &backward[..dim]].concat();
        let mut state = self.linear(decoder.initial.linear()?, &last)?;
        state.iter_mut().for_each(|s| *s = s.tanh());
        Ok(Encoded { len, keys: self.linear(attention.key.linear()?, &values)?, values, state })
    }

    /// The states of a GRU after each character, `[len, dim]`, when it meets them in the order of `places`.
    fn states(&mut self, gru: &Gru, x: &[f32], places: impl Iterator<Item = usize>) -> Result<Vec<f32>, Error> {
        let dim = gru.dim();
        let from_input = self.linear(gru.input.linear()?, x)?;
        let mut state = vec![0.0; dim];
        let mut states = vec![0.0; from_input.len() / 3];
        for i in places {
            self.step(gru, &from_input[3 * dim * i..][..3 * dim], &mut state)?;
            states[dim * i..][..dim].copy_from_slice(&state);
        }
        Ok(states)
    }

    fn step(&mut self, gru: &Gru, from_input: &[f32], state: &mut [f32]) -> Result<(), Error> {
        let from_state = self.linear(gru.recurrent.linear()?, state)?;
        Gru::update(from_input, &from_state, state);
        Ok(())
    }

    /// The likeliest symbol, as often as there are symbols to write, and what each of them looked at.
    fn decode(&mut self, mut encoded: Encoded) -> Result<(String, Vec<f32>), Error> {
        let Model { symbols, decoder, .. } = self.model;
        let (mut iso, mut previous) = (String::new(), symbols.start);
        let mut alignment = vec![0.0; symbols.len * encoded.len];
        for weights in alignment.chunks_mut(encoded.len) {
            // The query is the state before the step.
            let context = self.attend(&encoded, weights)?;
            let x = [decoder.embedding.row(previous), &context].concat();
            let from_input = self.linear(decoder.gru.input.linear()?, &x)?;
            self.step(&decoder.gru, &from_input, &mut encoded.state)?;
            let logits = self.linear(decoder.output.linear()?, &[&encoded.state, context.as_slice()].concat())?;
            previous = argmax(&logits);
            iso += &symbols.output[previous];
        }
        Ok((iso, alignment))
    }

    /// The mean of the values, weighed by how well their keys go with the state, and the weights.
    fn attend(&mut self, encoded: &Encoded, weights: &mut [f32]) -> Result<Vec<f32>, Error> {
        let Encoded { len, keys, values, state } = encoded;
        let Model { attention: alignment, .. } = self.model;
        let ([hidden, query_dim], value_dim) = (alignment.query.extents(), values.len() / len);
        let score = Additive::new(&alignment.v).query_weights(alignment.query.view()?);
        let attention = Attention::with_score(score).backend(self.backend);
        let mut context = vec![0.0; value_dim];
        let scratch = self.scratch(scratch_len(query_dim + hidden, value_dim));
        let start = Instant::now();
        attention.forward(
            View::matrix(state, [1, query_dim])?,
            Kv::new(View::matrix(keys, [*len, hidden])?, View::matrix(values, [*len, value_dim])?)?,
            Output::new(ViewMut::matrix(&mut context, [1, value_dim])?)
                .scores(Stage::Weights, ViewMut::matrix(weights, [1, *len])?),
            scratch,
        )?;
        self.attended.time += start.elapsed();
        self.attended.calls += 1;
        Ok(context)
    }

    /// A layer, applied to every row of `x`.
    fn linear(&mut self, layer: Linear<'_>, x: &[f32]) -> Result<Vec<f32>, Error> {
        let (layer, in_dim, out_dim) = (layer.backend(self.backend), layer.in_dim(), layer.out_dim());
        let rows = x.len() / in_dim;
        let mut y = vec![0.0; rows * out_dim];
        let scratch = self.scratch(scratch_len(in_dim, 0));
        layer.forward(View::matrix(x, [rows, in_dim])?, ViewMut::matrix(&mut y, [rows, out_dim])?, scratch)?;
        Ok(y)
    }

    fn scratch(&mut self, len: usize) -> &mut [f32] {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0.0);
        }
        &mut self.scratch
    }
}

/// Where the largest one is.
fn argmax(logits: &[f32]) -> usize {
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

//! Generation, with both caches next to each other.

use std::{
    error::Error,
    ops::Range,
    time::{Duration, Instant},
};

use simd_attention::{View, cache_scratch_len};

use crate::{
    accuracy::{Accuracy, Magnitudes},
    cache::{Cache, Outputs},
    options::{Layer, Options},
    paged::Paged,
    plain::Plain,
    random::Random,
    tokens::{Mixing, Tokens},
};

const SEED: u64 = 2023;
/// Of the order of pages.
const PAGES_SEED: u64 = !SEED;

/// Some sequences that are generated at once, and two caches of their keys and values.
pub struct Decoder {
    options: Options,
    pub plain: Plain,
    pub paged: Paged,
    mixing: Mixing,
    /// The noise of each sequence.
    random: Vec<Random>,
    /// Of the last step, from either cache.
    pub outputs: [Vec<f32>; 2],
    tokens: Tokens,
    pub magnitudes: Magnitudes,
    scratch: Vec<f32>,
}

/// What some steps took, and how well they did.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    pub plain: Clock,
    pub paged: Clock,
    pub accuracy: Accuracy,
}

impl Measured {
    pub fn add(&mut self, other: &Self) {
        self.plain.add(&other.plain);
        self.paged.add(&other.paged);
        self.accuracy.add(&other.accuracy);
    }
}

/// What one of the caches took.
#[derive(Clone, Copy, Default)]
pub struct Clock {
    append: Duration,
    attend: Duration,
    /// Tokens of all sequences.
    tokens: usize,
    bytes_read: usize,
}

impl Clock {
    fn add(&mut self, other: &Self) {
        self.append += other.append;
        self.attend += other.attend;
        self.tokens += other.tokens;
        self.bytes_read += other.bytes_read;
    }

    pub fn microseconds_of_token(&self) -> f64 {
        1e6 * (self.append + self.attend).as_secs_f64() / self.tokens as f64
    }

    pub fn tokens_per_second(&self) -> f64 {
        1e6 / self.microseconds_of_token()
    }

    /// Thousand million bytes of keys and values that attention has read.
    pub fn gigabytes_per_second(&self) -> f64 {
        1e-9 * self.bytes_read as f64 / self.attend.as_secs_f64()
    }

    /// The part of the time that new keys and values took.
    pub fn appending(&self) -> f64 {
        self.append.as_secs_f64() / (self.append + self.attend).as_secs_f64()
    }
}

impl Decoder {
    /// These sequences with their prompts, all of which begin alike, in both caches.
    pub fn new(options: &Options, sequences: Range<usize>) -> Result<Self, Box<dyn Error>> {
        let (Options { layer, .. }, count) = (*options, sequences.len());
        let mut random = Random(SEED);
        let mut decoder = Self {
            options: *options,
            plain: Plain::new(options, count)?,
            paged: Paged::new(options, count, &mut Random(PAGES_SEED))?,
            mixing: Mixing::new(&layer, &mut random),
            random: sequences.clone().map(|sequence| Random(SEED + 1 + sequence as u64)).collect(),
            outputs: [(); 2].map(|()| vec![0.0; count * layer.query()]),
            tokens: Tokens::zeros(&layer, count),
            magnitudes: Magnitudes::default(),
            scratch: vec![0.0; cache_scratch_len(layer.dim, layer.dim)],
        };
        decoder.read(&Tokens::prompt(&layer, options.prompt, &mut random), sequences)?;
        Ok(decoder)
    }

    /// Gives each sequence its part of the prompt. What lies on full pages of the first one, the others share.
    fn read(&mut self, prompt: &Tokens, sequences: Range<usize>) -> Result<(), Box<dyn Error>> {
        self.magnitudes.observe(&prompt.keys, &prompt.values);
        for (i, sequence) in sequences.enumerate() {
            let len = self.options.prompt_of(sequence);
            let shared = if i > 0 { self.paged.share(0, i, len) } else { 0 };
            self.plain.append(i..i + 1, prompt.part(&self.options.layer, 0..len)?)?;
            self.paged.append(i..i + 1, prompt.part(&self.options.layer, shared..len)?)?;
        }
        Ok(())
    }

    /// Generates the next token of each sequence, which follows from what the f32 cache gave for the last one: so both caches get the same
    /// tokens, and the error is that of bytes alone.
    pub fn step(&mut self) -> Result<Measured, Box<dyn Error>> {
        let Self { options: Options { layer, .. }, tokens, outputs: [exact, actual], scratch, .. } = self;
        for (i, (output, random)) in exact.chunks_exact(layer.query()).zip(&mut self.random).enumerate() {
            tokens.follow(i, layer, output, &self.mixing, random);
        }
        self.magnitudes.observe(&tokens.keys, &tokens.values);
        let plain = advance(&mut self.plain, layer, tokens, Outputs { rows: exact, scratch })?;
        let paged = advance(&mut self.paged, layer, tokens, Outputs { rows: actual, scratch })?;
        let bound = self.magnitudes.bound(&tokens.queries, layer.dim);
        Ok(Measured { plain, paged, accuracy: Accuracy::new(exact, actual, bound) })
    }
}

/// Appends the token of each sequence, and attends with it.
fn advance(cache: &mut impl Cache, layer: &Layer, tokens: &Tokens, to: Outputs<'_>) -> Result<Clock, Box<dyn Error>> {
    let count = cache.lens().len();
    let view = |rows| View::heads_first(rows, [count, layer.kv_heads, 1, layer.dim]);
    let start = Instant::now();
    cache.append(0..count, [view(&tokens.keys)?, view(&tokens.values)?])?;
    let append = start.elapsed();
    cache.attend(0..count, &tokens.queries, to)?;
    let attend = start.elapsed() - append;
    let bytes_read = cache.lens().iter().sum::<usize>() * cache.bytes_of_token();
    Ok(Clock { append, attend, tokens: count, bytes_read })
}

//! Whether the layers are right: their accuracy, and that the mask hides what it should.

use std::{error::Error, fmt};

use crate::{
    exact::Exact,
    forward::Activations,
    model::{Model, Tokens},
};

/// How far f32 may be off. Every sublayer ends in a norm, so all that is compared is of the order of 1, and what is off in
/// one passes through the next much as it is. A sublayer's longest sums have some hundred products of that order, which
/// round by a few units in the last place (2^-23) in all, and five sublayers follow one another: some ten or twenty such
/// units. A few times as many are allowed; a wrong weight, scale or mask is off by thousands.
const TOLERANCE: f64 = 64.0 * f32::EPSILON as f64;

/// The largest differences from the exact results, each with what differs.
pub struct Accuracy([(&'static str, f64); 4]);

impl Accuracy {
    pub fn new(actual: &Activations, exact: &Exact) -> Self {
        Self([
            ("output of the encoder", max_difference(&actual.encoder.data, &exact.encoder)),
            ("weights of the decoder's self-attention", max_difference(&actual.causal, &exact.causal)),
            ("weights of the cross-attention", max_difference(&actual.cross, &exact.cross)),
            ("output of the decoder", max_difference(&actual.decoder.data, &exact.decoder)),
        ])
    }

    pub fn max(&self) -> f64 {
        self.0.iter().map(|&(_, difference)| difference).fold(0.0, f64::max)
    }

    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        if self.max() <= TOLERANCE { Ok(()) } else { Err(format!("beyond f32 accuracy\n{self}").into()) }
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Largest differences from plain loops in f64 (allowed: {TOLERANCE:.1e}):\n")?;
        self.0.iter().try_for_each(|(what, difference)| writeln!(f, "  {difference:.1e}  {what}"))
    }
}

/// Infinite where either is NaN, or one has more numbers than the other.
fn max_difference(actual: &[f32], expected: &[Vec<f64>]) -> f64 {
    let expected = expected.concat();
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let differences = actual.iter().zip(&expected).map(|(&actual, expected)| (f64::from(actual) - expected).abs());
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max)
}

/// Puts another word in the place of each target token in turn: the decoder's output must change from there on, and not a
/// bit before.
pub fn check_mask(model: &Model, source: &Tokens, words: &[u64], output: &Tokens) -> Result<(), Box<dyn Error>> {
    for changed in 0..words.len() {
        let mut words = words.to_vec();
        words[changed] = !words[changed];
        let other = model.forward(source, &Tokens::embed(&words, output.dim))?.decoder;
        for i in 0..words.len() {
            if (row_bits(output, i) == row_bits(&other, i)) != (i < changed) {
                let what = if i < changed { "changes" } else { "does not change" };
                return Err(format!("another word at target token {changed} {what} the output at token {i}").into());
            }
        }
    }
    Ok(())
}

fn row_bits(tokens: &Tokens, i: usize) -> Vec<u32> {
    tokens.data[i * tokens.dim..][..tokens.dim].iter().map(|x| x.to_bits()).collect()
}

//! A Transformer's encoder layer and decoder layer (Vaswani et al. 2017, "Attention Is All You Need"), with fixed random
//! weights: computed, checked and shown.
//!
//! ```text
//! cargo run --release --example transformer -- [--head HEAD] [--folder FOLDER]
//! ```

mod check;
mod exact;
mod forward;
mod model;
mod options;
#[path = "../picture/mod.rs"]
mod picture;
mod random;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use check::Accuracy;
use forward::Activations;
use model::{Model, Sizes, Tokens};
use options::Options;
use picture::{Axis, Heatmap, Terminal};

const SIZES: Sizes = Sizes { model: 64, heads: 4, hidden: 128 };
const SEED: u64 = 2017;

/// A model, and the numbers of the words that it is given.
struct Setup {
    model: Model,
    source: Vec<u64>,
    target: Vec<u64>,
}

impl Setup {
    fn new(sizes: Sizes, seed: u64, [source, target]: [u64; 2]) -> Self {
        Self {
            model: Model::random(sizes, seed),
            source: (0..source).collect(),
            target: (source..source + target).collect(),
        }
    }
}

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transformer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<(), Box<dyn Error>> {
    let setup = Setup::new(SIZES, SEED, [12, 9]);
    match Options::parse(std::env::args_os().skip(1), SIZES.heads)? {
        Some(options) => run(&setup, &options, Terminal::stdout(), &mut io::stdout().lock()),
        None => Ok(write!(io::stdout(), "{}", options::HELP)?),
    }
}

/// Computes and checks both layers, and shows the chosen head of the decoder's attentions.
fn run(setup: &Setup, options: &Options, terminal: Terminal, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let Sizes { model: dim, heads, hidden } = setup.model.sizes;
    let [source, target] = [setup.source.len(), setup.target.len()];
    writeln!(
        out,
        "An encoder layer and a decoder layer, post-norm, with fixed random weights: {dim} elements a token, {heads} heads,\n\
         {hidden} hidden units, {source} source tokens, {target} target tokens.\n"
    )?;
    let activations = compute(setup, out)?;
    let (source, target) = (Positions::new("source token", source), Positions::new("target token", target));
    show(&activations, [&source, &target], options, terminal, out)
}

/// What the layers give, once it has been checked.
fn compute(
    Setup { model, source, target: words }: &Setup,
    out: &mut impl Write,
) -> Result<Activations, Box<dyn Error>> {
    let (source, target) = (Tokens::embed(source, model.sizes.model), Tokens::embed(words, model.sizes.model));
    let activations = model.forward(&source, &target)?;
    let accuracy = Accuracy::new(&activations, &exact::forward(model, &source, &target));
    writeln!(out, "{accuracy}")?;
    accuracy.check()?;
    check::check_mask(model, &source, words, &activations.decoder)?;
    writeln!(
        out,
        "The mask: each target token in turn was changed; no bit of the decoder's output before it changed,\n\
         and every row from it on did.\n"
    )?;
    Ok(activations)
}

/// Prints and writes the weights of one head of the decoder's two attentions.
fn show(
    Activations { causal, cross, .. }: &Activations,
    [source, target]: [&Positions; 2],
    options: &Options,
    terminal: Terminal,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    for (name, title, weights, keys) in [
        ("self", "Decoder, causal self-attention", causal, target),
        ("cross", "Decoder, cross-attention to the encoder's output", cross, source),
    ] {
        let (head, matrix) = (options.head, target.labels.len() * keys.labels.len());
        let heatmap = Heatmap {
            title: &format!("{title}, head {head}"),
            rows: target.axis(),
            columns: keys.axis(),
            weights: &weights[head * matrix..][..matrix],
        };
        let path = options.folder.join(format!("transformer_{name}_head{head}.svg"));
        heatmap.save(&path)?;
        writeln!(out, "{}\npicture   {}\n", heatmap.terminal(terminal), path.display())?;
    }
    Ok(())
}

/// What an axis of a picture stands for, and numbers from 1.
struct Positions {
    name: &'static str,
    labels: Vec<String>,
}

impl Positions {
    fn new(name: &'static str, len: usize) -> Self {
        Self { name, labels: (1..=len).map(|i| i.to_string()).collect() }
    }

    fn axis(&self) -> Axis<'_> {
        Axis { name: self.name, labels: &self.labels }
    }
}

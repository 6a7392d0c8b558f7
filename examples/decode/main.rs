//! Decoding as language models do it, with keys and values as bytes in pages next to keys and values in f32.
//!
//! ```text
//! cargo run --release --example decode -- [--steps STEPS] [--page-size TOKENS] [--help]
//! ```

mod accuracy;
mod cache;
mod decoder;
mod options;
mod paged;
mod plain;
mod pool;
#[path = "../transformer/random.rs"]
mod random;
mod report;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod tokens;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use decoder::{Decoder, Measured};
use options::Options;

/// Lines of the table.
const CHECKPOINTS: usize = 8;

fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("decode: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute() -> Result<(), Box<dyn Error>> {
    match Options::parse(std::env::args_os().skip(1))? {
        Some(options) => run(&options, &mut io::stdout().lock()),
        None => Ok(write!(io::stdout(), "{}", options::HELP)?),
    }
}

/// Generates, tells how it goes, and checks the errors.
fn run(options: &Options, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut decoder = Decoder::new(options, 0..options.sequences)?;
    report::begin(options, out)?;
    let (mut total, mut recent) = (Measured::default(), Measured::default());
    for step in 1..=options.steps {
        recent.add(&decoder.step()?);
        if step == options.steps || step % options.steps.div_ceil(CHECKPOINTS) == 0 {
            report::checkpoint(&decoder, &recent, out)?;
            total.add(&std::mem::take(&mut recent));
        }
    }
    report::end(&decoder, &total, out)?;
    total.accuracy.check(&decoder.magnitudes)?;
    end_all(&mut decoder, options.sequences, out)
}

/// Ends one sequence after the other.
fn end_all(decoder: &mut Decoder, sequences: usize, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let paged = &mut decoder.paged;
    let all = paged.pages_in_use();
    paged.end(0);
    let freed = all - paged.pages_in_use();
    writeln!(
        out,
        "in the end     pages that the first sequence leaves free: {freed}; the others still have what they share"
    )?;
    (1..sequences).for_each(|sequence| paged.end(sequence));
    match paged.pages_in_use() {
        0 => Ok(()),
        pages => Err(format!("{pages} pages are not free although no sequence is left").into()),
    }
}

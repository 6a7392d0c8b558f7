//! The command line.

use std::{error::Error, ffi::OsString, fmt::Display, path::PathBuf};

use lexopt::{
    Arg::{Long, Short},
    Parser, ValueExt,
};
use simd_attention::Backend;

use crate::model::{Layer, Model};

pub const HELP: &str = "\
Computes the attention of a real BERT with simd-attention, checks it and shows it.

Usage: cargo run --release --example minilm -- [OPTIONS]

Options:
  --layer LAYER      the layer to show [default: 3]
  --head HEAD        its head to show, counted from 0 [default: 1]
  --output FILE      where to write the SVG picture [default: target/minilm_layer3_head1.svg]
  --backend BACKEND  the instructions to compute with [default: the fastest that this CPU has]
  --help             this text
";

/// What to show, and how to compute it.
pub struct Options<'a> {
    pub layer: &'a Layer,
    pub head: usize,
    pub output: PathBuf,
    pub backend: Backend,
}

impl<'a> Options<'a> {
    /// `None` if help is asked for.
    pub fn parse(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        model: &'a Model,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        let (mut layer, mut head, mut backend) = ("3".to_owned(), "1".to_owned(), Backend::best().to_string());
        let mut output = None;
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("layer") => layer = parser.value()?.string()?,
                Long("head") => head = parser.value()?.string()?,
                Long("backend") => backend = parser.value()?.string()?,
                Long("output") => output = Some(PathBuf::from(parser.value()?)),
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        let index = choose("--layer", &layer, model.layers.iter().map(|layer| layer.index))?;
        let layer = model.layers.iter().find(|layer| layer.index == index).ok_or("no such layer")?;
        let head = choose("--head", &head, 0..layer.heads)?;
        Ok(Some(Self {
            layer,
            head,
            output: output.unwrap_or_else(|| default_output(index, head)),
            backend: choose("--backend", &backend, Backend::available())?,
        }))
    }
}

/// The choice that displays as `value`.
fn choose<T: Display>(option: &str, value: &str, choices: impl IntoIterator<Item = T>) -> Result<T, String> {
    let mut names = Vec::new();
    for choice in choices {
        let name = choice.to_string();
        if name == value {
            return Ok(choice);
        }
        names.push(name);
    }
    Err(format!("{option} {value:?}: must be one of {}", names.join(", ")))
}

fn default_output(layer: usize, head: usize) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "target", &format!("minilm_layer{layer}_head{head}.svg")].iter().collect()
}

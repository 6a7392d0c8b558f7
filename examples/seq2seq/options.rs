//! The command line.

use std::{error::Error, ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

pub const HELP: &str = "\
Translates dates as people write them to ISO dates with a trained encoder-decoder, whose additive attention simd-attention computes,
and shows which characters it looked at.

Usage: cargo run --release --example seq2seq -- [OPTIONS] [DATE]...

Without a date, measures the model on the 1000 dates of test.tsv and shows \"the 3rd of March 2021\".

Options:
  --output FILE  where to write the SVG picture; of several dates, each has its number before the extension
                 [default: target/seq2seq.svg]
  --help         this text
";

/// What to translate, and where to draw it.
pub struct Options {
    /// Empty if the model is to be measured.
    pub dates: Vec<String>,
    pub output: PathBuf,
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Option<Self>, Box<dyn Error>> {
        let (mut dates, mut output) = (Vec::new(), default_output());
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Value(date) => dates.push(date.string()?),
                Long("output") => output = PathBuf::from(parser.value()?),
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        Ok(Some(Self { dates, output }))
    }

    /// The file for the date at this place.
    pub fn output_of(&self, i: usize) -> PathBuf {
        if self.dates.len() < 2 {
            return self.output.clone();
        }
        let mut name = self.output.file_stem().unwrap_or_default().to_owned();
        name.push(format!("_{}", i + 1));
        if let Some(extension) = self.output.extension() {
            name.push(".");
            name.push(extension);
        }
        self.output.with_file_name(name)
    }
}

fn default_output() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "target", "seq2seq.svg"].iter().collect()
}

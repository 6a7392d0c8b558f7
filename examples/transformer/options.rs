//! The command line.

use std::{error::Error, ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short},
    Parser, ValueExt,
};

pub const HELP: &str = "\
Runs a Transformer's encoder layer and decoder layer with simd-attention, checks them and shows what attends to what.

Usage: cargo run --release --example transformer -- [OPTIONS]

Options:
  --head HEAD      the attention head to show, counted from 0 [default: 0]
  --folder FOLDER  where to write the SVG pictures [default: target]
  --help           this text
";

/// What to show.
pub struct Options {
    pub head: usize,
    pub folder: PathBuf,
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        heads: usize,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        let mut options = Self { head: 0, folder: [env!("CARGO_MANIFEST_DIR"), "target"].iter().collect() };
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("head") => options.head = parse_head(&parser.value()?.string()?, heads)?,
                Long("folder") => options.folder = parser.value()?.into(),
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        Ok(Some(options))
    }
}

fn parse_head(value: &str, heads: usize) -> Result<usize, String> {
    let head = value.parse().ok().filter(|&head| head < heads);
    head.ok_or_else(|| format!("--head {value:?}: must be a number below {heads}"))
}

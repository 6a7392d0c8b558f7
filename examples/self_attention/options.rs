//! The command line.

use std::{error::Error, ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short},
    Parser,
};

pub const HELP: &str = "\
Walks through self-attention step by step, on three inputs of four numbers.

Usage: cargo run --release --example self_attention -- [OPTIONS]

Options:
  --output FILE  where to write the SVG picture [default: target/self_attention.svg]
  --help         this text
";

pub struct Options {
    pub output: PathBuf,
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Option<Self>, Box<dyn Error>> {
        let mut output: PathBuf = [env!("CARGO_MANIFEST_DIR"), "target", "self_attention.svg"].iter().collect();
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("output") => output = parser.value()?.into(),
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}; --help lists the options", arg.unexpected()).into()),
            }
        }
        Ok(Some(Self { output }))
    }
}

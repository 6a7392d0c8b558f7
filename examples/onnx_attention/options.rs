//! The command line.

use std::{error::Error, ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use simd_attention::Backend;

pub const HELP: &str = "\
Computes cases of the ONNX operator Attention with simd-attention, and checks them where results are expected.

Usage: cargo run --release --example onnx_attention -- [IN OUT] [OPTIONS]

Arguments:
  IN   the cases, in safetensors [default: the bundled tests/data/onnx_attention.safetensors]
  OUT  where to write their results, in safetensors [default: nowhere]

Options:
  --backend BACKEND  the instructions to compute with [default: the fastest that this CPU has]
  --help             this text
";

/// Cases that the ONNX project has published.
pub const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/onnx_attention.safetensors");

/// What to compute, and how.
pub struct Options {
    pub input: PathBuf,
    pub output: Option<PathBuf>,
    pub backend: Backend,
}

impl Options {
    /// `None` if help is asked for.
    pub fn parse(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Option<Self>, Box<dyn Error>> {
        let (mut paths, mut backend) = (Vec::new(), Backend::best());
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Value(path) => paths.push(PathBuf::from(path)),
                Long("backend") => backend = find_backend(&parser.value()?.string()?)?,
                Long("help") | Short('h') => return Ok(None),
                _ => return Err(format!("{}\n\n{HELP}", arg.unexpected()).into()),
            }
        }
        let mut paths = paths.into_iter();
        let (input, output) = match (paths.next(), paths.next(), paths.next()) {
            (None, ..) => (BUNDLED.into(), None),
            (Some(input), Some(output), None) => (input, Some(output)),
            (Some(_), None, _) => return Err(format!("OUT is missing\n\n{HELP}").into()),
            (.., Some(path)) => return Err(format!("unexpected argument {path:?}\n\n{HELP}").into()),
        };
        Ok(Some(Self { input, output, backend }))
    }
}

fn find_backend(name: &str) -> Result<Backend, String> {
    Backend::available().find(|backend| backend.to_string() == name).ok_or_else(|| {
        let names: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
        format!("--backend {name:?}: must be one of {}", names.join(", "))
    })
}

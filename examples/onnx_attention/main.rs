//! Conformance cases of the ONNX operator `Attention` (opsets 23 to 25): computed, checked and written to a file.
//!
//! ```text
//! cargo run --release --example onnx_attention -- [IN.safetensors OUT.safetensors] [--backend BACKEND]
//! ```

mod case;
mod operator;
mod options;
mod report;
mod tensor;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use case::Cases;
use options::Options;
use report::{Report, Tally};
use simd_attention::Backend;
use tensor::Tensor;

fn main() -> ExitCode {
    match execute(std::env::args_os().skip(1), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onnx_attention: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the command line asks for.
fn execute(args: impl IntoIterator<Item = impl Into<OsString>>, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let Some(options) = Options::parse(args)? else { return Ok(write!(out, "{}", options::HELP)?) };
    let Options { input, output, backend } = options;
    let cases = with_path(&input, fs::read(&input).map_err(Into::into).and_then(|bytes| case::parse(&bytes)))?;
    let (results, tally) = run(cases, backend, out)?;
    if let Some(path) = output {
        with_path(&path, write_file(&path, &results))?;
    }
    writeln!(out, "{tally}")?;
    tally.check()
}

/// Names the file that an error is about.
fn with_path<T>(path: &Path, result: Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    result.map_err(|error| format!("{}: {error}", path.display()).into())
}

/// What the cases give, named `CASE/OUTPUT`.
type Results = BTreeMap<String, Tensor<f32>>;

/// Computes the cases, and tells in a line of each how it went. One that fails does not keep the others from being
/// computed.
fn run(cases: Cases, backend: Backend, out: &mut impl Write) -> io::Result<(Results, Tally)> {
    let (mut results, mut tally) = (Results::new(), Tally::default());
    let width = cases.keys().map(String::len).max().unwrap_or_default();
    for (name, case) in cases {
        let report = case.and_then(|case| {
            let outputs = operator::run(&case, backend)?;
            let report = Report::new(&case, &outputs);
            results.extend(outputs.into_iter().map(|(output, tensor)| (format!("{name}/{output}"), tensor)));
            report
        });
        match &report {
            Ok(report) => writeln!(out, "{name:width$}  {report}")?,
            Err(error) => writeln!(out, "{name:width$}  ERROR: {error}")?,
        }
        tally.count(&report);
    }
    Ok((results, tally))
}

fn write_file(path: &Path, results: &Results) -> Result<(), Box<dyn Error>> {
    Ok(fs::write(path, safetensors::serialize(results, None)?)?)
}

//! Speed as a percentage of what the machine can do, measured in the same process.
//!
//! ```text
//! cargo bench --bench roofline                               a table, in under two minutes
//! cargo bench --bench roofline -- prefill [--heads 8] [--kv-heads 8] [--q 2048] [--kv 2048] [--dim 64]
//!                                         [--causal] [--window 256] [--mask] [--bias] [--softcap 50] [--batch-invariant]
//!                                         [--dtype f32|f64|f16|bf16|int8] [--groups 1] [--page-size 16] [--capacity 8192]
//!                                         [--threads 1] [--backend avx512]                   one shape, one line
//! cargo bench --bench roofline -- decode [--heads 8] [--kv-heads 8] [--kv 4096] [--dim 128] ...          one query, as prefill --q 1
//! cargo bench --bench roofline -- linear [--rows 512] [--in 768] [--out 768] [--backend avx512]
//! cargo bench --bench roofline -- additive [--q 512] [--kv 512] [--hidden 128] [--backend avx512]
//! ```
//!
//! `--window L` lets a query see the `L` keys up to its own; `--mask` masks one pair of sixteen at random; `--bias` is one of each head.
//! `--dtype` is of queries, keys, values and output, int8 of keys and values alone, with `--groups` scales for each token and head.
//! `--page-size` keeps keys and values in scattered pages of as many tokens; `--capacity` gives them
//! room for more tokens than there are, which lengths of keys hide.
//!
//! `gflops` counts useful operations only, `4 * heads * attended pairs * dim`; `peak` is a loop of the same instruction set's
//! multiply-adds on registers, of pairs of `bf16` where those are what it computes with, timed in turn with the kernel. For one query,
//! `gbs` is what is read of keys and values, scales included, and `peak` a streaming read of as much memory. Results are checked against
//! the reference on sampled rows.

mod additive;
mod cache;
mod linear;
mod measure;
mod peak;
mod prefill;

use std::process::ExitCode;

use additive::Units;
use cache::{Dtype, Format};
use linear::Layer;
use prefill::Shape;
use simd_attention::Backend;

fn main() -> ExitCode {
    Backend::request_amx();
    // `cargo bench` adds `--bench`, `cargo test --benches` adds nothing of use here.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let done = match args.split_first() {
        None => table(),
        Some((command, options)) if command == "prefill" => {
            Shape::default().parse(options).and_then(|shape| shape.measure(1.0)).map(|line| println!("{line}"))
        }
        Some((command, options)) if command == "additive" => {
            Units::parse(options).and_then(|units| units.measure(1.0)).map(|line| println!("{line}"))
        }
        Some((command, options)) if command == "decode" => {
            decode(Dtype::F32, 8).parse(options).and_then(|shape| shape.measure(1.0)).map(|line| println!("{line}"))
        }
        Some((command, options)) if command == "linear" => {
            Layer::parse(options).and_then(|layer| layer.measure(1.0)).map(|line| println!("{line}"))
        }
        Some((command, _)) => {
            Err(format!("no measurement is called {command:?}; there are: prefill, decode, linear, additive"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("roofline: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Decoding, with eight heads of keys and values.
fn decode(dtype: Dtype, heads: usize) -> Shape {
    Shape { q: 1, kv: 4096, dim: 128, heads, format: Format { dtype, ..Format::default() }, ..Shape::default() }
}

/// The shapes of the README's table, on every backend that this CPU has.
fn table() -> Result<(), String> {
    let long = |dim, causal| Shape { dim, causal, ..Shape::default() };
    let shapes = [
        long(128, false),
        long(64, false),
        long(128, true),
        long(64, true),
        Shape { format: Format { dtype: Dtype::Bf16, ..Format::default() }, ..long(128, false) },
        Shape { q: 128, kv: 128, ..Shape::default() },
        Shape { q: 56, kv: 56, dim: 32, heads: 12, kv_heads: 12, ..Shape::default() },
        decode(Dtype::F32, 8),
        decode(Dtype::F16, 8),
        decode(Dtype::Int8, 32),
    ];
    println!(
        "{:>8} {:>5} {:>5} {:>8} {:>5} {:>5} {:>4} {:>6}  {:>7} {:>7} {:<7} {:>7}",
        "backend", "dtype", "heads", "kv_heads", "q", "kv", "dim", "causal", "rate", "peak", "unit", "percent"
    );
    for backend in Backend::available() {
        for shape in shapes {
            let line = Shape { backend, ..shape }.measure(1.0)?;
            println!(
                "{:>8} {:>5} {:>5} {:>8} {:>5} {:>5} {:>4} {:>6}  {:>7.1} {:>7.1} {:<7} {:>7.1}",
                backend.to_string(),
                shape.format.dtype,
                shape.heads,
                shape.kv_heads,
                shape.q,
                shape.kv,
                shape.dim,
                u8::from(shape.causal),
                line.rate(),
                line.peak,
                line.unit(),
                line.percent(),
            );
        }
    }
    Ok(())
}

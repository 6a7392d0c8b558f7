//! What the tests share: deterministic values, tensors in any layout, calls with all that they need, and the tolerance.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

mod bits;
mod cache;
mod case;
mod functions;
pub mod fuzz_input;
mod modifiers;
mod oracle;
mod pattern;
mod plan;
mod random;
mod rules;
mod tensor;

pub use bits::{GARBAGE, assert_same, assert_same_row, nans, same};
pub use cache::{Cache, Kind};
pub use case::{Answer, Case, MARKER, additive, run};
pub use functions::{Function, FunctionKind};
pub use modifiers::{BiasPlan, Modifiers};
pub use oracle::{Oracle, U, check};
pub use pattern::{Band, Elements, Grid, GridPlan, Lens, Pattern, Sequence};
pub use plan::Plan;
pub use random::{Content, Random};
pub use rules::{MaskKind, MaskRule, ScoreKind, ScoreRule};
pub use tensor::{Extent, Layout, Row, Tensor};

use simd_attention::Backend;

/// All that this machine can run, those too that must be asked for.
pub fn backends() -> impl DoubleEndedIterator<Item = Backend> {
    Backend::request_amx();
    Backend::available()
}

/// Whether a backend differs from [`Backend::Avx512`] where there are pairs of `bf16`, and only there.
pub fn has_bf16_pairs(backend: Backend) -> bool {
    backend >= Backend::Avx512Bf16
}

/// Whether a backend multiplies pairs of integers.
pub fn has_i8_pairs(backend: Backend) -> bool {
    backend >= Backend::Avx2
}

/// Says which backends a test binary runs on: what a machine cannot run is not tested there.
pub fn report_backends() {
    let ran: Vec<String> = backends().map(|backend| backend.to_string()).collect();
    println!("backends tested on this machine: {}", ran.join(", "));
    assert_eq!(Backend::available().next(), Some(Backend::Portable));
}

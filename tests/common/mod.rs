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

/// Says which backends a test binary runs on: what a machine cannot run is not tested there.
pub fn report_backends() {
    let ran: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
    println!("backends tested on this machine: {}", ran.join(", "));
    assert_eq!(Backend::available().next(), Some(Backend::Portable));
}

//! What the tests share: deterministic values, tensors in any layout, calls with all that they need, and the tolerance.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]

mod case;
pub mod fuzz_input;
mod oracle;
mod random;
mod tensor;

pub use case::{Answer, Case, MARKER, Mask, Plan};
pub use oracle::{Oracle, U, check};
pub use random::{Content, Random};
pub use tensor::{Layout, Row, Tensor};

use simd_attention::Backend;

/// Says which backends a test binary runs on: what a machine cannot run is not tested there.
pub fn report_backends() {
    let ran: Vec<String> = Backend::available().map(|backend| backend.to_string()).collect();
    println!("backends tested on this machine: {}", ran.join(", "));
    assert_eq!(Backend::available().next(), Some(Backend::Portable));
}

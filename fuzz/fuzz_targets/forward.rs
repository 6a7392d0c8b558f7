//! Any bytes, read as a call. `cargo +nightly fuzz run forward` from the crate's root; what it finds is replayed by
//! `tests/suite/corpus.rs`.

#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common::fuzz_input::check(bytes);
});

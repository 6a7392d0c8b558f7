//! All tests of whole calls, in one binary: what they share, above all the kernels with closures in them, is compiled once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod append;
mod cache;
#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod decode;
mod dispatch;
mod double;
mod edges;
mod errors;
mod linear;
mod merge;
mod minilm;
mod multi_head;
mod no_alloc;
mod pairs;
mod promises;
mod proptests;
mod ranges;
mod reference;
mod types;

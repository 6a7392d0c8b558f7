//! The part of the main package's tests that needs no dependencies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../suite/cache.rs"]
mod cache;
#[path = "../../common/mod.rs"]
mod common;
#[path = "../../suite/decode.rs"]
mod decode;
#[path = "../../suite/dispatch.rs"]
mod dispatch;
#[path = "../../suite/edges.rs"]
mod edges;

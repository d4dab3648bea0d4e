//! What both pullers promise: order, bound, one result a request, and an orderly end.
#![allow(clippy::unwrap_used)]

mod answers;
mod bench;
#[path = "../common/mod.rs"]
mod common;
mod contexts;
mod panics;
mod room;
mod shutdown;
mod traits;

use bench::{Bench, assert_silent, both, kind, next};

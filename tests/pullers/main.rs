//! The promises of both pullers: order, bound, one result for each request, and shutdown.
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

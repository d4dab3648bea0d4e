//! The tests of the pullers, over the image service of a CRI runtime.
#![allow(clippy::unwrap_used)]

#[path = "../pullers/answers.rs"]
mod answers;
#[path = "../pullers/bench.rs"]
mod bench;
#[path = "../common/mod.rs"]
mod common;
#[path = "../pullers/contexts.rs"]
mod contexts;
#[path = "../pullers/panics.rs"]
mod panics;
#[path = "../pullers/room.rs"]
mod room;
#[path = "../pullers/shutdown.rs"]
mod shutdown;

use bench::{Bench, assert_silent, both, kind, next};

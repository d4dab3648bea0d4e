//! What several test files share; none of them uses all of it.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs, missing_debug_implementations)]

use std::time::Duration;

pub mod clock;
pub mod node;
pub mod pulls;
pub mod service;
pub mod threads;

/// Long enough for anything that should happen, also on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(20);

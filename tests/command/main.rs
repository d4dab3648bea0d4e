//! The command, as its users see it: what it prints where, and how it exits.

// Its helpers are tests, too.
#![allow(clippy::unwrap_used)]

mod archives;
mod bench;
mod choice;
mod credentials;
mod demo;
mod failures;
mod few_files;
mod interrupt;
mod memory;
mod mistakes;
mod platforms;
mod pulling;
mod remote;
mod resume;
mod schema;
mod signatures;
mod store;
#[path = "../common/tls.rs"]
mod tls;
#[cfg(feature = "unpack")]
mod unpack;
mod usage;

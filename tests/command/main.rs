//! The command, as its users see it: what it prints where, and how it exits.

mod archives;
mod bench;
mod credentials;
mod demo;
mod failures;
mod interrupt;
mod pulling;
mod store;
#[path = "../common/tls.rs"]
mod tls;
mod usage;

//! The command with other programs: at a terminal, in shells, with `man`, and with tools that read its archives. What a
//! machine lacks shows as ignored, unless `OCI_PULLER_REQUIRE_REAL` is set: then it fails.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod archives;
mod bars;
#[path = "../command/bench.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod bench;
#[cfg(feature = "unpack")]
mod containers;
#[path = "../common/real.rs"]
mod real;
mod shells;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};

/// Long enough for each step of a test, also on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A test, the programs it needs, and its function.
pub type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let mut trials: Vec<Trial> = [archives::TESTS, shells::TESTS]
        .concat()
        .into_iter()
        .map(|(name, needs, run)| real::trial(name, needs, run))
        .collect();
    #[cfg(feature = "unpack")]
    trials.push(containers::trial());
    let has_terminals = terminal::Terminal::open(80, 24).is_ok();
    trials.extend(bars::TESTS.iter().map(|(name, _, run)| {
        let must_run = has_terminals || std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some();
        Trial::test(*name, move || {
            run();
            Ok(())
        })
        .with_ignored_flag(!must_run)
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

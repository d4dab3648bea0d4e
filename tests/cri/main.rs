//! The image service of a CRI runtime, with containerd, with servers in Python, and with peers that break the protocol.
//! Where containerd is missing, the tests that need it show as ignored; with `OCI_PULLER_REQUIRE_REAL` set they fail.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod calls;
mod containerd;
mod faults;
#[path = "../common/cri_peer.rs"]
mod peer;
mod python;
#[path = "../common/real.rs"]
mod real;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Arguments;
use oci_puller::cri::CriImageService;

/// Longer than any step of a test takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A test, the programs it needs, and its function.
pub type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let tests = [calls::TESTS, faults::TESTS, containerd::TESTS];
    let trials = tests.concat().into_iter().map(|(name, needs, run)| real::trial(name, needs, run));
    libtest_mimic::run(&Arguments::from_args(), trials.chain(python::trials()).collect()).exit_code()
}

/// Returns a service for the socket at `path`.
pub fn service(path: &std::path::Path) -> CriImageService {
    CriImageService::builder(path.to_str().unwrap()).build().unwrap()
}

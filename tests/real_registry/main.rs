//! With what others made: CNCF's registry, skopeo, umoci, nginx and openssl. Where a program is missing, the
//! tests that need it show as ignored; with `OCI_PULLER_REQUIRE_REAL` set they fail.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../common/real.rs"]
mod real;
#[path = "../common/tls.rs"]
mod tls;

mod access;
mod cache;
mod certificates;
mod images;
mod proxy;
mod pulls;
mod refusals;
#[cfg(feature = "signatures")]
mod signatures;
mod squid;
mod stores;
mod tokens;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::Arguments;
use oci_puller::RegistryImageService;
use oci_puller::registry::RegistryImageServiceBuilder;
use tempfile::TempDir;

/// Long enough for anything that should happen, also on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(20);

/// A test, the programs it needs, and what it does.
pub type Test = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let tests = [
        pulls::TESTS,
        stores::TESTS,
        access::TESTS,
        tokens::TESTS,
        cache::TESTS,
        certificates::TESTS,
        proxy::TESTS,
        squid::TESTS,
        refusals::TESTS,
        #[cfg(feature = "signatures")]
        signatures::TESTS,
    ];
    let trials = tests.concat().into_iter().map(|(name, needs, run)| real::trial(name, needs, run)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Returns a service with a new store, without this machine's settings.
pub fn service() -> (TempDir, RegistryImageService) {
    service_with(|builder| builder)
}

pub fn service_with(
    change: impl FnOnce(RegistryImageServiceBuilder) -> RegistryImageServiceBuilder,
) -> (TempDir, RegistryImageService) {
    let folder = tempfile::tempdir().unwrap();
    let builder = RegistryImageService::builder(folder.path().join("store")).no_proxy();
    (folder, change(builder).build().unwrap())
}

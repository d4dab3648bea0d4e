//! No `hosts.toml` panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| oci_puller::fuzzing::hosts_toml(text));

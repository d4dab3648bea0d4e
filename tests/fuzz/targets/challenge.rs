//! No `WWW-Authenticate` header panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| oci_puller::fuzzing::challenge(header));

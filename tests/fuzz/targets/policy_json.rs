//! No policy panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| oci_puller::fuzzing::policy_json(bytes));

//! No message or status of a container runtime panics, and no control character of one is in an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| oci_puller::fuzzing::cri_messages(bytes));

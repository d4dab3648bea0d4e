//! No answer of a container runtime panics: frames, header blocks, messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| oci_puller::fuzzing::cri_exchange(bytes));

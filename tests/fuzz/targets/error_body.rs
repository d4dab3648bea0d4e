//! No body of an error response panics, and what is quoted of it has no control characters.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| oci_puller::fuzzing::error_body(body));

//! No `NO_PROXY` panics, whatever host is looked up in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, u16)| oci_puller::fuzzing::no_proxy(input.0, input.1, input.2));

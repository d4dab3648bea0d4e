//! No key panics, in PEM or in DER, and none verifies text that is no signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| oci_puller::fuzzing::spki(bytes));

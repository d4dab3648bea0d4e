//! A reference that is taken prints as one that is taken, and is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_puller::image::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let printed = reference.to_string();
    let again = Reference::parse(&printed).expect("what was printed is read");
    assert_eq!(printed, again.to_string());
    assert_eq!((reference.name(), reference.tag(), reference.digest()), (again.name(), again.tag(), again.digest()));
});

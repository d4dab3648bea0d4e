//! No archive panics, leaves something behind when it is refused, or brings what `rm` does not take away.
#![no_main]

#[path = "made.rs"]
mod made;

use libfuzzer_sys::fuzz_target;
use oci_puller::PullContext;

// The first byte says what the rest is: an archive as it is, or files of an archive with an image,
// `PATH NUL CONTENT` and 0xff between them, so that headers and digests are right.
fuzz_target!(|bytes: &[u8]| {
    let Some((form, rest)) = bytes.split_first() else { return };
    let archive = match form % 2 {
        0 => rest.to_vec(),
        _ => made::archive(rest),
    };
    let (cx, store) = (PullContext::new(), made::store());
    match store.import(&cx, &archive[..]) {
        Ok(names) => {
            assert!(store.verify(&cx).unwrap().is_sound());
            assert!(!store.images().unwrap().is_empty());
            for name in names {
                assert!(!store.remove(&cx, &name).unwrap().names.is_empty(), "{name:?}");
            }
        }
        Err(_) => assert!(store.images().unwrap().is_empty()),
    }
    assert_eq!(made::blobs(store), 0);
});

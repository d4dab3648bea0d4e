//! No `index.json` of another tool panics, gives an image a name that is not true, or is written back with
//! an entry more or less.
#![no_main]

#[path = "made.rs"]
mod made;

use std::fs;

use libfuzzer_sys::fuzz_target;
use oci_puller::{PullContext, Store};
use oci_puller::image::Digest;
use oci_puller::store::ImportOptions;

fuzz_target!(|bytes: &[u8]| {
    let dir = made::folder("layout");
    made::write_layout(&dir, bytes);
    let cx = PullContext::new();
    let Ok(store) = Store::open(&dir) else { return };
    let _ = store.verify(&cx);
    let Ok(images) = store.images() else { return };
    for image in &images {
        for name in &image.names {
            let found = store.find(name).unwrap().unwrap();
            let pinned = name.split_once('@').and_then(|(_, digest)| Digest::parse(digest).ok());
            assert!(pinned.is_none_or(|digest| store.document(&digest).is_ok_and(|it| digest.matches(&it))));
            let _ = store.export(&cx, name, std::io::sink()).map(|()| assert_eq!(found.id, image.id));
        }
        let by_digest = store.find(image.manifest.digest.as_str()).unwrap().unwrap();
        assert_eq!(by_digest.id, image.id);
    }
    let target = made::store();
    if let Ok(imported) = target.import_layout_with(&cx, &dir, &ImportOptions::new()) {
        assert!(target.verify(&cx).unwrap().is_sound());
        for name in imported.names {
            target.remove(&cx, &name).unwrap();
        }
    }
    assert_eq!(made::blobs(target), 0);
    for image in &images {
        store.remove(&cx, image.manifest.digest.as_str()).unwrap();
    }
    assert!(store.images().unwrap().is_empty());
    fs::remove_dir_all(&dir).unwrap();
});

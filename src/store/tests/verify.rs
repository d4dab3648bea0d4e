//! What `verify` reports, and until when.

use serde_json::json;

use super::*;
use crate::store::{VerifyReport, layout};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn verified(store: &Store) -> VerifyReport {
    store.verify(&PullContext::new()).unwrap()
}

fn path(store: &Store, digest: &Digest) -> std::path::PathBuf {
    store.dir().join(layout::blob_path(digest))
}

fn write(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    std::fs::write(path(store, &digest), bytes).unwrap();
    digest
}

/// Two images below an index below another index, as another tool lists them, or as an import of these
/// manifests lists them.
fn nested(store: &Store, taken: Option<&str>) -> (TestImage, TestImage, Digest) {
    let [one, two] = ["one", "two"].map(|mark| TestImage::new(mark, mark, &[mark.as_bytes()]));
    for (_, bytes) in one.blobs().chain(two.blobs()) {
        write(store, bytes);
    }
    let describe = |media_type: &str, digest: &Digest, size: u64| json!({ "mediaType": media_type, "digest": digest.as_str(), "size": size });
    let listed = |image: &TestImage| {
        describe(media_type::OCI_MANIFEST, &image.manifest.0.digest, image.manifest.0.size)
    };
    let index = |manifests: Vec<serde_json::Value>| {
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests }).to_string()
    };
    let inner_text = index(vec![listed(&two)]);
    let inner = write(store, inner_text.as_bytes());
    let outer_text =
        index(vec![listed(&one), describe(media_type::OCI_INDEX, &inner, inner_text.len() as u64)]);
    let outer = write(store, outer_text.as_bytes());
    let mut entry = describe(media_type::OCI_INDEX, &outer, outer_text.len() as u64);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "both" });
    if let Some(taken) = taken {
        let taken = if taken == "one" { &one } else { &two };
        entry["annotations"]["io.oci-puller.image.taken"] = json!(taken.manifest.0.digest.as_str());
    }
    let text = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    std::fs::write(store.dir().join("index.json"), text).unwrap();
    (one, two, inner)
}

#[test]
fn what_is_missing_below_an_index_is_reported_until_it_is_there_again() {
    let (_dir, store) = store();
    let (one, two, inner) = nested(&store, None);
    assert!(verified(&store).is_sound());
    let of =
        |image: &TestImage, blob: &(Descriptor, Vec<u8>)| (image.manifest.0.digest.clone(), blob.clone());
    let inner_bytes = std::fs::read(path(&store, &inner)).unwrap();
    let inner_blob = (Descriptor::new("", inner.clone(), inner_bytes.len() as u64), inner_bytes);
    let cases = [
        of(&one, &one.layers[0]),
        of(&two, &two.layers[0]),
        of(&two, &two.config),
        of(&two, &two.manifest),
        (inner, inner_blob),
    ];
    for (lacks_it, (blob, bytes)) in cases {
        let path = path(&store, &blob.digest);
        for damage in [None, Some(&b"wrong"[..])] {
            std::fs::remove_file(&path).unwrap();
            if let Some(wrong) = damage {
                std::fs::write(&path, wrong).unwrap();
                assert_eq!(verified(&store).damaged, vec![blob.digest.clone()]);
            }
            for _ in 0..2 {
                let report = verified(&store);
                assert_eq!(report.incomplete, [(lacks_it.clone(), vec![blob.digest.clone()])], "{damage:?}");
                assert!(!report.is_sound() && report.left_out == 0);
            }
            std::fs::write(&path, &bytes).unwrap();
            assert!(verified(&store).is_sound());
        }
    }
}

#[test]
fn manifests_that_an_import_left_out_are_counted_and_those_that_it_took_are_not() {
    for (taken, lost, left_out, is_sound) in [
        (Some("one"), "two", 1, true),
        (Some("one"), "one", 1, false),
        (Some("two"), "one", 1, true),
        (Some("two"), "two", 1, false),
        (None, "two", 0, false),
    ] {
        let (_dir, store) = store();
        let (one, two, _) = nested(&store, taken);
        let lost = if lost == "one" { one } else { two };
        for (blob, _) in [&lost.manifest, &lost.layers[0], &lost.config] {
            std::fs::remove_file(path(&store, &blob.digest)).unwrap();
        }
        let report = verified(&store);
        assert_eq!((report.left_out, report.is_sound()), (left_out, is_sound), "{taken:?}: {report:?}");
    }
}

#[test]
fn links_to_the_right_bytes_are_left_in_place_and_reported() {
    let (dir, store) = store();
    let image = TestImage::new("a", "a", &[b"layer"]);
    image.pull_into(&store).unwrap();
    let (layer, config) = (&image.layers[0], &image.config);
    let link = |blob: &(Descriptor, Vec<u8>), bytes: &[u8]| {
        let target = dir.path().join(blob.0.digest.hex());
        std::fs::write(&target, bytes).unwrap();
        std::fs::remove_file(path(&store, &blob.0.digest)).unwrap();
        std::os::unix::fs::symlink(target, path(&store, &blob.0.digest)).unwrap();
    };
    link(layer, b"layer");
    let report = verified(&store);
    assert!(report.is_sound());
    assert_eq!((report.links, report.sound), (vec![layer.0.digest.clone()], 3));
    assert!(path(&store, &layer.0.digest).is_symlink());
    link(config, b"other bytes");
    let report = verified(&store);
    assert_eq!(report.damaged, vec![config.0.digest.clone()]);
    assert_eq!(report.incomplete, [(image.manifest.0.digest.clone(), vec![config.0.digest.clone()])]);
    assert!(!verified(&store).is_sound());
}

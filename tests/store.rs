//! The store as its users see it: opening, names, the index, archives.

#![allow(clippy::unwrap_used)]

mod archives;

use std::fs;
use std::io::Read;
use std::path::Path;

use archives::image;
use oci_puller::store::Durability;
use oci_puller::{ErrorKind, PullContext, Store};

fn import(store: &Store, image: &archives::Image) {
    store.import(&PullContext::new(), &image.archive[..]).unwrap();
}

/// Every path beneath `dir`, with the content of what is a file.
fn tree(dir: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push((path.display().to_string(), fs::read(&path).ok()));
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_that_is_no_store_is_refused_and_not_touched() {
    const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
    type Files = &'static [(&'static str, &'static [u8])];
    let cases: &[(&str, Files)] = &[
        ("not empty", &[("notes.txt", b"mine")]),
        ("an index alone", &[("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)]),
        ("unknown version", &[("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#)]),
        ("no version", &[("oci-layout", b"{}")]),
        ("broken marker", &[("oci-layout", b"")]),
        ("empty index", &[("oci-layout", LAYOUT), ("index.json", b"")]),
        (
            "broken index",
            &[("oci-layout", LAYOUT), ("index.json", br#"{"schemaVersion":2,"manifests":[{]}"#)],
        ),
        ("index of another kind", &[("oci-layout", LAYOUT), ("index.json", br#"{"schemaVersion":1}"#)]),
        ("no list", &[("oci-layout", LAYOUT), ("index.json", br#"{"schemaVersion":2,"manifests":{}}"#)]),
    ];
    for (told, files) in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in *files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let before = tree(dir.path());
        let error = Store::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{told}: {error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{told}: {error}");
        assert_eq!(tree(dir.path()), before, "{told}");
    }
}

#[test]
fn a_file_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "text").unwrap();
    for path in [path.clone(), path.join("below")] {
        assert_eq!(Store::open(path).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    assert_eq!(fs::read(path).unwrap(), b"text");
}

#[test]
fn a_store_is_made_where_there_is_none_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("a/b/c")] {
        let store = Store::open(&path).unwrap();
        assert_eq!(fs::read(path.join("oci-layout")).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
        import(&store, &image("a", &[b"layer"]));
        assert_eq!(Store::open(&path).unwrap().images().unwrap().len(), 1);
    }
}

#[test]
fn what_others_wrote_into_the_index_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let foreign = r#"{ "mediaType":"application/x-other", "digest":"md5:1",  "size": 1, "odd": [1, 2.50] }"#;
    let unnamed = r#"{"digest":"sha256:abc","annotations":null}"#;
    let text = format!(
        r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"x-kept":{{"b":1,"a":2}},"manifests":[{foreign},{unnamed}],"annotations":{{"k":"v"}}}}"#
    );
    fs::write(dir.path().join("index.json"), text).unwrap();
    import(&store, &image("a", &[b"layer"]));
    store.remove(&PullContext::new(), "a").unwrap();
    import(&store, &image("a", &[b"layer"]));
    let text = fs::read_to_string(dir.path().join("index.json")).unwrap();
    for kept in [foreign, unnamed, r#""x-kept":{"b":1,"a":2}"#, r#""annotations":{"k":"v"}"#] {
        assert!(text.contains(kept), "{kept} is not in {text}");
    }
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn a_name_that_moves_leaves_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for layer in [b"old", b"new", b"new"] {
        import(&store, &image("docker.io/library/a:latest", &[layer]));
    }
    let text = fs::read_to_string(dir.path().join("index.json")).unwrap();
    assert_eq!(text.matches("ref.name").count(), 1, "{text}");
}

#[test]
fn blobs_are_read_back_and_cannot_be_written_to() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::builder(dir.path()).durability(Durability::Relaxed).build().unwrap();
    let image = image("a", &[b"the layer"]);
    import(&store, &image);
    let mut content = String::new();
    store.open_blob(&image.layers[0].0).unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "the layer");
    let path = dir.path().join("blobs/sha256").join(image.layers[0].0.hex());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o444);
    let info = store.fs_info().unwrap();
    assert_eq!(info.inodes_used, 3);
    assert!(info.used_bytes > 0 && info.capacity_bytes > info.available_bytes);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for share in [-0.1, 1.1, f64::NAN] {
        let opened = Store::builder(dir.path()).partials_share(share).build();
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}

#[test]
fn what_broken_downloads_left_is_swept_by_age_and_by_share() {
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let partials = dir.path().join(".oci-puller/partial");
    let leave = |name: &str, hours: u64| {
        let path = partials.join(name);
        fs::write(&path, [7; 10_000]).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
        file
    };
    let left = || {
        let mut names: Vec<_> =
            fs::read_dir(&partials).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    leave("sha256-old", 25);
    leave("sha256-young", 23);
    let locked = leave("sha256-locked", 30);
    locked.lock().unwrap();
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(left(), ["sha256-locked", "sha256-young"]);
    drop(Store::builder(dir.path()).partials_share(0.0).build().unwrap());
    assert_eq!(left(), ["sha256-locked"]);
}

#[test]
fn an_image_has_its_documents_and_the_files_of_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let image = image("app", &[b"one", b"two", b"one"]);
    import(&store, &image);
    let stored = store.images().unwrap().remove(0);
    for key in [stored.id.as_str(), stored.manifest.digest.as_str(), stored.names[0].as_str()] {
        let files = store.image(key).unwrap();
        assert_eq!(files.image.id, stored.id);
        assert_eq!(files.manifest.config.digest, stored.id);
        assert!(files.config.is_some());
        assert_eq!(files.layers().len(), files.manifest.layers.len());
        for layer in files.layers() {
            let mut bytes = Vec::new();
            layer.open().unwrap().read_to_end(&mut bytes).unwrap();
            assert!(layer.descriptor.digest.matches(&bytes));
        }
    }
    assert_eq!(store.image("absent:latest").unwrap_err().kind(), ErrorKind::NotFound);

    let layer = store.image(stored.id.as_str()).unwrap().layers()[0].clone();
    fs::remove_file(&layer.path).unwrap();
    assert_eq!(layer.open().unwrap_err().kind(), ErrorKind::NotFound);
    fs::create_dir(&layer.path).unwrap();
    assert_eq!(layer.open().unwrap_err().kind(), ErrorKind::Store);
}

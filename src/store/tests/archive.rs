//! Archives, out and in.

use std::io::Write;

use super::*;
use crate::store::{PrunePolicy, layout, tar};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn image() -> TestImage {
    TestImage::new("docker.io/library/a:1", "a", &[b"first layer", b"second layer"])
}

fn exported(image: &TestImage) -> Vec<u8> {
    let (_dir, store) = store();
    image.pull_into(&store).unwrap();
    let mut archive = Vec::new();
    store.export(&PullContext::new(), &image.name, &mut archive).unwrap();
    archive
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = tar::Writer::new(Vec::new());
    for (path, content) in files {
        writer.file(path, content.len() as u64, *content).unwrap();
    }
    writer.finish().unwrap()
}

/// All files of the store but those of this crate's own that are there in an empty one.
fn files(store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["blobs/sha256", layout::PARTIALS, layout::DAMAGED] {
        for entry in std::fs::read_dir(store.dir().join(folder)).unwrap() {
            found.push(format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    found
}

#[test]
fn an_export_reads_back_as_the_same_image_and_the_same_bytes() {
    let image = image();
    let first = exported(&image);
    assert_eq!(first, exported(&image));
    let (_dir, store) = store();
    assert_eq!(store.import(&PullContext::new(), &first[..]).unwrap(), [&*image.name]);
    let found = store.find(&image.name).unwrap().unwrap();
    assert_eq!(
        (found.id, found.manifest.digest),
        (image.config.0.digest.clone(), image.manifest.0.digest.clone())
    );
    assert!(store.verify(&PullContext::new()).unwrap().is_sound());
    let mut again = Vec::new();
    store.export(&PullContext::new(), &image.name, &mut again).unwrap();
    assert_eq!(first, again);
}

#[test]
fn a_layout_s_images_are_taken_in() {
    let (_dir, from) = store();
    image().pull_into(&from).unwrap();
    let (_dir, store) = self::store();
    assert_eq!(store.import_layout(&PullContext::new(), from.dir()).unwrap(), [image().name]);
    assert!(store.verify(&PullContext::new()).unwrap().is_sound());
    assert_eq!(kind(store.import_layout(&PullContext::new(), "/etc")), ErrorKind::InvalidConfig);
}

#[test]
fn a_docker_archive_keeps_its_layers_and_its_id() {
    let image = image();
    let [(first, first_bytes), (_, second_bytes)] = &image.layers[..] else { panic!("two layers") };
    let config_path = format!("{}.json", image.config.0.digest.hex());
    let manifest = serde_json::json!([{
        "Config": config_path, "RepoTags": ["a:1"], "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    let bytes = archive(&[
        ("one/layer.tar", first_bytes),
        ("one/VERSION", b"1.0"),
        ("two/layer.tar", second_bytes),
        (&config_path, &image.config.1),
        ("manifest.json", manifest.to_string().as_bytes()),
    ]);
    let (_dir, store) = store();
    assert_eq!(store.import(&PullContext::new(), &bytes[..]).unwrap(), ["docker.io/library/a:1"]);
    let found = store.find("docker.io/library/a:1").unwrap().unwrap();
    assert_eq!(found.id, image.config.0.digest);
    assert_eq!(store.manifest(&found.manifest.digest).unwrap().layers[0].digest, first.digest);
    assert_eq!(files(&store).len(), 4, "what no image uses is gone");
}

#[test]
fn what_is_wrong_with_an_archive_leaves_nothing_behind() {
    let image = image();
    let marker: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": image.manifest.0.media_type, "digest": image.manifest.0.digest.as_str(), "size": image.manifest.0.size,
    }]}).to_string();
    let index: (&str, &[u8]) = ("index.json", index.as_bytes());
    let paths: Vec<_> = image.blobs().map(|(blob, _)| layout::blob_path(&blob.digest)).collect();
    let blobs: Vec<(&str, &[u8])> =
        paths.iter().map(String::as_str).zip(image.blobs().map(|(_, bytes)| &bytes[..])).collect();
    let with = |more: &[(&'static str, &'static [u8])]| [&[marker, index], &blobs[..], more].concat();
    let whole = archive(&with(&[]));
    let wrong: Vec<(&str, &[u8])> = [&[marker, index, (blobs[0].0, b"FIRST layer")], &blobs[1..]].concat();
    let cases = [
        ("no tar", b"no tar at all".to_vec(), ErrorKind::InvalidManifest),
        ("empty", archive(&[]), ErrorKind::InvalidManifest),
        ("cut", whole[..whole.len() - 2000].to_vec(), ErrorKind::InvalidManifest),
        ("wrong hash", archive(&wrong), ErrorKind::DigestMismatch),
        ("missing layer", archive(&[&[marker, index], &blobs[1..]].concat()), ErrorKind::NotFound),
        ("missing manifest", archive(&[&[marker, index], &blobs[..2]].concat()), ErrorKind::NotFound),
        ("no marker", archive(&[&[index], &blobs[..]].concat()), ErrorKind::InvalidManifest),
        ("absolute", archive(&with(&[("/etc/passwd", b"x")])), ErrorKind::InvalidManifest),
        ("leads out", archive(&with(&[("../x", b"x")])), ErrorKind::InvalidManifest),
        ("twice", archive(&with(&[("index.json", b"{}")])), ErrorKind::InvalidManifest),
        ("file twice", archive(&with(&[("x", b"x"), ("./x", b"x")])), ErrorKind::InvalidManifest),
        (
            "docker, nothing there",
            archive(&[("manifest.json", br#"[{"Config":"c.json","Layers":[]}]"#)]),
            ErrorKind::NotFound,
        ),
    ];
    for (told, bytes, expected) in cases {
        let (_dir, store) = store();
        let before = std::fs::read(store.dir().join("index.json")).unwrap();
        assert_eq!(kind(store.import(&PullContext::new(), &bytes[..])), expected, "{told}");
        assert_eq!(files(&store), Vec::<String>::new(), "{told}");
        assert_eq!(std::fs::read(store.dir().join("index.json")).unwrap(), before, "{told}");
    }
}

#[test]
fn an_entry_that_claims_more_than_the_disk_has_is_refused_before_it_is_read() {
    let (_dir, store) = store();
    let claim = 1u64 << 60;
    let mut header = archive(&[("blob", b"")])[..512].to_vec();
    let mut size = [0u8; 12];
    size[0] = 0x80;
    size[4..].copy_from_slice(&claim.to_be_bytes());
    header[124..136].copy_from_slice(&size);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    write!(&mut header[148..156], "{sum:06o}\0 ").unwrap();
    assert_eq!(kind(store.import(&PullContext::new(), &header[..])), ErrorKind::DiskFull);
    assert_eq!(files(&store), Vec::<String>::new());
}

#[test]
fn a_damaged_blob_is_not_exported() {
    let image = image();
    let (_dir, store) = store();
    image.pull_into(&store).unwrap();
    let path = store.dir().join(layout::blob_path(&image.layers[0].0.digest));
    std::fs::remove_file(&path).unwrap();
    for (damage, expected) in [("FIRST LAYER", ErrorKind::DigestMismatch), ("short", ErrorKind::SizeMismatch)]
    {
        std::fs::write(&path, damage).unwrap();
        assert_eq!(kind(store.export(&PullContext::new(), &image.name, std::io::sink())), expected);
    }
    assert_eq!(kind(store.export(&PullContext::new(), "absent", std::io::sink())), ErrorKind::NotFound);
}

#[test]
fn an_image_without_a_name_is_found_by_what_the_import_answers() {
    let image = image();
    let (_dir, store) = store();
    let cx = PullContext::new();
    let manifest =
        format!(r#"[{{"Config":"{}.json","Layers":["1.tar","2.tar"]}}]"#, image.config.0.digest.hex());
    let bytes = archive(&[
        ("1.tar", &image.layers[0].1),
        ("2.tar", &image.layers[1].1),
        (&format!("{}.json", image.config.0.digest.hex()), &image.config.1),
        ("manifest.json", manifest.as_bytes()),
    ]);
    let keys = store.import(&cx, &bytes[..]).unwrap();
    assert_eq!(store.import(&cx, &bytes[..]).unwrap(), keys);
    assert_eq!(store.find(&keys[0]).unwrap().unwrap().id, image.config.0.digest);
    assert_eq!(store.remove(&cx, &keys[0]).unwrap().blobs, 4);
    assert_eq!(store.prune(&cx, &PrunePolicy::default().thresholds(100, 100)).unwrap().blobs, 0);
}

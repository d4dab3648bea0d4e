//! A name with a digest is a promise, which no archive and no other tool's store can break.

use std::fs;

use oci_puller::image::{Digest, Reference};
use oci_puller::store::ImportOptions;
use oci_puller::{ErrorKind, ImageService, ImageSpec, PullContext};
use oci_puller::{RegistryImageService, Store};
use serde_json::json;

use crate::made::{Machine, Made};

fn options() -> ImportOptions {
    ImportOptions::new()
}

#[test]
fn an_archive_cannot_name_a_blob_by_another_digest() {
    let other = Digest::sha256(b"what the name promises");
    let upper = other.as_str().to_uppercase();
    for name in [
        format!("app@{other}"),
        format!("docker.io/library/app@{other}"),
        format!("docker.io/library/app:1@{other}"),
        format!("app@{other} "),
        other.to_string(),
        other.hex().to_owned(),
        upper,
        String::new(),
        "a\u{1b}[2Jb".to_owned(),
        "a\u{202e}b".to_owned(),
        "a".repeat(256),
    ] {
        let mut made = Made::default();
        let image = made.image("linux/amd64");
        made.list(&image.descriptor, Some(&name));
        let (machine, outcome) = made.import(&options());
        assert_eq!(outcome, Err(ErrorKind::InvalidManifest), "{name:?}");
        assert_eq!(machine.found(&name), None, "{name:?}");

        let mut made = Made::default();
        let image = made.image("linux/amd64");
        docker(&mut made, &image, &[&name]);
        let (machine, outcome) = made.import(&options());
        assert!(outcome.is_err(), "{name:?}");
        assert_eq!(machine.found(&name), None, "{name:?}");
    }
}

/// Lists the image as `docker save` does.
fn docker(made: &mut Made, image: &crate::made::Image, tags: &[&str]) {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let listed = json!([{ "Config": path(&image.id), "RepoTags": tags, "Layers": [path(&image.layer)] }]);
    made.file("manifest.json", listed.to_string().as_bytes());
}

#[test]
fn names_with_the_right_digest_and_names_of_any_text_are_kept() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let pinned = format!("docker.io/library/app@{}", image.manifest);
    let names = ["v1", "alpine", "index.docker.io/library/a:1", "any printable text", &pinned];
    for name in names {
        made.list(&image.descriptor, Some(name));
    }
    let (machine, outcome) = made.import(&options());
    assert_eq!(outcome.unwrap().names, names);
    for name in names {
        assert_eq!(machine.found(name), Some(image.manifest.clone()), "{name}");
    }
    assert_eq!(machine.images().len(), 1);
}

#[test]
fn a_name_that_is_asked_for_replaces_those_of_the_archive() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    for name in [
        None,
        Some("v1"),
        Some("app@sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    ] {
        made.listed.clear();
        made.list(&image.descriptor, name);
        let (machine, outcome) = made.import(&options().name(Reference::parse("app:2").unwrap()));
        assert_eq!(outcome.unwrap().names, ["docker.io/library/app:2"]);
        assert_eq!(machine.images(), [(image.manifest.clone(), vec!["docker.io/library/app:2".to_owned()])]);
    }
    let second = made.image("linux/amd64 second");
    made.list(&second.descriptor, None);
    assert_eq!(
        made.import(&options().name(Reference::parse("app").unwrap())).1,
        Err(ErrorKind::InvalidConfig)
    );
}

/// A store whose index another tool wrote, with names, ids and digests that are not true.
fn forged(dir: &std::path::Path) -> (crate::made::Image, crate::made::Image, Digest) {
    let mut made = Made::default();
    let (good, evil) = (made.image("linux/amd64 good"), made.image("linux/amd64 evil"));
    let index = made.index(std::slice::from_ref(&good.descriptor));
    let promised = Digest::parse(index["digest"].as_str().unwrap()).unwrap();
    made.list(&good.descriptor, Some("docker.io/library/good:1"));
    let forge = |name: &str| {
        let mut entry = evil.descriptor.clone();
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": name,
            "io.oci-puller.image.id": good.id.as_str(),
            "io.oci-puller.image.repo-digest": format!("docker.io/library/app@{promised}"),
        });
        entry
    };
    // The forged ones stand first.
    let pinned = format!("docker.io/library/app@{}", good.manifest);
    let by_index = format!("docker.io/library/app@{promised}");
    for name in
        [good.id.as_str(), good.id.hex(), good.manifest.as_str(), promised.as_str(), &pinned, &by_index]
    {
        made.listed.insert(0, forge(name));
    }
    made.write(dir);
    (good, evil, promised)
}

#[test]
fn a_look_up_by_digest_compares_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (good, evil, promised) = forged(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let found = |key: &str| store.find(key).unwrap().map(|image| image.manifest.digest);
    for key in [good.id.as_str(), good.id.hex(), good.manifest.as_str()] {
        assert_eq!(found(key), Some(good.manifest.clone()), "{key}");
    }
    // Nothing was pulled by the index: no entry that is true says so.
    let pinned = format!("docker.io/library/app@{}", good.manifest);
    let by_index = format!("docker.io/library/app@{promised}");
    for key in [&pinned, &by_index, promised.as_str()] {
        assert_eq!(found(key), None, "{key}");
        let exported = store.export(&PullContext::new(), key, std::io::sink());
        assert_eq!(exported.unwrap_err().kind(), ErrorKind::NotFound, "{key}");
    }
    assert_eq!(found(evil.manifest.as_str()), Some(evil.manifest.clone()));
    let images = store.images().unwrap();
    assert_eq!(images.len(), 2, "{images:#?}");
    for image in images {
        let is_good = image.manifest.digest == good.manifest;
        let names: &[&str] = if is_good { &["docker.io/library/good:1"] } else { &[] };
        assert_eq!(image.names, names);
        assert_eq!(image.repo_digests, [""; 0]);
    }
    let service = RegistryImageService::builder(dir.path()).build().unwrap();
    for (image, expected) in [(good.id.as_str(), Some(&good)), (&pinned, None), (&by_index, None)] {
        let image_ref = service.image_ref(&PullContext::new(), &ImageSpec::from(image)).unwrap();
        assert_eq!(
            image_ref.map(|it| it.as_str().to_owned()),
            expected.map(|it| it.id.to_string()),
            "{image}"
        );
    }
}

#[test]
fn a_removal_by_id_removes_the_image_with_that_id() {
    let dir = tempfile::tempdir().unwrap();
    let (good, evil, _) = forged(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let removed = store.remove(&PullContext::new(), good.id.as_str()).unwrap();
    assert_eq!(removed.names, ["docker.io/library/good:1"]);
    let left: Vec<_> = store.images().unwrap().into_iter().map(|image| image.manifest.digest).collect();
    assert_eq!(left, [evil.manifest]);
}

#[test]
fn an_image_that_was_pulled_by_the_digest_of_an_index_keeps_that_name_through_an_archive() {
    // What a pull by the index's digest writes, and an older version, too.
    let mut made = Made::default();
    let (ours, theirs) = (made.image("linux/amd64"), made.image("linux/arm64"));
    let index = made.index(&[theirs.descriptor.clone(), ours.descriptor.clone()]);
    made.lose(&theirs.layer);
    made.lose(&theirs.manifest);
    let name = format!("docker.io/library/app@{}", index["digest"].as_str().unwrap());
    let mut entry = ours.descriptor.clone();
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": name,
        "io.containerd.image.name": name,
        "io.oci-puller.image.id": ours.id.as_str(),
        "io.oci-puller.image.repo-digest": name,
    });
    made.listed.push(entry);
    let dir = tempfile::tempdir().unwrap();
    made.write(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let image = store.find(&name).unwrap().unwrap();
    assert_eq!((image.names, image.repo_digests), (vec![name.clone()], vec![name.clone()]));
    let mut archive = Vec::new();
    store.export(&PullContext::new(), &name, &mut archive).unwrap();

    let machine = Machine::new("linux/amd64");
    assert_eq!(machine.store.import(&PullContext::new(), &archive[..]).unwrap(), [&*name]);
    assert_eq!(machine.found(&name), Some(ours.manifest.clone()));
    assert!(machine.store.verify(&PullContext::new()).unwrap().is_sound());
    let mut again = Vec::new();
    machine.store.export(&PullContext::new(), &name, &mut again).unwrap();
    assert_eq!(archive, again);
    // Without the index's bytes nothing proves the name.
    let path = machine.store.dir().join("blobs").join(index["digest"].as_str().unwrap().replace(':', "/"));
    fs::remove_file(path).unwrap();
    assert_eq!(machine.found(&name), None);
    assert_eq!(machine.found(ours.id.as_str()), Some(ours.manifest));
}

#[test]
fn an_image_without_a_name_is_listed_once_however_often_it_comes() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, None);
    let machine = Machine::new("linux/amd64");
    for _ in 0..3 {
        machine.store.import(&PullContext::new(), &made.archive()[..]).unwrap();
    }
    let text = fs::read_to_string(machine.store.dir().join("index.json")).unwrap();
    assert_eq!(text.matches(image.manifest.as_str()).count(), 1, "{text}");
}

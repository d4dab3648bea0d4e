//! Other tools read our stores, and this crate reads theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;
use oci_puller::Store;
use oci_puller::image::Digest;

use crate::archives::{image, tar};
use crate::{Outcome, check_all, cx, images, run, tool, write_archives};

pub(crate) fn other_tools_read(dir: &Path) -> Outcome {
    let path = dir.join("store");
    let store = Store::open(&path)?;
    for image in images() {
        store.import(&cx(), &image.archive[..])?;
        let raw = run(&mut tool(&format!("skopeo inspect --raw oci:{}:{}", path.display(), image.name)))?;
        assert_eq!(Digest::sha256(&raw.stdout), image.manifest);
        run(&mut tool(&format!("skopeo inspect --config oci:{}:{}", path.display(), image.name)))?;
    }
    let listed = run(&mut tool(&format!("umoci list --layout {}", path.display())))?;
    let listed = String::from_utf8(listed.stdout)?;
    for image in images() {
        assert!(listed.contains(&image.name), "{listed}");
    }
    // What another tool collects, it collects by the same rules.
    run(&mut tool(&format!("umoci gc --layout {}", path.display())))?;
    check_all(&path, &images())
}

pub(crate) fn stores_of_others(dir: &Path) -> Outcome {
    let (umoci, skopeo) = (dir.join("umoci"), dir.join("skopeo"));
    run(&mut tool(&format!("umoci init --layout {}", umoci.display())))?;
    run(&mut tool(&format!("umoci new --image {}:theirs", umoci.display())))?;
    let archives = write_archives(dir, &images())?;
    run(&mut tool(&format!(
        "skopeo copy --insecure-policy --preserve-digests oci-archive:{} oci:{}:theirs",
        archives[0],
        skopeo.display()
    )))?;
    for path in [umoci, skopeo] {
        let store = Store::open(&path)?;
        images().iter().try_for_each(|image| store.import(&cx(), &image.archive[..]).map(drop))?;
        check_all(&path, &images())?;
        for name in [&*images()[0].name, "theirs"] {
            run(&mut tool(&format!("skopeo inspect --raw oci:{}:{name}", path.display())))?;
        }
        run(&mut tool(&format!("umoci tag --image {}:{} copy", path.display(), images()[1].name)))?;
        assert!(Store::open(&path)?.find("copy")?.is_some());
    }
    Ok(())
}

pub(crate) fn archives_of_skopeo(dir: &Path) -> Outcome {
    let original = image("docker.io/library/one:latest", &[&real_layer()]);
    let store = Store::open(dir.join("store"))?;
    store.import(&cx(), &original.archive[..])?;
    let exported = dir.join("exported.tar");
    store.export(&cx(), &original.name, fs::File::create(&exported)?)?;
    let copied = dir.join("copied");
    run(&mut tool(&format!(
        "skopeo copy --insecure-policy --preserve-digests oci-archive:{} oci:{}:one",
        exported.display(),
        copied.display()
    )))?;
    let found = Store::open(&copied)?.find("one")?.ok_or("the copy is gone")?;
    assert_eq!((found.id, found.manifest.digest), (original.id.clone(), original.manifest.clone()));
    for kind in ["docker-archive", "oci-archive"] {
        let path = dir.join(kind);
        let keep = if kind == "oci-archive" { "--preserve-digests " } else { "" };
        let target = format!("{kind}:{}:docker.io/library/one:latest", path.display());
        run(&mut tool(&format!(
            "skopeo copy --insecure-policy {keep}oci:{}:one {target}",
            copied.display()
        )))?;
        let back = Store::open(dir.join(format!("{kind}-store")))?;
        let names = back.import(&cx(), fs::File::open(&path)?)?;
        let found = back.find(&names[0])?.ok_or("the import is gone")?;
        assert_eq!(names, ["docker.io/library/one:latest"]);
        assert!(back.verify(&cx())?.is_sound());
        if kind == "oci-archive" {
            assert_eq!((found.id, found.manifest.digest), (original.id.clone(), original.manifest.clone()));
        }
    }
    Ok(())
}

/// A command of podman or buildah, which keeps its images in `dir`.
fn with_storage(dir: &Path, program: &str, line: &str) -> Command {
    let storage = dir.join(program);
    let (root, run) = (storage.join("root"), storage.join("run"));
    let (root, run) = (root.display(), run.display());
    tool(&format!("{program} --root {root} --runroot {run} --storage-driver vfs {line}"))
}

/// Imports the archive, or the layout, into a store of its own.
fn imported(dir: &Path, source: &Path) -> Result<(Store, Vec<String>), Failed> {
    let store = Store::open(dir.join(format!("store-of-{}", source.file_name().unwrap().display())))?;
    let names = match source.is_dir() {
        true => store.import_layout(&cx(), source)?,
        false => store.import(&cx(), fs::File::open(source)?)?,
    };
    assert!(store.verify(&cx())?.is_sound(), "{}", source.display());
    Ok((store, names))
}

pub(crate) fn archives_of_podman(dir: &Path) -> Outcome {
    let podman = |line: String| run(&mut with_storage(dir, "podman", &line));
    let original = image("docker.io/library/one:latest", &[&real_layer()]);
    let store = Store::open(dir.join("store"))?;
    store.import(&cx(), &original.archive[..])?;
    let ours = dir.join("ours.tar");
    store.export(&cx(), &original.name, fs::File::create(&ours)?)?;
    podman(format!("load -i {}", ours.display()))?;
    let id = podman("image inspect --format {{.Id}} docker.io/library/one:latest".to_owned())?.stdout;
    assert_eq!(String::from_utf8(id)?.trim(), original.id.hex());

    podman(format!("tag {} quay.io/team/two:v2", original.name))?;
    let both = format!("{} quay.io/team/two:v2", original.name);
    for (format, images) in [
        ("docker-archive", original.name.as_str()),
        ("docker-archive", original.id.hex()),
        ("docker-archive", &both),
        ("oci-archive", &original.name),
        ("oci-archive", original.id.hex()),
        ("oci-dir", &original.name),
        ("docker-archive --multi-image-archive", &both),
    ] {
        let path = dir.join(format!("{format}-{}", images.len()).replace(' ', "-"));
        podman(format!("save --format {format} -o {} {images}", path.display()))?;
        let (store, names) = imported(dir, &path)?;
        let has_name = images != original.id.hex();
        let found = store.find(&names[0])?.ok_or("the import is gone")?;
        assert_eq!(found.id, original.id, "{format} {images}");
        if has_name {
            let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(names, images.split(' ').collect(), "{format} {images}");
        }
    }
    Ok(())
}

pub(crate) fn archives_of_buildah(dir: &Path) -> Outcome {
    let buildah = |line: String| run(&mut with_storage(dir, "buildah", &line));
    let layer = dir.join("layer.tar");
    fs::write(&layer, real_layer())?;
    let container = String::from_utf8(buildah("from scratch".to_owned())?.stdout)?.trim().to_owned();
    buildah(format!("add -q {container} {} /", layer.display()))?;
    let mut ids = Vec::new();
    for (kind, name, expected) in [
        ("oci-archive", ":v1", Some("v1")),
        ("oci-archive", ":docker.io/library/built:1", Some("docker.io/library/built:1")),
        ("oci-archive", "", None),
        ("oci", ":v1", Some("v1")),
        ("docker-archive", ":docker.io/library/built:1", Some("docker.io/library/built:1")),
    ] {
        let path = dir.join(format!("{kind}-{}", name.len()));
        buildah(format!("commit -q --timestamp 0 {container} {kind}:{}{name}", path.display()))?;
        let (store, names) = imported(dir, &path)?;
        let found = store.find(&names[0])?.ok_or("the import is gone")?;
        if let Some(expected) = expected {
            assert_eq!(names, [expected], "{kind}{name}");
        }
        ids.push(found.id);
    }
    assert!(ids[..4].iter().all(|id| *id == ids[0]), "{ids:?}");
    Ok(())
}

/// A tar file with nothing in it, which skopeo can look into.
fn real_layer() -> Vec<u8> {
    tar(&[("file".to_owned(), b"content".to_vec())])
}

//! Other tools read our stores, and we theirs.

use std::fs;
use std::path::Path;

use oci_puller::{Digest, Store};

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

/// A tar file with nothing in it, which skopeo can look into.
fn real_layer() -> Vec<u8> {
    tar(&[("file".to_owned(), b"content".to_vec())])
}

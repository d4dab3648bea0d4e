//! Other tools unpack the same images, and read what is packed again from our trees.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use oci_puller::Store;
use oci_puller::store::Durability;

use crate::layers::{Blob, char_device, dir, fifo, file, hard_link, image, symlink, tar};
use crate::tree::tree;

/// Layers that every tool reads alike.
fn layers() -> Vec<Blob> {
    let base = [
        dir("bin"),
        file("bin/sh", "shell").mode(0o4755),
        dir("etc").mode(0o750).owner(3, 4).time(5),
        file("etc/a", "1").owner(3, 4),
        file("etc/b", "2").mode(0o600),
        hard_link("etc/c", "etc/b").mode(0o600),
        dir("old"),
        file("old/x", "x"),
        symlink("lib", "usr/lib"),
        dir("usr"),
        dir("usr/lib"),
        fifo("pipe"),
        char_device("null", 1, 3),
    ];
    let top = [
        file(".wh.old", ""),
        dir("etc").mode(0o755),
        file("etc/.wh.a", ""),
        file("etc/new", "n").pax("SCHILY.xattr.user.k", "v"),
        dir("usr"),
        dir("usr/lib"),
        file("usr/lib/so", "so"),
    ];
    [&base[..], &top].iter().map(|layer| Blob::gzip(tar(layer))).collect()
}

/// The tree without the root's own line: tools give the root what they like.
fn below(root: &Path) -> BTreeMap<String, String> {
    let mut tree = tree(root);
    tree.remove(".");
    tree
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn umoci_unpacks_the_same_tree_and_repacks_it() {
    let at = tempfile::tempdir().unwrap();
    let layout = at.path().join("store");
    let (store, image) = image(&layout, &layers());
    store.unpack(&image).into_dir(at.path().join("root")).unwrap();
    let bundle = at.path().join("bundle");
    let umoci = |verb: &str, tag: &str| {
        let image = format!("{}:{tag}", layout.display());
        run(Command::new("umoci").args([verb, "--image", &image]).arg(&bundle))
    };
    umoci("unpack", "test");
    let rootfs = bundle.join("rootfs");
    assert_eq!(below(&at.path().join("root")), below(&rootfs));

    fs::remove_dir_all(rootfs.join("usr/lib")).unwrap();
    fs::write(rootfs.join("usr/lib"), "now a file").unwrap();
    fs::remove_file(rootfs.join("etc/new")).unwrap();
    fs::create_dir(rootfs.join("more")).unwrap();
    fs::hard_link(rootfs.join("etc/b"), rootfs.join("more/d")).unwrap();
    umoci("repack", "next");
    let store = Store::builder(store.dir()).durability(Durability::Relaxed).build().unwrap();
    let is_next = |image: &&oci_puller::store::StoredImage| image.names.iter().any(|name| name == "next");
    let images = store.images().unwrap();
    let next = images.iter().find(is_next).unwrap();
    store.unpack(next).into_dir(at.path().join("next")).unwrap();
    // Its archives round times to seconds.
    let without_times = |tree: BTreeMap<String, String>| -> BTreeMap<_, _> {
        let line = |line: String| line.split(" t ").next().unwrap().to_owned();
        tree.into_iter().map(|(name, text)| (name, line(text))).collect()
    };
    assert_eq!(without_times(below(&at.path().join("next"))), without_times(below(&rootfs)));
}

pub(crate) fn podman_mounts_the_same_tree() {
    let at = tempfile::tempdir().unwrap();
    let (store, image) = image(&at.path().join("store"), &layers());
    store.unpack(&image).into_dir(at.path().join("root")).unwrap();
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.args(["--root", "graph", "--runroot", "run", "--storage-driver", "vfs"]).args(args);
        run(command.current_dir(at.path()))
    };
    let pulled = podman(&["pull", "-q", "oci:store:test"]);
    let id = pulled.lines().last().unwrap();
    let mounted = podman(&["image", "mount", id]);
    let tree = below(Path::new(mounted.trim()));
    podman(&["image", "unmount", id]);
    assert_eq!(below(&at.path().join("root")), tree);
}

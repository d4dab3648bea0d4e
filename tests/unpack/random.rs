//! Random stacks of layers: every way to unpack makes the same tree, or refuses it alike.

use std::fs::{self, File};
use std::process::Command;

use oci_puller::store::Durability;
use oci_puller::unpack::LayerStore;

use crate::layers::{Blob, Item, char_device, dir, fifo, file, hard_link, image, symlink, tar};
use crate::overlay::mounted;
use crate::tree::tree;

const STACKS: u64 = 120;

pub(crate) fn all_ways_make_the_same_tree() {
    let thorough = std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some();
    let (mut whole, mut refused) = (0, 0);
    for seed in 0..if thorough { 10 * STACKS } else { STACKS } {
        let at = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(1..=5);
        let layers: Vec<Vec<Item>> = (0..count).map(|_| layer(&mut random)).collect();
        let blobs: Vec<Blob> = layers.iter().map(|layer| Blob::gzip(tar(layer))).collect();
        let (store, image) = image(&at.path().join("store"), &blobs);
        let root = at.path().join("root");
        let told = |error: oci_puller::Error| error.kind();
        let first = store.unpack(&image).threads(1).into_dir(&root).map(|_| tree(&root)).map_err(told);
        let again = at.path().join("again");
        let second = store.unpack(&image).threads(4).into_dir(&again).map(|_| tree(&again)).map_err(told);
        assert_eq!(first, second, "side by side, {seed}");
        let folders =
            LayerStore::builder(at.path().join("layers")).durability(Durability::Relaxed).open().unwrap();
        let third = mounted(&store, &image, &folders, at.path()).map_err(told);
        assert_eq!(first, third, "mounted, {seed}");
        let archive = at.path().join("image.tar");
        let fourth = store.unpack(&image).into_tar(File::create(&archive).unwrap()).map(|_| {
            let root = at.path().join("extracted");
            fs::create_dir(&root).unwrap();
            let mut extract = Command::new("tar");
            extract
                .args(["-x", "--numeric-owner", "--same-owner", "-p", "-f"])
                .arg(&archive)
                .arg("-C")
                .arg(&root);
            assert!(extract.status().unwrap().success());
            tree(&root)
        });
        assert_eq!(first, fourth.map_err(told), "tar, {seed}");
        match first {
            Ok(_) => whole += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(whole > 20 && refused > 5, "{whole} whole, {refused} refused");
}

/// A few entries over a small alphabet of paths.
fn layer(random: &mut fastrand::Rng) -> Vec<Item> {
    let mut names = vec!["a", "b", "c"];
    random.shuffle(&mut names);
    let path = |random: &mut fastrand::Rng| -> String {
        let depth = random.usize(1..=3);
        let parts: Vec<_> = (0..depth).map(|_| *random.choice(&["a", "b", "c"]).unwrap()).collect();
        parts.join("/")
    };
    let mut items = Vec::new();
    for _ in 0..random.usize(0..8) {
        let name = path(random);
        let (folder, last) = name.rsplit_once('/').map_or(("", &*name), |(folder, last)| (folder, last));
        let slash = if folder.is_empty() { "" } else { "/" };
        items.push(match random.u8(0..20) {
            0..6 => {
                file(&name, random.u8(..).to_string()).mode(random.choice([0o644, 0o4755, 0o600]).unwrap())
            }
            6..11 => dir(&name).mode(random.choice([0o755, 0o700, 0o555]).unwrap()).time(random.i64(1..9)),
            11..13 => symlink(&name, random.choice(["a", "/b", "../c", "b/a", "."]).unwrap()),
            13 => hard_link(&name, path(random)),
            14..17 => file(format!("{folder}{slash}.wh.{last}"), ""),
            17 => file(format!("{folder}{slash}.wh..wh..opq"), ""),
            18 => char_device(&name, 1, 3),
            _ => fifo(&name).owner(5, 6),
        });
    }
    items
}

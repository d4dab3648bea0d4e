//! Random stacks of layers: every way to unpack makes the tree of the model, or refuses the stack as it does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;

use oci_puller::ErrorKind;
use oci_puller::store::Durability;
use oci_puller::unpack::LayerStore;

use crate::layers::{Blob, image, tar};
use crate::model::{Entry, Invalid, merged};
use crate::overlay::mounted;
use crate::tree::tree;

/// The seeds of the stacks, `FROM..TO`, in place of the first [`STACKS`].
const SEEDS: &str = "OCI_PULLER_SEEDS";
const STACKS: u64 = 300;
/// A file system in memory, if there is one: the stacks are small and many.
const MEMORY: &str = "/dev/shm";

type Outcome = Result<BTreeMap<String, String>, ErrorKind>;

pub(crate) fn every_output_matches_the_model() {
    let seeds = std::env::var(SEEDS).ok().map(|seeds| {
        let (from, to) = seeds.split_once("..").unwrap();
        from.parse().unwrap()..to.parse().unwrap()
    });
    let (mut whole, mut refused) = (0, 0);
    for seed in seeds.unwrap_or(0..STACKS) {
        let mut random = fastrand::Rng::with_seed(seed);
        let layers: Vec<_> = (0..random.usize(1..=5)).map(|_| layer(&mut random)).collect();
        let expected = merged(&layers).map_err(|Invalid| ErrorKind::InvalidLayer);
        for (way, outcome) in unpacked(&layers) {
            assert_eq!(outcome, expected, "{way} of {seed}: {layers:?}");
        }
        *(if expected.is_ok() { &mut whole } else { &mut refused }) += 1;
    }
    // A few seeds alone may all be of one kind.
    let is_many = whole + refused >= STACKS;
    assert!(!is_many || whole > refused / 2 && refused > whole / 10, "{whole} whole, {refused} refused");
}

/// What each way makes of the layers.
fn unpacked(layers: &[Vec<Entry>]) -> [(&'static str, Outcome); 4] {
    let at = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()).unwrap();
    let blobs = layers.iter().map(|layer| {
        let items: Vec<_> = layer.iter().map(Entry::item).collect();
        Blob::gzip(tar(&items))
    });
    let (store, image) = image(&at.path().join("store"), &blobs.collect::<Vec<_>>());
    let kind = |error: oci_puller::Error| error.kind();
    let folder = |threads: usize| {
        let root = at.path().join(threads.to_string());
        store.unpack(&image).threads(threads).into_dir(&root).map(|_| tree(&root)).map_err(kind)
    };
    let folders =
        LayerStore::builder(at.path().join("layers")).durability(Durability::Relaxed).build().unwrap();
    let archive = at.path().join("image.tar");
    let extracted = store.unpack(&image).into_tar(File::create(&archive).unwrap()).map(|_| {
        let root = at.path().join("extracted");
        fs::create_dir(&root).unwrap();
        let mut extract = Command::new("tar");
        extract.args(["-x", "--numeric-owner", "--same-owner", "-p", "-f"]).arg(&archive);
        assert!(extract.arg("-C").arg(&root).status().unwrap().success());
        tree(&root)
    });
    [
        ("one thread", folder(1)),
        ("four threads", folder(4)),
        ("overlay mount", mounted(&store, &image, &folders, at.path()).map_err(kind)),
        ("tar", extracted.map_err(kind)),
    ]
}

/// A few entries over a small alphabet of paths.
fn layer(random: &mut fastrand::Rng) -> Vec<Entry> {
    let path = |random: &mut fastrand::Rng| -> String {
        let depth = random.usize(1..=3);
        let parts: Vec<_> = (0..depth).map(|_| *random.choice(&["a", "b", "c"]).unwrap()).collect();
        parts.join("/")
    };
    let count = random.usize(0..7);
    let entry = |_| {
        let at = path(random);
        match random.u8(0..20) {
            0..6 => Entry::File {
                path: at,
                content: random.u8(..).to_string(),
                mode: random.choice([0o644, 0o4755, 0o600]).unwrap(),
            },
            6..11 => Entry::Dir {
                path: at,
                mode: random.choice([0o755, 0o700, 0o555]).unwrap(),
                time: random.i64(1..9),
            },
            11..13 => Entry::Symlink {
                path: at,
                target: random.choice(["a", "/b", "../c", "b/a", "."]).unwrap().to_owned(),
            },
            13 => Entry::HardLink { path: at, target: path(random) },
            14..17 => Entry::Whiteout(at),
            17 => Entry::Opaque(at.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()),
            18 => Entry::Device(at),
            _ => Entry::Pipe(at),
        }
    };
    (0..count).map(entry).collect()
}

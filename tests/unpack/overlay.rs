//! Layers in folders of their own: mounted, shared, pruned and verified.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_puller::store::{Durability, StoredImage};
use oci_puller::unpack::{Devices, LayerStack, LayerStore, Owners};
use oci_puller::{Error, ErrorKind, PullContext, Store};

use crate::corpus::check_all;
use crate::layers::{Blob, dir, file, image, tar};
use crate::tree::tree;

/// A mount that ends with this.
struct Mounted(PathBuf);

impl Mounted {
    fn new(stack: &LayerStack, at: &Path) -> Self {
        fs::create_dir_all(at.join("mounted")).unwrap();
        fs::create_dir_all(at.join("empty")).unwrap();
        // Overlayfs wants two folders at least; the lowest is the one that counts least.
        let empty = at.join("empty");
        let options = format!("ro,{}:{}", stack.lowerdir().unwrap(), empty.display());
        let options = match stack.mount_options() {
            "" => options,
            more => format!("{options},{more}"),
        };
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(at.join("mounted"));
        let output = mount.current_dir(stack.root()).output().unwrap();
        assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
        Mounted(at.join("mounted"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

type Tree = BTreeMap<String, String>;

pub(crate) fn mounted(
    store: &Store,
    image: &StoredImage,
    layers: &LayerStore,
    dir: &Path,
) -> Result<Tree, Error> {
    let stack = store.unpack(image).into_layers(layers)?;
    let found = layers.find(image).unwrap().unwrap();
    assert_eq!(found.lower(), stack.lower());
    let mounted = Mounted::new(&stack, dir);
    Ok(tree(&mounted.0))
}

pub(crate) fn every_case_gives_its_tree_when_mounted() {
    check_all(|store, image, dir| {
        let layers = LayerStore::builder(dir.join("layers")).durability(Durability::Relaxed).build()?;
        let outcome = mounted(store, image, &layers, dir);
        assert_eq!(layers.verify(&PullContext::new()).unwrap(), []);
        outcome
    });
}

/// Each layer is unpacked by itself, with what is below it only read from its record.
pub(crate) fn every_case_gives_its_tree_from_known_layers() {
    check_all(|store, image, dir| {
        let layers = LayerStore::builder(dir.join("layers")).durability(Durability::Relaxed).build()?;
        let manifest = store.manifest(&image.manifest.digest).unwrap();
        let diff_ids = store.config(&image.id).unwrap().diff_ids;
        for count in 1..manifest.layers.len() {
            let blobs: Vec<Blob> = manifest
                .layers
                .iter()
                .zip(&diff_ids)
                .take(count)
                .map(|(layer, diff_id)| {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut store.open_blob(&layer.digest).unwrap(), &mut bytes)
                        .unwrap();
                    Blob { media_type: crate::layers::TAR_GZIP, bytes, diff_id: diff_id.clone() }
                })
                .collect();
            let (part, first) = crate::layers::image(&dir.join(format!("part-{count}")), &blobs);
            // What is wrong with an image may only show in a layer above.
            if part.unpack(&first).into_layers(&layers).is_err() {
                break;
            }
        }
        mounted(store, image, &layers, dir)
    });
}

fn layer(name: &str) -> Blob {
    Blob::gzip(tar(&[dir("d"), file(format!("d/{name}"), name)]))
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() == 64).collect()
}

pub(crate) fn layers_are_shared_and_pruned_when_unused() {
    let at = tempfile::tempdir().unwrap();
    let layers = LayerStore::builder(at.path().join("layers")).min_age(Duration::ZERO).build().unwrap();
    let (one, first) = image(&at.path().join("one"), &[layer("base"), layer("one")]);
    let (two, second) = image(&at.path().join("two"), &[layer("base"), layer("two")]);
    assert!(layers.find(&first).unwrap().is_none());
    let stack = one.unpack(&first).into_layers(&layers).unwrap();
    let base = stack.lower()[1].clone();
    let inode = fs::metadata(&base).unwrap().ino();
    let other = two.unpack(&second).into_layers(&layers).unwrap();
    assert_eq!(other.lower()[1], base);
    assert_eq!(fs::metadata(&base).unwrap().ino(), inode);
    assert_eq!(names(layers.dir()).len(), 3);
    assert_eq!(fs::metadata(layers.dir()).unwrap().mode() & 0o7777, 0o700);

    // Stacks keep their layers, of whatever store.
    assert_eq!(layers.prune(&one).unwrap(), 0);
    drop(other);
    assert_eq!(layers.prune(&one).unwrap(), 1);
    assert!(layers.find(&second).unwrap().is_none());
    assert!(layers.find(&first).unwrap().is_some());
    drop(stack);
    assert_eq!(layers.prune(&two).unwrap(), 1);
    assert_eq!(names(layers.dir()).len(), 1);
    assert_eq!(fs::read_dir(layers.dir().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(layers.dir().join("leases")).unwrap().count(), 0);
}

pub(crate) fn a_layer_store_keeps_its_settings() {
    let at = tempfile::tempdir().unwrap();
    let (store, image) = image(&at.path().join("store"), &[layer("base")]);
    let layers = LayerStore::open(at.path().join("layers")).unwrap();
    store.unpack(&image).owners(Owners::Current).devices(Devices::LeaveOut).into_layers(&layers).unwrap();
    // Reopened, and with what is not set left to the store.
    let layers = LayerStore::open(at.path().join("layers")).unwrap();
    store.unpack(&image).into_layers(&layers).unwrap();
    let error = store.unpack(&image).owners(Owners::AsImage).into_layers(&layers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    let other = LayerStore::builder(at.path().join("layers")).devices(Devices::Create).build();
    assert_eq!(other.unwrap_err().kind(), ErrorKind::InvalidConfig);
    fs::create_dir(at.path().join("foreign")).unwrap();
    fs::write(at.path().join("foreign/file"), "x").unwrap();
    assert_eq!(LayerStore::open(at.path().join("foreign")).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

pub(crate) fn verify_finds_damaged_layers() {
    let at = tempfile::tempdir().unwrap();
    let (store, image) = image(&at.path().join("store"), &[layer("base"), layer("top")]);
    let layers = LayerStore::open(at.path().join("layers")).unwrap();
    let stack = store.unpack(&image).into_layers(&layers).unwrap();
    assert_eq!(layers.verify(&PullContext::new()).unwrap(), []);
    fs::write(stack.lower()[0].join("d/more"), "x").unwrap();
    fs::write(stack.lower()[1].join("d/base"), "").unwrap();
    let mut reasons: Vec<_> =
        layers.verify(&PullContext::new()).unwrap().into_iter().map(|layer| layer.reason).collect();
    reasons.sort();
    assert!(reasons[0].contains("d/base") || reasons[0].contains("\"d\""), "{reasons:?}");
    assert_eq!(reasons.len(), 2);
}

pub(crate) fn a_long_stack_has_no_lowerdir_option() {
    let at = tempfile::tempdir().unwrap();
    let blobs: Vec<Blob> = (0..130).map(|at| layer(&at.to_string())).collect();
    let (store, image) = image(&at.path().join("store"), &blobs);
    let layers = LayerStore::builder(at.path().join("layers")).build().unwrap();
    let stack = store.unpack(&image).durability(Durability::Relaxed).into_layers(&layers).unwrap();
    assert_eq!(stack.lower().len(), 130);
    assert_eq!(stack.lowerdir(), None);
}

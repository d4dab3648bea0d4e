//! The folder that an image is unpacked into: what may be there, what is left there, and the limits.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::store::{Durability, StoredImage};
use oci_puller::unpack::{IdRange, Owners};
use oci_puller::{CancelToken, ErrorKind, PullContext, Store};

use crate::layers::{Blob, char_device, dir, file, hard_link, image, tar};

fn small(dir: &Path) -> (Store, StoredImage) {
    image(&dir.join("store"), &[Blob::gzip(tar(&[file("a", "x")])), Blob::gzip(tar(&[file("b", "y")]))])
}

const MARKER: &str = ".oci-puller-unfinished";

pub(crate) fn a_folder_must_be_absent_empty_or_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = small(dir.path());
    let unpack = |at: &Path| store.unpack(&image).into_dir(at);
    let names = |at: &Path| {
        let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };

    let absent = dir.path().join("deep/below/root");
    let done = unpack(&absent).unwrap();
    assert_eq!((done.entries, done.files, done.bytes), (2, 2, 2));
    assert_eq!(names(&absent), ["a", "b"]);
    assert_eq!(fs::metadata(dir.path().join("deep")).unwrap().mode() & 0o7777, 0o700);

    assert_eq!(unpack(&absent).unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(names(&absent), ["a", "b"]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    unpack(&empty).unwrap();
    assert_eq!(names(&empty), ["a", "b"]);

    let unfinished = dir.path().join("unfinished");
    fs::create_dir_all(unfinished.join("old/deep/er")).unwrap();
    fs::write(unfinished.join("old/file"), "x").unwrap();
    fs::write(unfinished.join("old/deep/file"), "x").unwrap();
    std::os::unix::fs::symlink(dir.path(), unfinished.join("link")).unwrap();
    fs::set_permissions(unfinished.join("old/deep"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(unfinished.join(MARKER), "").unwrap();
    unpack(&unfinished).unwrap();
    assert_eq!(names(&unfinished), ["a", "b"]);
    assert!(dir.path().join("store").exists());

    let a_file = dir.path().join("file");
    fs::write(&a_file, "x").unwrap();
    assert_eq!(unpack(&a_file).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

pub(crate) fn a_failed_target_stays_private_and_marked_and_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let layers = [Blob::plain(tar(&[file("a", "x")])), Blob::plain(tar(&[hard_link("b", "gone")]))];
    let (store, broken) = image(&dir.path().join("broken"), &layers);
    let root = dir.path().join("root");
    store.unpack(&broken).into_dir(&root).unwrap_err();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o700);
    assert!(root.join(MARKER).exists());
    let (store, image) = small(dir.path());
    store.unpack(&image).into_dir(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
    assert!(!root.join(MARKER).exists());
}

pub(crate) fn a_folder_takes_one_unpack_at_a_time() {
    struct Again(Store, StoredImage, std::path::PathBuf, AtomicU64);
    impl Progress for Again {
        fn event(&self, _: &ProgressEvent) {
            if self.3.fetch_add(1, Ordering::Relaxed) == 0 {
                let error = self.0.unpack(&self.1).into_dir(&self.2).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
                assert!(error.message().contains("another process"), "{error}");
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = small(dir.path());
    let root = dir.path().join("root");
    let again = Arc::new(Again(store.clone(), image.clone(), root.clone(), AtomicU64::new(0)));
    let cx = PullContext::new().with_progress(again.clone());
    store.unpack(&image).context(cx).into_dir(&root).unwrap();
    assert!(again.3.load(Ordering::Relaxed) > 0);
}

pub(crate) fn limits_stop_bombs() {
    let dir = tempfile::tempdir().unwrap();
    let zeros = vec![0; 3 << 20];
    let hole = file("hole", "").pax("GNU.sparse.size", "8589934592").pax("GNU.sparse.map", "");
    let many: Vec<_> = (0..2000).map(|at| file(format!("f{at}"), "")).collect();
    let bombs = [
        Blob::gzip(tar(&[file("zeros", &zeros)])),
        Blob::gzip([tar(&[]), zeros.clone()].concat()),
        Blob::plain(tar(&[hole])),
        Blob::plain(tar(&many)),
    ];
    for (at, bomb) in bombs.into_iter().enumerate() {
        let (store, image) = image(&dir.path().join(format!("store-{at}")), &[bomb]);
        let root = dir.path().join(format!("root-{at}"));
        let error = store.unpack(&image).limits(2 << 20, 1000).into_dir(root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{at}: {error}");
    }
}

pub(crate) fn cancel_and_deadline_stop_an_unpack() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = small(dir.path());
    let token = CancelToken::new();
    token.cancel();
    let cancelled = store.unpack(&image).context(PullContext::new().with_cancel(&token));
    assert_eq!(cancelled.into_dir(dir.path().join("a")).unwrap_err().kind(), ErrorKind::Cancelled);
    let late = PullContext::new().with_deadline(std::time::Instant::now());
    let late = store.unpack(&image).context(late).into_dir(dir.path().join("b"));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
}

pub(crate) fn progress_counts_every_byte_and_layer() {
    #[derive(Default)]
    struct Count(AtomicU64, AtomicU64);
    impl Progress for Count {
        fn event(&self, event: &ProgressEvent) {
            match event {
                ProgressEvent::UnpackAdvanced { bytes, .. } => {
                    self.0.fetch_add(*bytes, Ordering::Relaxed);
                }
                ProgressEvent::LayerUnpacked { .. } => {
                    self.1.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let layers = [Blob::gzip(tar(&[file("a", vec![7; 300_000])])), Blob::gzip(tar(&[]))];
    let (store, image) = image(&dir.path().join("store"), &layers);
    let count = Arc::new(Count::default());
    let cx = PullContext::new().with_progress(count.clone());
    store.unpack(&image).context(cx).into_dir(dir.path().join("root")).unwrap();
    let bytes: u64 = layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    assert_eq!((count.0.load(Ordering::Relaxed), count.1.load(Ordering::Relaxed)), (bytes, 2));
}

pub(crate) fn owners_follow_the_setting() {
    let at = tempfile::tempdir().unwrap();
    let entries = [file("a", "x").owner(5, 6).mode(0o4755), dir("d").owner(0, 5)];
    let (store, image) = image(&at.path().join("store"), &[Blob::gzip(tar(&entries))]);
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = |root: &Path, name: &str| {
        let metadata = fs::metadata(root.join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    let current = at.path().join("current");
    store.unpack(&image).owners(Owners::Current).into_dir(&current).unwrap();
    assert_eq!((owner(&current, "a"), owner(&current, "d")), (me, me));
    assert_eq!(fs::metadata(current.join("a")).unwrap().mode() & 0o7777, 0o4755);

    let range = |image, disk, count| IdRange { image, disk, count };
    let mapped = at.path().join("mapped");
    let ranges = Owners::Mapped(vec![range(0, 100_000, 5), range(5, 200_000, 10)]);
    store.unpack(&image).owners(ranges).into_dir(&mapped).unwrap();
    assert_eq!(owner(&mapped, "a"), (200_000, 200_001));
    assert_eq!(owner(&mapped, "d"), (100_000, 200_000));
    let ranges = Owners::Mapped(vec![range(0, 100_000, 6)]);
    let error = store.unpack(&image).owners(ranges).into_dir(at.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
}

pub(crate) fn unsupported_attributes_are_counted() {
    let at = tempfile::tempdir().unwrap();
    let entries = [char_device("null", 1, 3), file("a", "x"), hard_link("zero", "null")];
    let (store, image) = image(&at.path().join("store"), &[Blob::gzip(tar(&entries))]);
    let root = at.path().join("root");
    let done = store.unpack(&image).devices(oci_puller::unpack::Devices::LeaveOut).into_dir(&root).unwrap();
    assert_eq!(done.left_out.devices, 1);
    assert!(!root.join("null").exists() && !root.join("zero").exists());
}

pub(crate) fn full_durability_makes_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = small(dir.path());
    for (at, singly) in [false, true].into_iter().enumerate() {
        let root = dir.path().join(format!("root-{at}"));
        let unpack = store.unpack(&image).durability(Durability::Full).flush_singly(singly);
        unpack.into_dir(&root).unwrap();
        assert_eq!(fs::read(root.join("b")).unwrap(), b"y");
    }
}

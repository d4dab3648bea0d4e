//! Removing images, and verifying what is there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::durable::sim::SimDisk;
use crate::store::{PrunePolicy, StoreBuilder, layout};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = store.images().unwrap().into_iter().flat_map(|image| image.names).collect();
    names.sort();
    names
}

fn has(store: &Store, blob: &Descriptor) -> bool {
    store.open_blob(&blob.digest).is_ok()
}

/// As if the blob had last been used `hours` ago.
fn age(store: &Store, digest: &Digest, hours: u64) {
    let file = std::fs::File::open(store.dir().join(layout::blob_path(digest))).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
}

#[test]
fn a_removed_image_takes_only_its_own_blobs_along() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    let one = TestImage::new("one", "1", &[b"shared", b"only one"]);
    let two = TestImage::new("two", "2", &[b"shared", b"only two"]);
    one.pull_into(&store).unwrap();
    two.pull_into(&store).unwrap();
    let removed = store.remove(&cx, "one").unwrap();
    assert_eq!((removed.names, removed.blobs), (vec!["one".to_owned()], 3));
    assert_eq!(names(&store), ["two"]);
    assert!(has(&store, &one.layers[0].0) && !has(&store, &one.layers[1].0));
    assert!(store.verify(&cx).unwrap().is_sound());
}

#[test]
fn an_image_pulled_by_its_own_manifest_is_used_and_removed_as_a_whole() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    let image = TestImage::new("name", "1", &[b"layer"]);
    image.pull_into(&store).unwrap();
    let naming = Naming {
        id: Some(image.config.0.digest.clone()),
        repo_digest: Some(format!("name@{}", image.manifest.0.digest)),
        ..Naming::default()
    };
    store
        .tag(&cx, &store.transaction(), std::slice::from_ref(&image.name), &image.manifest.0, &naming)
        .unwrap();
    let at_once = PrunePolicy::default().min_age(Duration::ZERO).thresholds(100, 100);
    assert_eq!(store.prune(&cx, &at_once).unwrap().blobs, 0);
    assert_eq!(store.remove(&cx, "name").unwrap().blobs, 3);
}

#[test]
fn a_name_goes_alone_and_a_digest_or_id_takes_all_names() {
    let cx = PullContext::new();
    for (key, left) in
        [("name", vec!["other:1"]), ("digest", vec![]), ("id", vec![]), ("absent", vec!["name", "other:1"])]
    {
        let (_dir, store) = store();
        let image = TestImage::new("name", "1", &[b"layer"]);
        image.pull_into(&store).unwrap();
        TestImage { name: "other:1".to_owned(), ..image.clone() }.pull_into(&store).unwrap();
        let key = match key {
            "digest" => image.manifest.0.digest.to_string(),
            "id" => image.config.0.digest.to_string(),
            name => name.to_owned(),
        };
        store.remove(&cx, &key).unwrap();
        assert_eq!(names(&store), left, "{key}");
        assert_eq!(has(&store, &image.layers[0].0), !left.is_empty(), "{key}");
    }
}

#[test]
fn blobs_that_a_pull_counts_on_are_not_removed_by_this_process_or_another() {
    let cx = PullContext::new();
    for other_opening in [false, true] {
        let (_dir, store) = store();
        let remover = if other_opening { Store::open(store.dir()).unwrap() } else { store.clone() };
        let old = TestImage::new("old", "1", &[b"shared"]);
        old.pull_into(&store).unwrap();
        let new = TestImage::new("new", "2", &[b"shared"]);
        let transaction = store.transaction();
        assert!(is_present(&store, &transaction, &new.layers[0].0));
        assert_eq!(remover.remove(&cx, "old").unwrap().blobs, 2);
        assert!(has(&store, &new.layers[0].0));
        for (blob, bytes) in new.blobs() {
            store.put(&cx, &transaction, blob, bytes).unwrap();
        }
        new.tag_in(&store, &cx, &transaction).unwrap();
        drop(transaction);
        let at_once = PrunePolicy::default().min_age(Duration::ZERO).thresholds(100, 100);
        assert_eq!(remover.prune(&cx, &at_once).unwrap().blobs, 0);
        assert_eq!(remover.remove(&cx, "new").unwrap().blobs, 3);
    }
}

#[test]
fn work_on_a_store_ends_with_its_context_and_changes_nothing() {
    let (_dir, store) = store();
    TestImage::new("a", "a", &[b"layer"]).pull_into(&store).unwrap();
    let token = CancelToken::new();
    token.cancel();
    let cx = &PullContext::new().with_cancel(&token);
    let outcomes = [
        ("images", store.images_with(cx).map(drop)),
        ("find", store.find_with(cx, "a").map(drop)),
        ("find what is not there", store.find_with(cx, "b").map(drop)),
        ("size", store.size_of(cx, "b").map(drop)),
        ("export", store.export(cx, "a", std::io::sink())),
        ("remove", store.remove(cx, "a").map(drop)),
        ("pin", store.pin(cx, "a", true).map(drop)),
        ("prune", store.prune(cx, &PrunePolicy::default()).map(drop)),
        ("verify", store.verify(cx).map(drop)),
    ];
    for (told, outcome) in outcomes {
        assert_eq!(kind(outcome), ErrorKind::Cancelled, "{told}");
    }
    assert_eq!(names(&store), ["a"]);
    assert!(!store.images().unwrap()[0].pinned);
}

#[test]
fn the_leases_of_a_process_that_died_hold_nothing() {
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"layer"]);
    image.pull_into(&store).unwrap();
    let left = store.dir().join(layout::LEASES).join("1-dead");
    std::fs::write(&left, format!("{}\n", image.layers[0].0.digest)).unwrap();
    assert_eq!(store.remove(&PullContext::new(), "a").unwrap().blobs, 3);
    assert!(!left.exists());
}

#[test]
fn pruning_by_age_takes_the_forgotten_but_not_the_pinned_or_the_new() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    let images = ["old", "pinned", "used", "new"].map(|name| TestImage::new(name, name, &[name.as_bytes()]));
    for image in &images {
        image.pull_into(&store).unwrap();
        if image.name != "new" {
            image.blobs().for_each(|(blob, _)| age(&store, &blob.digest, 48));
        }
    }
    assert!(store.pin(&cx, "pinned", true).unwrap());
    store.mark_used(&store.find("used").unwrap().unwrap()).unwrap();
    let policy = PrunePolicy::default().thresholds(100, 100).max_unused(Duration::from_secs(24 * 3600));
    let removed = store.prune(&cx, &policy).unwrap();
    assert_eq!((removed.names, removed.blobs), (vec!["old".to_owned()], 3));
    assert_eq!(names(&store), ["new", "pinned", "used"]);
    assert!(store.pin(&cx, "pinned", false).unwrap());
    assert_eq!(store.prune(&cx, &policy).unwrap().names, ["pinned"]);
}

#[test]
fn pruning_a_full_disk_takes_the_least_recently_used_first() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    for (hours, name) in [(1, "c"), (3, "a"), (2, "b")] {
        let image = TestImage::new(name, name, &[name.as_bytes()]);
        image.pull_into(&store).unwrap();
        age(&store, &image.manifest.0.digest, hours);
    }
    // No disk is filled less than nothing: all go, in order.
    let removed = store.prune(&cx, &PrunePolicy::default().thresholds(0, 0)).unwrap();
    assert_eq!(removed.names.len(), 3);
    let (_dir, store) = self::store();
    TestImage::new("young", "young", &[b"young"]).pull_into(&store).unwrap();
    assert_eq!(store.prune(&cx, &PrunePolicy::default().thresholds(0, 0)).unwrap().names.len(), 0);
}

#[test]
fn blobs_without_an_image_are_removed_once_they_are_old_enough() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"orphan"]);
    let (blob, bytes) = &image.layers[0];
    store.put(&cx, &store.transaction(), blob, bytes).unwrap();
    TestImage::new("b", "b", &[b"b"]).pull_into(&store).unwrap();
    assert_eq!(store.prune(&cx, &PrunePolicy::default().thresholds(100, 100)).unwrap().blobs, 0);
    age(&store, &blob.digest, 1);
    assert_eq!(store.prune(&cx, &PrunePolicy::default().thresholds(100, 100)).unwrap().blobs, 1);
}

#[test]
fn files_dated_in_the_future_age_from_the_first_prune_that_sees_them() {
    let cx = PullContext::new();
    let disk = SimDisk::new();
    let settings = StoreBuilder::new(PathBuf::new()).settings;
    let store = Store::open_on(Arc::new(disk.clone()), PathBuf::from("store"), settings).unwrap();
    let (image, orphan) = (TestImage::new("a", "a", &[b"a"]), TestImage::new("b", "b", &[b"b"]));
    image.pull_into(&store).unwrap();
    let (blob, bytes) = &orphan.layers[0];
    store.put(&cx, &store.transaction(), blob, bytes).unwrap();
    disk.date_files(SystemTime::now() + Duration::from_secs(1_000_000_000));
    let age = Duration::from_millis(5);
    let policy = PrunePolicy::default().thresholds(100, 100).max_unused(age);
    assert_eq!(store.prune(&cx, &policy).unwrap().blobs, 0, "the age is less than two minutes");
    assert!(store.images().unwrap()[0].last_used <= SystemTime::now());
    std::thread::sleep(2 * age);
    assert_eq!(store.prune(&cx, &policy.min_age(age)).unwrap().blobs, 4);
}

#[test]
fn verify_moves_damaged_blobs_aside_and_names_the_images_that_lack_them() {
    let cx = PullContext::new();
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"first", b"second", b"third"]);
    image.pull_into(&store).unwrap();
    let path = |at: usize| store.dir().join(layout::blob_path(&image.layers[at].0.digest));
    std::fs::remove_file(path(0)).unwrap();
    std::fs::write(path(0), b"FIRST").unwrap();
    std::fs::remove_file(path(1)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path(1)).unwrap();
    let report = store.verify(&cx).unwrap();
    let mut damaged = report.damaged.clone();
    let mut expected = vec![image.layers[0].0.digest.clone(), image.layers[1].0.digest.clone()];
    damaged.sort();
    expected.sort();
    assert_eq!(damaged, expected);
    assert_eq!(report.sound, 3);
    assert_eq!(report.incomplete.len(), 1);
    image.pull_into(&store).unwrap();
    assert!(store.verify(&cx).unwrap().is_sound());
}

#[test]
fn a_blob_that_is_a_link_is_an_error_and_not_followed() {
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"layer"]);
    image.pull_into(&store).unwrap();
    let path = store.dir().join(layout::blob_path(&image.layers[0].0.digest));
    let outside = store.dir().with_file_name("outside");
    std::fs::rename(&path, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    assert_eq!(kind(store.open_blob(&image.layers[0].0.digest)), ErrorKind::Store);
    assert_eq!(kind(image.pull_into(&store)), ErrorKind::Store);
}

#[test]
fn a_prune_loop_prunes_again_and_again_until_it_is_dropped() {
    let (_dir, store) = store();
    let put_orphan = |content: &[u8]| {
        let blob = Descriptor::new(media_type::OCI_LAYER, Digest::sha256(content), content.len() as u64);
        let path = store.dir().join(layout::blob_path(&blob.digest));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        age(&store, &blob.digest, 1);
        blob
    };
    let wait_until_gone = |blob: &Descriptor| {
        let begun_at = Instant::now();
        while has(&store, blob) {
            assert!(begun_at.elapsed() < Duration::from_secs(30), "the loop does not prune");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let policy = PrunePolicy::default().thresholds(100, 100);
    let (first, second) = (put_orphan(b"first"), put_orphan(b"second"));
    let prune_loop = store.prune_every(Duration::from_millis(1), policy.clone()).unwrap();
    wait_until_gone(&first);
    wait_until_gone(&second);
    wait_until_gone(&put_orphan(b"third"));
    drop(prune_loop);
    // A period without an end: the drop ends the wait.
    let prune_loop = store.prune_every(Duration::MAX, policy).unwrap();
    drop(prune_loop);
    assert!(has(&store, &put_orphan(b"fourth")));
}

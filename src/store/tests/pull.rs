//! A pull's way through the store, on the real disk.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::*;

use crate::store::{Durability, layout};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64)
}

#[test]
fn an_image_that_was_pulled_is_found_by_each_of_its_names_and_reads_back() {
    let (_dir, store) = store();
    let image = TestImage::new("docker.io/library/a:1", "a", &[b"layer one", b"layer two"]);
    image.pull_into(&store).unwrap();
    let repository_digest = format!("docker.io/library/a@{}", image.manifest.0.digest);
    let keys = [
        &image.name,
        &repository_digest,
        &image.manifest.0.digest.to_string(),
        &image.config.0.digest.to_string(),
    ];
    for key in keys {
        let found = store.find(key).unwrap().unwrap_or_else(|| panic!("{key} is not found"));
        assert_eq!(found.names, [&*image.name]);
        assert_eq!(found.id, image.config.0.digest);
        assert_eq!(found.size, image.blobs().map(|(blob, _)| blob.size).sum::<u64>());
    }
    assert_eq!(store.find("docker.io/library/a:2").unwrap(), None);
    let mut layer = Vec::new();
    store.open_blob(&image.layers[1].0.digest).unwrap().read_to_end(&mut layer).unwrap();
    assert_eq!(layer, b"layer two");
}

#[test]
fn a_blob_that_is_dropped_half_way_is_gone_on_from() {
    let (_dir, store) = store();
    let bytes = vec![7; 300_000];
    let (transaction, blob) = (store.transaction(), blob(&bytes));
    let mut ingest = fetch(&store, &transaction, &blob);
    ingest.write(&bytes[..200_000]).unwrap();
    drop(ingest);
    let other_opening = Store::open(store.dir()).unwrap();
    let mut ingest = fetch(&other_opening, &other_opening.transaction(), &blob);
    assert_eq!(ingest.offset(), 200_000);
    ingest.write(&bytes[200_000..]).unwrap();
    ingest.commit().unwrap();
}

#[test]
fn the_finished_blobs_of_a_failed_pull_get_their_names() {
    let (_dir, store) = store();
    let (transaction, blob) = (store.transaction(), blob(b"finished"));
    store.put(&PullContext::new(), &transaction, &blob, b"finished").unwrap();
    let pending = transaction.pending();
    drop(transaction);
    pending.iter().for_each(|commit| commit.wait_durable(&PullContext::new()).unwrap());
    assert!(store.open_blob(&blob.digest).is_ok());
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let [small, large] = [b"right".to_vec(), large(b"right")];
    for (durability, right, kept_of_a_part) in [
        (Durability::Full, &small, 3),
        (Durability::Full, &large, 3),
        (Durability::Relaxed, &small, 0),
        (Durability::Relaxed, &large, 3),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::builder(dir.path()).durability(durability).build().unwrap();
        let (transaction, blob) = (store.transaction(), blob(right));
        let wrong = [b"wrong", &right[5..]].concat();
        let more = [&right[..], b", and more"].concat();
        let cases = [
            (&wrong[..], ErrorKind::DigestMismatch, 0),
            (&right[..3], ErrorKind::SizeMismatch, kept_of_a_part),
            (&more, ErrorKind::SizeMismatch, 0),
        ];
        for (bytes, expected, kept) in cases {
            let told = format!("{} of {} bytes, {durability:?}", bytes.len(), right.len());
            let mut ingest = fetch(&store, &transaction, &blob);
            ingest.restart().unwrap();
            let outcome = ingest.write(bytes).and_then(|()| ingest.commit());
            assert_eq!(kind(outcome), expected, "{told}");
            drop(ingest);
            assert!(store.open_blob(&blob.digest).is_err(), "{told}");
            assert_eq!(fetch(&store, &transaction, &blob).offset(), kept, "{told}");
        }
    }
}

#[test]
fn what_another_process_brought_first_may_be_wrong_and_nothing_is_left_behind() {
    let (small, large) = (b"small".to_vec(), large(b"large"));
    for durability in [Durability::Full, Durability::Relaxed] {
        for (bytes, brought) in [(&small, &small[..]), (&small, b"shrt"), (&small, b"longer"), (&large, b"")]
        {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::builder(dir.path()).durability(durability).build().unwrap();
            let (transaction, wanted) = (store.transaction(), blob(bytes));
            let path = dir.path().join(layout::blob_path(&wanted.digest));
            let mut ingest = fetch(&store, &transaction, &wanted);
            ingest.write(bytes).unwrap();
            std::fs::write(&path, brought).unwrap();
            ingest.commit().unwrap();
            transaction.wait_durable(&PullContext::new()).unwrap();
            assert!(std::fs::read(&path).unwrap() == *bytes, "{durability:?}, {brought:?}");
            assert_eq!(std::fs::read_dir(dir.path().join(layout::PARTIALS)).unwrap().count(), 0);
        }
    }
}

#[test]
fn every_user_can_read_blobs_and_none_can_write_them() {
    for durability in [Durability::Full, Durability::Relaxed] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::builder(dir.path()).durability(durability).build().unwrap();
        TestImage::new("a", "a", &[b"small", &large(b"large")]).pull_into(&store).unwrap();
        for entry in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{durability:?}");
        }
    }
}

#[test]
fn a_short_or_empty_blob_is_seen_and_fetched_again() {
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"whole"]);
    let path = store.dir().join(layout::blob_path(&image.layers[0].0.digest));
    image.pull_into(&store).unwrap();
    for damaged in ["", "who"] {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, damaged).unwrap();
        image.pull_into(&store).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}

#[test]
fn a_descriptor_that_lies_about_its_size_takes_no_good_blob_away() {
    let (_dir, store) = store();
    let image = TestImage::new("a", "a", &[b"layer"]);
    image.pull_into(&store).unwrap();
    let mut lie = image.layers[0].0.clone();
    lie.size += 1;
    assert_eq!(kind(store.begin(&PullContext::new(), &store.transaction(), &lie)), ErrorKind::SizeMismatch);
    assert!(is_present(&store, &store.transaction(), &image.layers[0].0));
}

#[test]
fn who_wants_a_blob_that_another_fetches_waits_and_takes_over() {
    for other_opening in [false, true] {
        let (_dir, store) = store();
        let waiter = if other_opening { Store::open(store.dir()).unwrap() } else { store.clone() };
        let (transaction, wanted) = (store.transaction(), blob(&large(b"half and half")));
        let mut ingest = fetch(&store, &transaction, &wanted);
        ingest.write(b"half ").unwrap();
        let taken_over = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fetch(&waiter, &waiter.transaction(), &wanted).offset());
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waiting.is_finished());
            drop(ingest);
            waiting.join().unwrap()
        });
        assert_eq!(taken_over, 5);
    }
}

#[test]
fn a_wait_for_another_one_s_blob_ends_with_the_context() {
    for other_opening in [false, true] {
        let (_dir, store) = store();
        let waiter = if other_opening { Store::open(store.dir()).unwrap() } else { store.clone() };
        let wanted = blob(&large(b"bytes"));
        let _ingest = fetch(&store, &store.transaction(), &wanted);
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        let begun = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| waiter.begin(&cx, &waiter.transaction(), &wanted));
            std::thread::sleep(Duration::from_millis(30));
            let at = Instant::now();
            token.cancel();
            let begun = waiting.join().unwrap();
            assert!(at.elapsed() < Duration::from_secs(2));
            begun
        });
        assert_eq!(kind(begun), ErrorKind::Cancelled);
    }
}

#[test]
fn many_pulls_at_once_all_stand_in_the_index() {
    let (_dir, store) = store();
    let shared = Arc::new(vec![1; 5000]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, shared) = (&store, shared.clone());
            scope.spawn(move || {
                for turn in 0..20 {
                    let name = format!("image:{thread}-{turn}");
                    TestImage::new(&name, &name, &[&shared]).pull_into(store).unwrap();
                }
            });
        }
    });
    assert_eq!(Store::open(store.dir()).unwrap().images().unwrap().len(), 160);
}

#[test]
fn a_change_of_the_index_that_panics_harms_no_other() {
    let (_dir, store) = store();
    let cx = PullContext::new();
    let panicked =
        store.0.group_commit.change_index(&cx, Vec::new(), None, |_| panic!("a panic that is meant"));
    assert_eq!(kind(panicked), ErrorKind::Panicked);
    let image = TestImage::new("app:1", "1", &[b"layer"]);
    image.pull_into(&store).unwrap();
    assert!(store.find("app:1").unwrap().is_some());
}

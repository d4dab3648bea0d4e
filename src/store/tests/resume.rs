//! What a partial keeps: after SIGKILL, power loss, damage, a full disk, and from version 0.1.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::durable::sim::{SimDisk, Unflushed};
use crate::durable::{Disk, OpenMode};
use crate::store::settings::{FlushInterval, StoreSettings};
use crate::store::{ChunkedIngest, Durability, layout};

/// The blocks of these tests, bytes.
const BLOCK: usize = 1000;

/// Bytes of which no two blocks are alike.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at * at % 251) as u8).collect()
}

fn described(bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64)
}

/// Opens a store that flushes a partial after `flush_each` bytes, on its callers' own threads.
fn open(disk: &SimDisk, durability: Durability, flush_each: u64) -> Result<Store, Error> {
    let settings = StoreSettings {
        durability,
        has_threads: false,
        partial_flush: FlushInterval { bytes: flush_each, time: Duration::MAX },
        ..StoreSettings::default()
    };
    Store::open_on(Arc::new(disk.clone()), PathBuf::from("sim"), settings)
}

fn begin_in_chunks(store: &Store, blob: &Descriptor) -> Result<ChunkedIngest, Error> {
    match store.begin(&PullContext::new(), &store.transaction(), blob)? {
        BeginIngest::Fetch(ingest) => ingest.in_chunks(BLOCK as u64),
        BeginIngest::Present => panic!("the blob is there"),
    }
}

/// Writes two chunks side by side, in steps of `step` bytes, up to `len` bytes in all. Returns what came.
fn write_interleaved(
    shared: &ChunkedIngest,
    bytes: &[u8],
    step: usize,
    len: usize,
    came: &mut usize,
) -> Result<(), Error> {
    let mut chunks: Vec<_> = (0..2).filter_map(|_| shared.take()).collect();
    while *came < len && !chunks.is_empty() {
        for chunk in &mut chunks {
            let from = usize::try_from(chunk.next).unwrap();
            let to = usize::try_from(chunk.end).unwrap().min(from + step);
            shared.write(chunk, &bytes[from..to])?;
            *came += to - from;
        }
        for at in (0..chunks.len()).rev() {
            if chunks[at].next == chunks[at].end {
                shared.give_back(&chunks.remove(at))?;
                chunks.extend(shared.take());
            }
        }
    }
    chunks.iter().try_for_each(|chunk| shared.give_back(chunk))
}

/// Fetches what is missing, and commits. Returns how many bytes were missing.
fn complete(store: &Store, blob: &Descriptor, bytes: &[u8]) -> Result<u64, Error> {
    let shared = begin_in_chunks(store, blob)?;
    let missing = shared.open();
    while let Some(mut chunk) = shared.take() {
        let run = usize::try_from(chunk.next).unwrap()..usize::try_from(chunk.end).unwrap();
        shared.write(&mut chunk, &bytes[run])?;
        shared.give_back(&chunk)?;
    }
    shared.into_ingest()?.commit()?;
    Ok(missing)
}

fn partial(disk: &SimDisk, blob: &Descriptor) -> Box<dyn crate::durable::DiskFile> {
    disk.open(&layout::partial_path(&blob.digest), OpenMode::Update).unwrap()
}

#[test]
fn each_block_that_came_is_kept_when_the_ingest_is_dropped() {
    let bytes = content(20 * BLOCK + 123);
    let blob = described(&bytes);
    for (step, len) in [(100, 5_000), (BLOCK, 7_000), (333, 20_000), (2_500, 100)] {
        let disk = SimDisk::new();
        let store = open(&disk, Durability::Relaxed, u64::MAX).unwrap();
        let shared = begin_in_chunks(&store, &blob).unwrap();
        let mut came = 0;
        write_interleaved(&shared, &bytes, step, len, &mut came).unwrap();
        drop(shared);
        let missing = complete(&store, &blob, &bytes).unwrap();
        assert_eq!(missing, (bytes.len() - came) as u64, "{step}, {len}");
    }
}

#[test]
fn a_block_that_was_damaged_is_fetched_again_and_no_other() {
    let bytes = content(20 * BLOCK + 123);
    let blob = described(&bytes);
    for (damaged, lost) in [(0, BLOCK), (5 * BLOCK - 1, BLOCK), (bytes.len() - 1, 123)] {
        let disk = SimDisk::new();
        let store = open(&disk, Durability::Relaxed, u64::MAX).unwrap();
        let shared = begin_in_chunks(&store, &blob).unwrap();
        write_interleaved(&shared, &bytes, BLOCK, usize::MAX, &mut 0).unwrap();
        drop(shared);
        partial(&disk, &blob).write_at(&[!bytes[damaged]], damaged as u64).unwrap();
        assert_eq!(complete(&store, &blob, &bytes).unwrap(), lost as u64, "{damaged}");
    }
}

#[test]
fn a_wrong_entry_costs_its_block() {
    let bytes = content(20 * BLOCK);
    let blob = described(&bytes);
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Relaxed, u64::MAX).unwrap();
    let shared = begin_in_chunks(&store, &blob).unwrap();
    write_interleaved(&shared, &bytes, BLOCK, usize::MAX, &mut 0).unwrap();
    drop(shared);
    let entry = bytes.len() as u64 + 16 + 12 * 7;
    partial(&disk, &blob).write_at(&500_u64.to_le_bytes(), entry).unwrap();
    assert_eq!(complete(&store, &blob, &bytes).unwrap(), BLOCK as u64);
}

#[test]
fn partials_of_version_0_1_are_continued() {
    const MIB: usize = 1 << 20;
    let bytes = content(5 * MIB);
    let blob = described(&bytes);
    let pieces: Vec<u8> = [&b"pieces\0\x01"[..], &(MIB as u64).to_le_bytes(), &[1, 0, 1, 1, 0]].concat();
    for (what, file, missing) in [
        ("a prefix", bytes[..3 * MIB + 5].to_vec(), 2 * MIB - 5),
        ("all of it", bytes.clone(), 0),
        ("pieces", [&bytes[..], &pieces].concat(), 2 * MIB),
        ("a note that is cut short", [&bytes[..], &pieces[..18]].concat(), 4 * MIB),
        ("another blob's note", [&bytes[..], b"nothing that is known"].concat(), 5 * MIB),
    ] {
        for in_order in [false, true] {
            let disk = SimDisk::new();
            let store = open(&disk, Durability::Full, u64::MAX).unwrap();
            disk.open(&layout::partial_path(&blob.digest), OpenMode::Create)
                .unwrap()
                .write_at(&file, 0)
                .unwrap();
            if in_order {
                let transaction = store.transaction();
                let mut ingest = fetch(&store, &transaction, &blob);
                assert_eq!(ingest.missing(), missing as u64, "{what}");
                ingest.write(&bytes[usize::try_from(ingest.offset()).unwrap()..]).unwrap();
                ingest.commit().unwrap();
                transaction
                    .pending()
                    .iter()
                    .for_each(|commit| commit.wait_durable(&PullContext::new()).unwrap());
            } else {
                assert_eq!(complete(&store, &blob, &bytes).unwrap(), missing as u64, "{what}");
            }
            assert!(is_present(&store, &store.transaction(), &blob), "{what}");
        }
    }
}

#[test]
fn power_loss_takes_at_most_what_came_since_the_last_flush() {
    const FLUSH_EACH: usize = 5 * BLOCK;
    let bytes = content(24 * BLOCK + 1);
    let blob = described(&bytes);
    let download = |disk: &SimDisk, came: &mut usize| -> Result<(), Error> {
        let store = open(disk, Durability::Full, FLUSH_EACH as u64)?;
        let shared = begin_in_chunks(&store, &blob)?;
        write_interleaved(&shared, &bytes, BLOCK / 2, usize::MAX, came)?;
        shared.into_ingest()?.commit()
    };
    let whole = SimDisk::new();
    download(&whole, &mut 0).unwrap();
    let mut cuts = 0;
    for step in 0..=whole.steps() {
        let disk = SimDisk::new().cut_at(step);
        let mut came = 0;
        let _ = download(&disk, &mut came);
        for unflushed in [Unflushed::Lost, Unflushed::OnlyNames, Unflushed::OnlyContents, Unflushed::Kept] {
            let told = format!("cut at {step} of {}, {unflushed:?}, {came} came", whole.steps());
            let found = disk.after_power_cut(unflushed);
            let store = open(&found, Durability::Full, FLUSH_EACH as u64).unwrap();
            if is_present(&store, &store.transaction(), &blob) {
                continue;
            }
            let missing = complete(&store, &blob, &bytes).unwrap_or_else(|error| panic!("{told}: {error}"));
            // A flush is due at the first write of half a block after the interval, and may be cut itself.
            let since_flush = 2 * FLUSH_EACH + BLOCK;
            assert!(
                bytes.len() - usize::try_from(missing).unwrap() + since_flush >= came,
                "{told}: {missing}"
            );
            cuts += 1;
        }
        for seed in 0..8 {
            let told = format!("cut at {step}, by chance {seed}");
            let found = disk.after_power_cut(Unflushed::Chance(seed));
            let store = open(&found, Durability::Full, FLUSH_EACH as u64).unwrap();
            if is_present(&store, &store.transaction(), &blob) {
                continue;
            }
            match complete(&store, &blob, &bytes) {
                // A file that lost its note is taken for a prefix, once.
                Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                    complete(&store, &blob, &bytes).unwrap_or_else(|error| panic!("{told}: {error}"));
                }
                outcome => drop(outcome.unwrap_or_else(|error| panic!("{told}: {error}"))),
            }
        }
    }
    assert!(cuts > 100, "{cuts} cuts are too few to be all");
}

#[test]
fn a_partial_whose_flush_fails_is_not_used_again() {
    let bytes = content(24 * BLOCK);
    let blob = described(&bytes);
    let download = |disk: &SimDisk| -> Result<(), Error> {
        let store = open(disk, Durability::Full, 5 * BLOCK as u64)?;
        let shared = begin_in_chunks(&store, &blob)?;
        write_interleaved(&shared, &bytes, BLOCK, usize::MAX, &mut 0)?;
        shared.into_ingest()?.commit()
    };
    let whole = SimDisk::new();
    download(&whole).unwrap();
    for errno in [Errno::IO, Errno::NOSPC] {
        for step in 0..whole.steps() {
            let disk = SimDisk::new().fail_at(step, errno);
            let told = format!("{errno:?} at {step}: {:?}", download(&disk));
            // Once more, and then without power: what was answered is there.
            let store = open(&disk, Durability::Full, 5 * BLOCK as u64).unwrap();
            let transaction = store.transaction();
            store
                .put(&PullContext::new(), &transaction, &blob, &bytes)
                .unwrap_or_else(|e| panic!("{told}: {e}"));
            for commit in transaction.pending() {
                commit.wait_durable(&PullContext::new()).unwrap_or_else(|e| panic!("{told}: {e}"));
            }
            let found = disk.after_power_cut(Unflushed::Lost);
            let found = found.open(&layout::blob_path(&blob.digest), OpenMode::Read);
            let mut read = vec![0; bytes.len() + 1];
            assert_eq!(found.unwrap().read_at(&mut read, 0).unwrap(), bytes.len(), "{told}");
            assert!(read[..bytes.len()] == bytes, "{told}");
        }
    }
}

#[test]
fn a_full_disk_keeps_what_came() {
    let bytes = content(24 * BLOCK);
    let blob = described(&bytes);
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Full, u64::MAX).unwrap();
    let shared = begin_in_chunks(&store, &blob).unwrap();
    let mut came = 0;
    write_interleaved(&shared, &bytes, BLOCK, 6 * BLOCK, &mut came).unwrap();
    let mut chunk = shared.take().unwrap();
    disk.fill();
    let from = usize::try_from(chunk.next).unwrap();
    let error = shared.write(&mut chunk, &bytes[from..from + BLOCK]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    drop(shared);
    disk.empty();
    assert_eq!(complete(&store, &blob, &bytes).unwrap(), (bytes.len() - came) as u64);
}

#[test]
fn a_full_disk_gives_the_room_of_partials_that_no_pull_uses() {
    let [unused, wanted] = [content(24 * BLOCK), content(20 * BLOCK)];
    let disk = SimDisk::new();
    let store = open(&disk, Durability::Full, u64::MAX).unwrap();
    let left = begin_in_chunks(&store, &described(&unused)).unwrap();
    write_interleaved(&left, &unused, BLOCK, 8 * BLOCK, &mut 0).unwrap();
    drop(left);
    let transaction = store.transaction();
    let mut ingest = fetch(&store, &transaction, &described(&wanted));
    disk.fill();
    ingest.write(&wanted).unwrap();
    assert!(disk.metadata(&layout::partial_path(&described(&unused).digest)).is_err());
    ingest.commit().unwrap();
}

/// A store that may write so many bytes more.
fn store_with_free_space(bytes: u64) -> (SimDisk, Store) {
    let disk = SimDisk::new().of_size(1 << 20);
    open(&disk, Durability::Full, u64::MAX).unwrap();
    let reserve = Some(disk.space().unwrap().available - bytes);
    let settings = StoreSettings { reserve, has_threads: false, ..StoreSettings::default() };
    let store = Store::open_on(Arc::new(disk.clone()), PathBuf::from("sim"), settings).unwrap();
    (disk, store)
}

#[test]
fn pulls_that_begin_together_do_not_count_on_the_same_space() {
    let cx = PullContext::new();
    let [first, second, third] = [40, 41, 5].map(|blocks| content(blocks * BLOCK));
    let blobs = [&first, &second, &third].map(|bytes| described(bytes));
    let (_, store) = store_with_free_space(80_000);
    let reserve = |blobs: &[&Descriptor]| store.reserve_space(&cx, blobs);
    let held = reserve(&[&blobs[0]]).unwrap();
    let error = reserve(&[&blobs[1]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(error.to_string().contains("running pulls need 40.0 kB"), "{error}");
    // The same blob counts once, and what fits beside it does.
    drop((reserve(&[&blobs[0], &blobs[2]]).unwrap(), reserve(&[&blobs[0]]).unwrap()));
    // What was written is no longer counted on top of the space that it takes.
    complete(&store, &blobs[0], &first).unwrap();
    assert_eq!(store.0.reservations.total(), 0);
    drop(held);
    drop(reserve(&[&blobs[0], &blobs[2]]).unwrap());
    assert!(reserve(&[&blobs[1]]).is_err());
}

#[test]
fn a_pull_does_not_remove_its_own_partials_for_space() {
    let cx = PullContext::new();
    let [unused, wanted] = [content(30 * BLOCK), content(60 * BLOCK)];
    let (disk, store) = store_with_free_space(100_000);
    for bytes in [&wanted, &unused] {
        let left = begin_in_chunks(&store, &described(bytes)).unwrap();
        write_interleaved(&left, bytes, BLOCK, 20 * BLOCK, &mut 0).unwrap();
    }
    let _space = store.reserve_space(&cx, &[&described(&wanted)]).unwrap();
    assert!(disk.metadata(&layout::partial_path(&described(&wanted).digest)).is_ok());
}

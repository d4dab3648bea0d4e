//! Every workload cut at every operation, and every operation failing: I1 and I2 hold.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::*;
use crate::durable::sim::{SimDisk, Unflushed};
use crate::durable::{Disk, OpenMode, read_limited};
use crate::store::settings::StoreSettings;
use crate::store::{Durability, PrunePolicy, layout};

const OUTCOMES: [Unflushed; 7] = [
    Unflushed::Lost,
    Unflushed::OnlyNames,
    Unflushed::OnlyContents,
    Unflushed::Kept,
    Unflushed::Chance(1),
    Unflushed::Chance(2),
    Unflushed::Chance(3),
];

/// The images that must be there, and those that may be: what was being changed when it ended.
#[derive(Debug, Default)]
struct Promised {
    there: Vec<TestImage>,
}

type Workload = fn(&SimDisk, &mut Promised) -> Result<(), Error>;

fn open(disk: &SimDisk, has_threads: bool, durability: Durability) -> Result<Store, Error> {
    let settings = StoreSettings { durability, has_threads, ..StoreSettings::default() };
    Store::open_on(Arc::new(disk.clone()), PathBuf::from("sim"), settings)
}

fn images() -> [TestImage; 3] {
    let shared = large(b"the layer that is shared");
    [
        TestImage::new("one", "1", &[&shared, b"only one"]),
        TestImage::new("two", "2", &[&shared, b"only two"]),
        TestImage::new("one", "3", &[b"another one under the name of the first"]),
    ]
}

fn pull(store: &Store, image: &TestImage, promised: &mut Promised) -> Result<(), Error> {
    // While the name moves it may stand for either.
    promised.there.retain(|other| other.name != image.name);
    image.pull_into(store)?;
    promised.there.push(image.clone());
    Ok(())
}

fn pulls(disk: &SimDisk, promised: &mut Promised) -> Result<(), Error> {
    let store = open(disk, false, Durability::Full)?;
    images().iter().try_for_each(|image| pull(&store, image, promised))
}

fn pull_and_remove(disk: &SimDisk, promised: &mut Promised) -> Result<(), Error> {
    let (store, cx) = (open(disk, false, Durability::Full)?, PullContext::new());
    let [one, two, _] = images();
    pull(&store, &one, promised)?;
    pull(&store, &two, promised)?;
    promised.there.retain(|image| image.name != "one");
    store.remove(&cx, "one")?;
    pull(&store, &one, promised)?;
    promised.there.clear();
    store.prune(&cx, &PrunePolicy::default().min_age(std::time::Duration::ZERO).thresholds(0, 0)).map(drop)
}

fn resume(disk: &SimDisk, promised: &mut Promised) -> Result<(), Error> {
    let [one, ..] = images();
    let (layer, bytes) = &one.layers[0];
    let store = open(disk, false, Durability::Full)?;
    let transaction = store.transaction();
    if let BeginIngest::Fetch(mut ingest) = store.begin(&PullContext::new(), &transaction, layer)? {
        ingest.restart()?;
        ingest.write(&bytes[..10])?;
    }
    drop((store, transaction));
    let store = open(disk, false, Durability::Full)?;
    let transaction = store.transaction();
    if let BeginIngest::Fetch(mut ingest) = store.begin(&PullContext::new(), &transaction, layer)? {
        let offset = usize::try_from(ingest.offset()).unwrap();
        ingest.write(&bytes[offset..])?;
        ingest.commit()?;
    }
    pull(&store, &one, promised)
}

const WORKLOADS: [(&str, Workload); 3] =
    [("pulls", pulls), ("pull and remove", pull_and_remove), ("resume", resume)];

fn content(disk: &SimDisk, path: &str) -> Vec<u8> {
    read_limited(&*disk.open(path, OpenMode::Read).unwrap(), u64::MAX).unwrap()
}

fn overwrite(disk: &SimDisk, path: &str, text: &str) {
    let file = disk.open(path, OpenMode::Update).unwrap();
    file.set_len(0).unwrap();
    file.write_at(text.as_bytes(), 0).unwrap();
}

/// I1: no wrong bytes under a digest's name.
fn assert_no_wrong_bytes(disk: &SimDisk, told: &str) {
    for name in disk.read_dir("blobs/sha256").unwrap_or_default() {
        let path = format!("blobs/sha256/{name}");
        let bytes = content(disk, &path);
        assert_eq!(Digest::sha256(&bytes).hex(), name, "{told}: {path} holds {bytes:?}");
    }
}

/// I2: what was answered is there, and whole; the store is valid; and the next pull works.
fn assert_kept(disk: &SimDisk, promised: &Promised, told: &str) {
    let store = open(disk, false, Durability::Full).unwrap_or_else(|error| panic!("{told}: {error}"));
    for image in &promised.there {
        let found =
            store.find(&image.name).unwrap().unwrap_or_else(|| panic!("{told}: {} is gone", image.name));
        assert_eq!(found.manifest.digest, image.manifest.0.digest, "{told}");
        for (blob, bytes) in image.blobs() {
            let mut blob = store.open_blob(&blob.digest).unwrap_or_else(|error| panic!("{told}: {error}"));
            let mut found = Vec::new();
            std::io::Read::read_to_end(&mut blob, &mut found).unwrap();
            assert_eq!(&found, bytes, "{told}");
        }
    }
    let report = store.verify(&PullContext::new()).unwrap();
    assert!(report.is_sound(), "{told}: {report:?}");
    for image in images() {
        // What was lost of a partial shows at the end, once.
        match image.pull_into(&store) {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => image.pull_into(&store),
            outcome => outcome,
        }
        .unwrap_or_else(|error| panic!("{told}: the next pull: {error}"));
    }
    assert_no_wrong_bytes(disk, told);
}

/// What was pulled again after something had gone wrong is on the disk, whoever left it unflushed.
fn assert_next_pull_is_durable(disk: &SimDisk, told: &str) {
    let found = disk.after_power_cut(Unflushed::Lost);
    let [_, two, three] = images();
    assert_no_wrong_bytes(&found, told);
    assert_kept(&found, &Promised { there: vec![two, three] }, told);
}

/// Also when the killed process had done all but flush, so that the index needs no change.
fn assert_same_pull_is_durable(disk: &SimDisk, told: &str) {
    let store = open(disk, false, Durability::Full).unwrap();
    let standing = store.images().unwrap();
    for image in images()
        .into_iter()
        .filter(|image| standing.iter().any(|found| found.manifest.digest == image.manifest.0.digest))
    {
        image.pull_into(&store).unwrap();
        assert_kept(&disk.after_power_cut(Unflushed::Lost), &Promised { there: vec![image] }, told);
    }
}

#[test]
fn the_power_may_be_cut_and_the_process_killed_at_every_operation() {
    let mut cuts = 0;
    for (name, workload) in WORKLOADS {
        let whole = SimDisk::new();
        workload(&whole, &mut Promised::default()).unwrap();
        for step in 0..=whole.steps() {
            let disk = SimDisk::new().cut_at(step);
            let mut promised = Promised::default();
            let _ = workload(&disk, &mut promised);
            for unflushed in OUTCOMES {
                let told = format!("{name}, cut at {step}, {unflushed:?}");
                let found = disk.after_power_cut(unflushed);
                assert_no_wrong_bytes(&found, &told);
                assert_kept(&found, &promised, &told);
                cuts += 1;
            }
            let told = format!("{name}, killed at {step}");
            let killed = disk.after_kill();
            assert_kept(&killed, &promised, &told);
            assert_next_pull_is_durable(&killed, &told);
            assert_same_pull_is_durable(&disk.after_kill(), &told);
        }
    }
    assert!(cuts > 3000, "{cuts} cuts are too few to be all");
}

#[test]
#[ignore = "a storm: `OCI_PULLER_STORM_SECONDS` sets its time"]
fn storm_of_power_cuts_at_random_operations_of_a_store_that_recovers() {
    let seconds = std::env::var("OCI_PULLER_STORM_SECONDS").map_or(10, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (seed, mut cuts) = (fastrand::u64(..), 0u64);
    let mut random = fastrand::Rng::with_seed(seed);
    let steps = WORKLOADS.map(|(_, workload)| {
        let whole = SimDisk::new();
        workload(&whole, &mut Promised::default()).unwrap();
        whole.steps()
    });
    while Instant::now() < end {
        let at = random.usize(..WORKLOADS.len());
        let told = format!("seed {seed}, cut {cuts}, {}", WORKLOADS[at].0);
        let mut promised = Promised::default();
        let mut disk = SimDisk::new().cut_at(random.u64(..=steps[at]));
        let _ = WORKLOADS[at].1(&disk, &mut promised);
        // The next pulls are cut as well.
        for _ in 0..random.u8(..4) {
            disk = disk.after_power_cut(Unflushed::Chance(random.u64(..))).cut_at(random.u64(..100));
            let _ = pulls(&disk, &mut promised);
            cuts += 1;
        }
        assert_kept(&disk.after_power_cut(Unflushed::Chance(random.u64(..))), &promised, &told);
        cuts += 1;
    }
    println!("{cuts} power cuts");
}

#[test]
fn every_operation_may_fail_and_the_next_pull_works() {
    for (name, workload) in WORKLOADS {
        let whole = SimDisk::new();
        workload(&whole, &mut Promised::default()).unwrap();
        for step in 0..=whole.steps() {
            for errno in [Errno::IO, Errno::NOSPC] {
                let disk = SimDisk::new().fail_at(step, errno);
                let mut promised = Promised::default();
                let outcome = workload(&disk, &mut promised);
                let told = format!("{name}, {errno:?} at {step}: {outcome:?}");
                if let Err(error) = outcome {
                    assert!(matches!(error.kind(), ErrorKind::Store | ErrorKind::DiskFull), "{told}");
                }
                assert_no_wrong_bytes(&disk, &told);
                assert_kept(&disk, &promised, &told);
                assert_next_pull_is_durable(&disk, &told);
            }
        }
    }
}

#[test]
fn images_are_removed_from_a_full_disk_and_the_power_may_be_cut_meanwhile() {
    let [one, two, _] = images();
    let pulled = SimDisk::new();
    let store = open(&pulled, false, Durability::Full).unwrap();
    one.pull_into(&store).unwrap();
    two.pull_into(&store).unwrap();
    let work = |disk: &SimDisk| -> Result<(), Error> {
        disk.fill();
        let store = open(disk, false, Durability::Full)?;
        store.remove(&PullContext::new(), "one").map(drop)
    };
    let whole = pulled.after_kill();
    work(&whole).unwrap();
    let left = open(&whole, false, Durability::Full).unwrap().images().unwrap();
    assert_eq!(left.len(), 1);
    for step in 0..=whole.steps() {
        let disk = pulled.after_kill().cut_at(step);
        let _ = work(&disk);
        for unflushed in OUTCOMES {
            let told = format!("cut at {step}, {unflushed:?}");
            let found = disk.after_power_cut(unflushed);
            assert_no_wrong_bytes(&found, &told);
            assert_kept(&found, &Promised { there: vec![two.clone()] }, &told);
            // And full again: what the cut has left of the reserve is no part of the index.
            let found = disk.after_power_cut(unflushed);
            let outcome = open(&found, false, Durability::Full).and(work(&found));
            assert!(outcome.is_ok(), "{told}: {outcome:?}");
            assert_kept(&found.after_kill(), &Promised { there: vec![two.clone()] }, &told);
        }
    }
}

#[test]
fn only_a_removal_takes_the_reserve_of_a_full_disk() {
    let [one, two, three] = images();
    let disk = SimDisk::new();
    let store = open(&disk, false, Durability::Full).unwrap();
    for image in [&one, &two] {
        image.pull_into(&store).unwrap();
    }
    let transaction = store.transaction();
    for (blob, bytes) in three.blobs() {
        store.put(&PullContext::new(), &transaction, blob, bytes).unwrap();
    }
    transaction.wait_durable(&PullContext::new()).unwrap();
    disk.fill();
    let another = TestImage { name: "another".to_owned(), ..three };
    let error = another.tag_in(&store, &PullContext::new(), &transaction).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull);
    assert!(error.message().contains("and a file are needed"), "{error}");
    store.remove(&PullContext::new(), "one").unwrap();
}

#[test]
fn what_was_pulled_without_flushes_is_flushed_when_a_pull_counts_on_it() {
    let disk = SimDisk::new();
    let store = open(&disk, false, Durability::Full).unwrap();
    let unflushed = open(&disk, false, Durability::Relaxed).unwrap();
    let [one, ..] = images();
    one.pull_into(&unflushed).unwrap();
    one.pull_into(&store).unwrap();
    let found = disk.after_power_cut(Unflushed::Lost);
    assert_kept(&found, &Promised { there: vec![one] }, "pulled again, with flushes");
}

#[test]
fn what_is_flushed_is_not_replaced_by_what_is_not() {
    let disk = SimDisk::new();
    let store = open(&disk, false, Durability::Full).unwrap();
    let unflushed = open(&disk, false, Durability::Relaxed).unwrap();
    let [one, ..] = images();
    let (transaction, (blob, bytes)) = (unflushed.transaction(), &one.layers[1]);
    let mut late = fetch(&unflushed, &transaction, blob);
    late.write(bytes).unwrap();
    one.pull_into(&store).unwrap();
    late.commit().unwrap();
    for outcome in OUTCOMES {
        let promised = Promised { there: vec![one.clone()] };
        assert_kept(&disk.after_power_cut(outcome), &promised, &format!("{outcome:?}"));
    }
}

#[test]
fn a_reused_blob_whose_flush_fails_is_not_flushed_again_but_fetched() {
    let [one, ..] = images();
    let unflushed = SimDisk::new();
    one.pull_into(&open(&unflushed, false, Durability::Relaxed).unwrap()).unwrap();
    let whole = unflushed.after_kill();
    one.pull_into(&open(&whole, false, Durability::Full).unwrap()).unwrap();
    for step in 0..whole.steps() {
        let disk = unflushed.after_kill().fail_at(step, Errno::IO);
        let pull =
            |disk: &SimDisk| open(disk, false, Durability::Full).and_then(|store| one.pull_into(&store));
        let told = format!("failed at {step}: {:?}", pull(&disk));
        pull(&disk).unwrap_or_else(|error| panic!("{told}: {error}"));
        let found = disk.after_power_cut(Unflushed::Lost);
        assert_kept(&found, &Promised { there: vec![one.clone()] }, &told);
    }
}

#[test]
fn a_killed_process_leaves_a_valid_store_also_where_nothing_is_flushed() {
    let work = |disk: &SimDisk, promised: &mut Promised| -> Result<(), Error> {
        let store = open(disk, false, Durability::Relaxed)?;
        images().iter().try_for_each(|image| pull(&store, image, promised))
    };
    let whole = SimDisk::new();
    work(&whole, &mut Promised::default()).unwrap();
    for step in 0..=whole.steps() {
        let disk = SimDisk::new().cut_at(step);
        let mut promised = Promised::default();
        let _ = work(&disk, &mut promised);
        let found = disk.after_power_cut(Unflushed::Kept);
        assert_no_wrong_bytes(&found, &format!("killed at {step}"));
        assert_kept(&found, &promised, &format!("killed at {step}"));
    }
}

#[test]
fn a_store_of_which_nothing_was_flushed_opens_after_a_power_cut() {
    let made_long_ago = SimDisk::new();
    open(&made_long_ago, false, Durability::Full).unwrap();
    let work = |disk: &SimDisk| -> Result<(), Error> {
        let store = open(disk, false, Durability::Relaxed)?;
        images().iter().try_for_each(|image| image.pull_into(&store))
    };
    // No file system keeps a later name of a folder and loses an earlier one.
    let new = (SimDisk::new(), vec![Unflushed::Lost, Unflushed::OnlyNames, Unflushed::Kept]);
    let old = (made_long_ago, OUTCOMES.into_iter().chain((4..12).map(Unflushed::Chance)).collect());
    for (began_with, outcomes) in [new, old] {
        let whole = began_with.after_kill();
        work(&whole).unwrap();
        for step in 0..=whole.steps() {
            let disk = began_with.after_kill().cut_at(step);
            let _ = work(&disk);
            for unflushed in &outcomes {
                let told = format!("cut at {step}, {unflushed:?}");
                let found = disk.after_power_cut(*unflushed);
                let opened = open(&found, false, Durability::Relaxed).and_then(|store| store.images());
                opened.unwrap_or_else(|error| panic!("{told}: {error}"));
                assert!(open(&found, false, Durability::Full).is_ok(), "{told}");
            }
        }
    }
}

#[test]
fn what_is_unknown_or_being_written_is_not_taken_for_lost() {
    let index = r#"{"schemaVersion":3,"manifests":[]}"#;
    let cases: [(&str, &str, Option<Unflushed>, bool); 6] = [
        ("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#, Some(Unflushed::Kept), false),
        ("oci-layout", r#"{"imageLayout"#, Some(Unflushed::Kept), true),
        ("index.json", index, Some(Unflushed::Kept), false),
        ("index.json", &index[..20], Some(Unflushed::Kept), true),
        ("index.json", "", Some(Unflushed::Kept), true),
        ("index.json", "", None, false),
    ];
    for (path, text, power_cut, opens) in cases {
        let disk = SimDisk::new();
        open(&disk, false, Durability::Full).unwrap();
        overwrite(&disk, path, text);
        let disk = power_cut.map_or(disk.after_kill(), |unflushed| disk.after_power_cut(unflushed));
        let told = format!("{path}: {text}, {power_cut:?}");
        assert!(open(&disk, false, Durability::Full).is_err(), "{told}");
        assert_eq!(open(&disk, false, Durability::Relaxed).is_ok(), opens, "{told}");
        let kept = if opens && path == "index.json" { layout::LOST_INDEX } else { path };
        assert_eq!(content(&disk, kept) == text.as_bytes(), !(opens && path == "oci-layout"), "{told}");
    }
}

#[test]
fn a_store_that_has_lost_its_marker_keeps_its_images() {
    for (images_before, text) in [(1, None), (0, Some("{\"schemaVersion\":2"))] {
        let disk = SimDisk::new();
        let [one, ..] = images();
        one.pull_into(&open(&disk, false, Durability::Full).unwrap()).unwrap();
        disk.unlink("oci-layout").unwrap();
        if let Some(text) = text {
            overwrite(&disk, "index.json", text);
        }
        let found = open(&disk, false, Durability::Full).unwrap().images().unwrap();
        assert_eq!(found.len(), images_before, "{text:?}");
    }
}

#[test]
fn pulls_that_share_their_flushes_keep_what_they_promised() {
    for cut in (0..1200).step_by(7) {
        let disk = SimDisk::new().cut_at(cut);
        let Ok(store) = open(&disk, true, Durability::Full) else { continue };
        let there = std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..6)
                .map(|at| {
                    let store = &store;
                    scope.spawn(move || {
                        let image =
                            TestImage::new(&format!("image-{at}"), &at.to_string(), &[b"shared", &[at]]);
                        image.pull_into(store).ok().map(|()| image)
                    })
                })
                .collect();
            pulls.into_iter().filter_map(|pull| pull.join().unwrap()).collect()
        });
        let promised = Promised { there };
        for unflushed in OUTCOMES {
            let told = format!("shared, cut at {cut}, {unflushed:?}");
            let found = disk.after_power_cut(unflushed);
            assert_no_wrong_bytes(&found, &told);
            assert_kept(&found, &promised, &told);
        }
    }
}

#[test]
fn a_layout_whose_making_was_cut_short_is_taken_for_ours() {
    let disk = SimDisk::new();
    disk.create_dir(layout::OWN).unwrap();
    disk.create_dir(layout::BLOBS).unwrap();
    assert!(open(&disk, false, Durability::Full).is_ok());
}

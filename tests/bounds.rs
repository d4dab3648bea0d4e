//! Threads, connections and open files are bounded by the settings, at any number of requests.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::SOON;
use common::pulls::quick;
use common::threads::threads_named;
use crossbeam_channel::unbounded;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target};
use oci_puller::{ImagePuller, ParallelImagePuller, PullContext, PullRequest};

const IMAGES: usize = 60;
const PULLS: usize = 6;
const CONNECTIONS: usize = 5;
const BLOBS_PER_PULL: usize = 3;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn sixty_images_at_once_take_no_more_than_was_configured() {
    let registry = Registry::builder().max_connections(64).start().unwrap();
    let names: Vec<String> = (0..IMAGES)
        .map(|n| {
            let image =
                (0..6).fold(ImageBuilder::new(format!("app{n}")).seed(n as u64), |it, _| it.layer(2_000));
            registry.push(&image.build(), "v1")
        })
        .collect();
    registry.fault(Fault::on(Target::Blob).with(Action::Delay(Duration::from_millis(3))));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path())
        .connections_per_host(CONNECTIONS)
        .downloads_per_pull(BLOBS_PER_PULL)
        .build()
        .unwrap();
    let puller = ParallelImagePuller::new(service, Some(PULLS as i32)).unwrap();
    let before = open_files();
    let (is_done, most_threads, most_files) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                most_threads.fetch_max(threads_named("blob-"), Ordering::Relaxed);
                most_files.fetch_max(open_files(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let (results, answers) = unbounded();
        for name in &names {
            puller.pull_image(PullContext::new(), PullRequest::new(0, name.as_str()), results.clone());
        }
        let outcomes: Vec<_> = names.iter().map(|_| answers.recv_timeout(SOON)).collect();
        is_done.store(true, Ordering::Relaxed);
        outcomes.into_iter().for_each(|result| drop(result.unwrap().outcome.unwrap()));
    });
    let stats = registry.stats();
    assert!(stats.connections_accepted <= 2 * CONNECTIONS as u64, "{stats:?}");
    // The pull's own thread fetches, too.
    let threads = most_threads.into_inner();
    assert!(threads <= PULLS * (BLOBS_PER_PULL - 1), "{threads} threads");
    // Both ends of each connection are in this process; each blob has a file, and the store a few.
    let files = most_files.into_inner() - before;
    let allowed = 2 * 2 * CONNECTIONS + 4 * PULLS * BLOBS_PER_PULL + 16;
    assert!(files <= allowed, "{files} files, {allowed} allowed");
}

//! Images that share layers, pulled at the same time: each layer comes once, and who waits for another
//! pull's costs next to nothing.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use common::threads::threads_named;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Stage, Target};
use oci_puller::{CancelToken, ErrorKind, ImageService, PullContext, PullRequest, RegistryImageService};
use parking_lot::Mutex;

const SHARED: usize = 6;

/// The tests count this process's threads.
static ALONE: Mutex<()> = Mutex::new(());

/// Images of the same six layers and one of their own.
struct Family {
    registry: Registry,
    names: Vec<String>,
    /// Holds back the answers to questions for the shared layers.
    held: FaultHandle,
}

impl Family {
    fn of(count: usize) -> Self {
        let registry = Registry::builder().max_connections(64).start().unwrap();
        let mut shared = Vec::new();
        let names = (0..count).map(|n| {
            let image = ImageBuilder::new(format!("app{n}")).seed(n as u64).layer(3_000);
            let image = (0..SHARED).fold(image, |it, layer| it.layer_shared(layer as u64, 60_000)).build();
            shared = image.layers().iter().map(|layer| layer.digest.to_string()).skip(1).collect();
            registry.push(&image, "v1")
        });
        let names = names.collect();
        // A registry far enough away for several connections.
        registry.fault(Fault::anywhere().with(Action::Delay(Duration::from_millis(5))));
        let is_shared = move |path: &str| shared.iter().any(|digest| path.contains(digest.as_str()));
        let fault = Fault::on(Target::Blob).when(move |request| is_shared(&request.path));
        let held = registry.fault(fault.with(Action::Hold(Stage::BeforeHead)));
        Family { registry, names, held }
    }

    /// How often each shared layer was asked for, all together.
    fn asked(&self) -> u64 {
        self.held.fired()
    }

    /// Waits until the images' own layers and configs were asked for.
    fn wait_for_own(&self, images: usize) {
        let own = 2 * images as u64 + self.asked() + images as u64;
        assert!(self.registry.wait_until(|stats| stats.requests >= own, SOON), "{:?}", self.registry.stats());
    }
}

/// Lets go what is held also when a test fails: the threads of its pulls are waited for.
struct LetGo<'a>(&'a Family);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.held.release();
    }
}

fn service(dir: &Path) -> RegistryImageService {
    quick(dir).connections_per_host(32).downloads_per_pull(8).build().unwrap()
}

fn blob_threads() -> usize {
    threads_named("blob-")
}

#[test]
fn who_waits_for_the_layers_of_another_pull_has_no_threads_for_them() {
    let _alone = ALONE.lock();
    let family = Family::of(8);
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    // One for each layer and, in each of the other pulls, one that waits in place of the pull's own thread.
    let (allowed, mut threads) = (SHARED + family.names.len() - 1, 0);
    thread::scope(|scope| {
        let _let_go = LetGo(&family);
        let (first, others) = family.names.split_first().unwrap();
        let pull = |name: &String| drop(service.pull(name.as_str()).unwrap());
        scope.spawn(move || pull(first));
        assert!(family.held.wait_fired(SHARED as u64, SOON));
        for name in others {
            scope.spawn(move || pull(name));
        }
        family.wait_for_own(family.names.len());
        // Those that fetched what is their own end in a moment.
        let end = Instant::now() + SOON;
        while blob_threads() > allowed && Instant::now() < end {
            thread::yield_now();
        }
        threads = blob_threads();
    });
    assert!(threads <= allowed, "{threads} threads, {allowed} allowed");
    assert_eq!(family.asked(), SHARED as u64, "each layer comes once");
}

#[test]
fn when_the_pull_that_fetches_is_cancelled_the_one_that_waits_fetches_side_by_side() {
    let _alone = ALONE.lock();
    let family = Family::of(2);
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    let stop = CancelToken::new();
    thread::scope(|scope| {
        let _let_go = LetGo(&family);
        let cancelled = PullContext::new().with_cancel(&stop);
        let [first, second] = &family.names[..] else { unreachable!() };
        let service = &service;
        let first = scope.spawn(move || service.pull_image(&cancelled, &PullRequest::new(1, first.as_str())));
        assert!(family.held.wait_fired(SHARED as u64, SOON));
        let second = scope.spawn(move || service.pull(second.as_str()));
        family.wait_for_own(2);
        stop.cancel();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        // All are asked for, while not one of them is answered.
        assert!(family.held.wait_fired(2 * SHARED as u64, SOON), "{} questions", family.asked());
        family.held.release();
        let pulled = second.join().unwrap().unwrap();
        assert_eq!(pulled.bytes_reused, 0);
    });
}

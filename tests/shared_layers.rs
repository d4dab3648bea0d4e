//! Images that share layers, pulled at the same time: each layer is fetched once, and a pull that waits for another
//! pull's costs next to nothing.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use common::threads::threads_named;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Stage, Target};
use oci_puller::{CancelToken, ErrorKind, ImageService, PullContext, PullRequest, RegistryImageService};
use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;

const SHARED: usize = 6;

/// The tests count this process's threads.
static ALONE: Mutex<()> = Mutex::new(());

/// Images of the same six layers and one of their own, and a service to pull them with.
struct Family {
    registry: Registry,
    names: Vec<String>,
    /// Holds back the answers to questions for the shared layers.
    held: FaultHandle,
    service: RegistryImageService,
    _dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Family {
    fn of(count: usize) -> Self {
        let alone = ALONE.lock();
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
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).connections_per_host(32).downloads_per_pull(8).build().unwrap();
        Family { registry, names, held, service, _dir: dir, _alone: alone }
    }

    /// Lets go what is held at the end of `pulls`, also when that fails: its threads are waited for.
    fn scope<'e, T>(&'e self, pulls: impl for<'s> FnOnce(&'s Scope<'s, 'e>) -> T) -> T {
        struct LetGo<'a>(&'a FaultHandle);
        impl Drop for LetGo<'_> {
            fn drop(&mut self) {
                self.0.release();
            }
        }
        thread::scope(|scope| {
            let _let_go = LetGo(&self.held);
            pulls(scope)
        })
    }

    /// How often each shared layer was asked for, all together.
    fn asked(&self) -> u64 {
        self.held.fired()
    }

    /// Waits until each shared layer was requested this number of times.
    fn wait_for_shared(&self, times: usize) {
        assert!(self.held.wait_fired((times * SHARED) as u64, SOON), "{} questions", self.asked());
    }

    /// Waits until the images' own layers and configs were asked for.
    fn wait_for_own(&self) {
        let images = self.names.len() as u64;
        let own = 2 * images + self.asked() + images;
        assert!(self.registry.wait_until(|stats| stats.requests >= own, SOON), "{:?}", self.registry.stats());
    }
}

fn blob_threads() -> usize {
    threads_named("blob-")
}

#[test]
fn who_waits_for_the_layers_of_another_pull_has_no_threads_for_them() {
    let family = &Family::of(8);
    // One for each layer and, in each of the other pulls, one that waits in place of the pull's own thread.
    let allowed = SHARED + family.names.len() - 1;
    let threads = family.scope(|scope| {
        let (first, others) = family.names.split_first().unwrap();
        let pull = move |name: &String| drop(family.service.pull(name.as_str()).unwrap());
        scope.spawn(move || pull(first));
        family.wait_for_shared(1);
        for name in others {
            scope.spawn(move || pull(name));
        }
        family.wait_for_own();
        // Those that fetched what is their own end in a moment.
        let end = Instant::now() + SOON;
        while blob_threads() > allowed && Instant::now() < end {
            thread::yield_now();
        }
        blob_threads()
    });
    assert!(threads <= allowed, "{threads} threads, {allowed} allowed");
    assert_eq!(family.asked(), SHARED as u64, "each layer comes once");
}

#[test]
fn after_a_cancel_of_the_fetching_pull_the_waiting_one_fetches_in_parallel() {
    let family = &Family::of(2);
    let [first, second] = &family.names[..] else { unreachable!() };
    family.scope(|scope| {
        let stop = CancelToken::new();
        let cx = PullContext::new().with_cancel(&stop);
        let first = scope.spawn(move || family.service.pull_image(&cx, &PullRequest::new(1, first.as_str())));
        family.wait_for_shared(1);
        let second = scope.spawn(move || family.service.pull(second.as_str()));
        family.wait_for_own();
        stop.cancel();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        // All are asked for, while not one of them is answered.
        family.wait_for_shared(2);
        family.held.release();
        let pulled = second.join().unwrap().unwrap();
        assert_eq!(pulled.bytes_reused, 0);
    });
}

//! Many requests, many images, a registry that fails one request in ten: no state is left behind.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::clock::ManualClock;
use oci_puller::{
    CancelToken, EnsureRequest, Error, ErrorKind, ImageFsInfo, ImageInfo, ImageManager, ImageRef,
    ImageService, ImageSpec, PullContext, PullPolicy, PullRequest, PullSecret, PulledImage,
};

const THREADS: u64 = 64;
const IMAGES: u64 = 500;
const OWNERS: u64 = 20;

/// A registry that fails one request in ten, and a store that forgets.
#[derive(Default)]
struct Flaky {
    requests: AtomicU64,
}

impl ImageService for Flaky {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(7) {
            cx.sleep(Duration::from_micros(500))?;
        }
        assert!(!number.is_multiple_of(991), "a panic that is meant");
        if number.is_multiple_of(10) {
            return Err(Error::new(ErrorKind::Unavailable, "one in ten"));
        }
        Ok(PulledImage::new(ImageRef::new(request.image.image.clone())))
    }

    fn image_size(&self, _: &PullContext, _: &ImageSpec) -> Result<u64, Error> {
        Ok(42)
    }

    fn image_ref(&self, _: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        let is_there = self.requests.load(Ordering::Relaxed).is_multiple_of(3);
        Ok(is_there.then(|| ImageRef::new(image.image.clone())))
    }

    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        Ok(Vec::new())
    }

    fn remove_image(&self, _: &PullContext, _: &ImageSpec) -> Result<(), Error> {
        Ok(())
    }

    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        Ok(ImageFsInfo::default())
    }
}

/// Threads, and resident memory in KiB.
fn figures() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let number = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (number("Threads:"), number("VmRSS:"))
}

/// One asker's life: any image, any policy, sometimes secrets, sometimes no patience.
fn ask_until(manager: &ImageManager, end: Instant, seed: u64) -> u64 {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut asked = 0;
    while Instant::now() < end {
        let number = chance.u64(..IMAGES);
        let image = format!("r{}.io/app{number}:v1", number % 8);
        let policy =
            [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::PullIfPossible][chance.usize(..3)];
        let mut request = EnsureRequest::new(format!("pod-{}", chance.u64(..OWNERS)), image)
            .with_policy(policy)
            .with_priority(chance.i8(-3..3));
        if chance.u8(..4) == 0 {
            request = request.with_pull_secrets(vec![PullSecret::docker_config_json(vec![chance.u8(..3)])]);
        }
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        if chance.u8(..20) == 0 {
            let (results, answers) = crossbeam_channel::unbounded();
            manager.submit(cx, request, results);
            token.cancel();
            answers.recv_timeout(common::SOON).expect("one answer");
        } else {
            let _ = manager.ensure_image_exists(&cx, &request);
        }
        asked += 1;
    }
    asked
}

fn soak(duration: Duration) {
    let (clock, dir) = (Arc::new(ManualClock::new()), tempfile::tempdir().unwrap());
    let manager = ImageManager::builder(Flaky::default())
        .clock(Arc::clone(&clock))
        .qps(0.0)
        .max_parallel(8)
        .max_per_registry(3)
        .records(dir.path())
        .build()
        .unwrap();
    // Once, so that allocator and puller have what they need.
    run(&manager, &clock, duration / 10);
    let before = figures();
    let asked = run(&manager, &clock, duration);
    let after = figures();
    clock.advance(Duration::from_secs(3600));
    let metrics = manager.metrics();
    println!(
        "{asked} requests in {duration:?}; threads, KiB before {before:?}, after {after:?}; {metrics:?}"
    );
    assert!(asked > 1000, "{asked}");
    assert!(metrics.joined > 0 && metrics.back_offs > 0 && metrics.pulls_succeeded > 0);
    assert_eq!((metrics.queued, metrics.running, metrics.waiting), (0, 0, 0));
    assert_eq!((metrics.back_off_keys, metrics.registries), (0, 0));
    assert!(after.0 <= before.0 + 8, "threads: {before:?}, {after:?}");
    assert!(after.1 < before.1 + 16 * 1024, "memory: {before:?}, {after:?}");
    assert_eq!(fs::read_dir(dir.path().join("pulling")).unwrap().count(), 0);
    drop(manager);
    assert!(figures().0 <= before.0 - 5, "the manager's threads are gone");
}

fn run(manager: &ImageManager, clock: &ManualClock, duration: Duration) -> u64 {
    let end = Instant::now() + duration;
    thread::scope(|scope| {
        let askers: Vec<_> =
            (0..THREADS).map(|seed| scope.spawn(move || ask_until(manager, end, seed))).collect();
        // Time passes quickly, so that what failed comes back.
        let ticks = (0..).take_while(|_| Instant::now() < end);
        for _ in ticks {
            clock.advance(Duration::from_millis(200));
            thread::sleep(Duration::from_millis(20));
        }
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    })
}

#[test]
fn nothing_is_left_behind_in_seconds() {
    soak(Duration::from_secs(3));
}

#[test]
#[ignore = "takes a minute"]
fn nothing_is_left_behind_in_a_minute() {
    soak(Duration::from_secs(60));
}

//! Which failures are retried, and when.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::pulls::quick;
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Stage, Target};
use oci_puller::{ErrorKind, ImageService, PullContext, PullRequest};

fn image() -> Image {
    ImageBuilder::new("library/app").layer(5_000).build()
}

fn registry() -> (Registry, String) {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(), "v1");
    (registry, name)
}

fn busy(status: u16, retry_after: &str) -> Fault {
    Fault::on(Target::Manifest)
        .times(1)
        .with(Action::Status(status))
        .with(Action::header("Retry-After", retry_after))
}

#[test]
fn retry_after_is_followed_in_seconds_and_to_a_date_and_no_longer_than_the_caller_allows() {
    let in_two_seconds = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let long_ago = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
    let max = Duration::from_millis(700);
    for (status, retry_after, at_least, at_most) in [
        (429, &*in_two_seconds, 200, 5_000),
        (429, "0", 0, 500),
        (429, "3600", 700, 5_000),
        (503, "1", 700, 5_000),
        (429, &*long_ago, 0, 500),
        (429, "soon", 0, 500),
        // Not what it is for.
        (500, "nonsense", 0, 500),
    ] {
        let (registry, name) = registry();
        registry.fault(busy(status, retry_after));
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).max_retry_after(max).build().unwrap();
        let begin = Instant::now();
        service.pull(&*name).unwrap();
        let took = begin.elapsed().as_millis();
        assert!((at_least..at_most).contains(&took), "{status} {retry_after}: {took} ms");
    }
}

#[test]
fn the_gate_of_a_host_closes_for_every_pull_of_the_service() {
    let (registry, name) = registry();
    let other = registry.push(&ImageBuilder::new("library/other").layer(1_000).build(), "v1");
    let busy = registry.fault(busy(429, "3600"));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).max_retry_after(Duration::from_millis(600)).build().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| service.pull(&*name).unwrap());
        assert!(busy.wait_fired(1, common::SOON));
        // The refusal may not have been read yet.
        thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        service.pull(&*other).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_pull_whose_deadline_comes_before_the_gate_opens_says_so_at_once() {
    let (registry, name) = registry();
    registry.fault(Fault::anywhere().with(Action::Status(429)).with(Action::header("Retry-After", "60")));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).tries(1).max_retry_after(Duration::from_secs(60)).build().unwrap();
    assert_eq!(service.pull(&*name).unwrap_err().retry_after(), Some(Duration::from_secs(60)));
    let cx = PullContext::new().with_timeout(Duration::from_secs(10));
    let begin = Instant::now();
    let error = service.pull_image(&cx, &PullRequest::new(0, &*name)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(registry.stats().requests, 1, "a closed gate is not knocked at");
}

#[test]
fn what_cannot_change_is_not_tried_again() {
    for (status, kind) in [
        (400, ErrorKind::Protocol),
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
        (405, ErrorKind::Protocol),
        (410, ErrorKind::NotFound),
        (451, ErrorKind::Denied),
        (204, ErrorKind::Protocol),
        (300, ErrorKind::Protocol),
    ] {
        let (registry, name) = registry();
        let fault = registry.fault(Fault::on(Target::Manifest).with(Action::Status(status)));
        let dir = tempfile::tempdir().unwrap();
        let error = quick(dir.path()).build().unwrap().pull(&*name).unwrap_err();
        assert_eq!((error.kind(), fault.fired()), (kind, 1), "{status}: {error}");
        assert!(!error.is_retryable(), "{status}");
    }
}

#[test]
fn a_try_that_brought_a_mebibyte_does_not_count() {
    let registry = Registry::start().unwrap();
    let name = registry.push(&ImageBuilder::new("library/large").layer(12 << 20).build(), "v1");
    let cuts = registry.fault(Fault::on(Target::Blob).with(Action::Cut(2 << 20)));
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).tries(2).build().unwrap().pull(&*name).unwrap();
    assert!(cuts.fired() > 5);
}

/// A mirror and a registry of one image, and the image's name.
fn mirror_and_registry() -> (Registry, Registry, String) {
    let mirror = Registry::start().unwrap();
    mirror.push(&image(), "v1");
    let (registry, name) = registry();
    (mirror, registry, name)
}

#[test]
fn a_host_that_does_not_answer_is_left_for_one_that_was_not_asked_yet() {
    for target in [Target::Manifest, Target::Blob] {
        let (mirror, registry, name) = mirror_and_registry();
        mirror.fault(Fault::on(target).with(Action::Hold(Stage::BeforeHead)));
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path())
            .mirror(registry.host(), mirror.url())
            .failover_timeout(Duration::from_millis(200))
            .downloads_per_pull(1);
        service.build().unwrap().pull(&*name).unwrap();
        let asked = |requests: Vec<SeenRequest>| requests.iter().any(|request| request.target == target);
        assert!(asked(mirror.requests()) && asked(registry.requests()), "{target:?}");
    }
}

#[test]
fn a_slow_host_has_its_whole_time_in_the_last_round_and_where_it_is_the_only_one() {
    for target in [Target::Manifest, Target::Blob] {
        let slow = Action::Delay(Duration::from_millis(500));
        let failover = Duration::from_millis(150);
        let (mirror, registry, name) = mirror_and_registry();
        // The first round of each request meets a host that does not answer, and one that fails.
        registry.fault(Fault::on(target).with(Action::Status(503)));
        mirror.fault(Fault::on(target).with(slow.clone()));
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).mirror(registry.host(), mirror.url()).failover_timeout(failover);
        service.tries(2).downloads_per_pull(1).build().unwrap().pull(&*name).unwrap();

        let (registry, name) = self::registry();
        registry.fault(Fault::on(target).with(slow));
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).failover_timeout(failover).tries(1);
        service.build().unwrap().pull(&*name).unwrap();
    }
}

#[test]
fn delays_grow_up_to_the_cap() {
    struct Delays(Mutex<Vec<Duration>>);
    impl Progress for Delays {
        fn event(&self, event: &ProgressEvent) {
            if let ProgressEvent::Waiting { delay, reason, .. } = event {
                assert!(reason.contains("503"), "{reason}");
                self.0.lock().unwrap().push(*delay);
            }
        }
    }
    let (registry, name) = registry();
    registry.fault(Fault::on(Target::Manifest).with(Action::Status(503)));
    let dir = tempfile::tempdir().unwrap();
    let (base, cap) = (Duration::from_millis(10), Duration::from_millis(40));
    let service = quick(dir.path()).tries(6).retry_delay(base, cap).build().unwrap();
    let delays = Arc::new(Delays(Mutex::default()));
    let cx = PullContext::new().with_progress(delays.clone());
    let error = service.pull_image(&cx, &PullRequest::new(0, &*name)).unwrap_err();
    assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Unavailable, 6));
    let told = delays.0.lock().unwrap().clone();
    let longest = [10, 20, 40, 40, 40].map(Duration::from_millis);
    assert_eq!(told.len(), longest.len());
    for (delay, longest) in told.iter().zip(longest) {
        assert!((longest / 2..=longest).contains(delay), "{told:?}");
    }
}

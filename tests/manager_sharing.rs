//! One pull for many requests.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::SOON;
use common::node::{BOTH, Bench, Kind, error, id, secrets};
use crossbeam_channel::{bounded, unbounded};
use oci_puller::manager::{Event, EventReason, EventSink, ImageSource};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::{CancelToken, EnsureRequest, EnsuredImage, Error, ErrorKind, PullContext, PullPolicy};

const ASKERS: usize = 100;

/// A hundred threads ask; once all share the pull, it is let go. What each is answered.
fn crowd(bench: &Bench, image: &str) -> Vec<Result<EnsuredImage, Error>> {
    thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS)
            .map(|n| {
                let policy = [PullPolicy::IfNotPresent, PullPolicy::Always][n % 2];
                let request = EnsureRequest::new(format!("pod-{n}"), image).with_policy(policy);
                scope.spawn(move || bench.ensure(&request))
            })
            .collect();
        bench.events.wait_for(ASKERS, EventReason::Pulling);
        bench.node.open(1);
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    })
}

#[test]
fn a_hundred_threads_share_a_pull_and_its_success() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        for answer in crowd(&bench, "gate/app:v1") {
            let image = answer.unwrap();
            assert_eq!(image.image_ref, id("gate/app:v1"));
            assert!(matches!(image.source, ImageSource::Pulled { size: Some(42), .. }));
        }
        assert_eq!(bench.node.started.len(), 1, "{}", bench.name);
        assert_eq!(bench.manager.metrics().joined, ASKERS as u64 - 1);
        assert_eq!(bench.events.take_reasons(), ["Pulled"; ASKERS]);
    }
}

#[test]
fn they_share_its_failure_and_its_panic() {
    for (image, expected) in [("gate/app:v1", ErrorKind::NotFound), ("gate/panic:v1", ErrorKind::Panicked)] {
        for puller in BOTH {
            let bench = Bench::new(puller);
            bench.node.fail("gate/app:v1", error(ErrorKind::NotFound));
            for answer in crowd(&bench, image) {
                assert_eq!(answer.unwrap_err().kind(), expected, "{}", bench.name);
            }
            assert_eq!(bench.node.started.len(), 1, "{}", bench.name);
            assert_eq!(bench.manager.metrics().back_off_keys, ASKERS, "each owner has its own back-off");
            assert_eq!(bench.manager.metrics().waiting, 0);
        }
    }
}

#[test]
fn two_containers_of_a_pod_fail_once() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail("gate/app:v1", error(ErrorKind::Unavailable));
    let (results, answers) = unbounded();
    for id in 0..2 {
        let request = EnsureRequest::new("pod", "gate/app:v1").with_id(id);
        bench.manager.submit(PullContext::new(), request, results.clone());
    }
    bench.events.wait_for(2, EventReason::Pulling);
    bench.node.open(1);
    for _ in 0..2 {
        answers.recv_timeout(SOON).unwrap().outcome.unwrap_err();
    }
    bench.clock.advance(Duration::from_secs(10));
    bench.node.open(1);
    let outcome = bench.ensure(&EnsureRequest::new("pod", "gate/app:v1"));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable, "not held for 20 s");
}

#[test]
fn the_pull_goes_on_until_the_last_asker_has_gone() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        let (results, answers) = unbounded();
        let tokens: Vec<_> = (0..4).map(|_| CancelToken::new()).collect();
        for (n, token) in tokens.iter().enumerate() {
            let request = EnsureRequest::new("pod", "gate/app:v1").with_id(n as u64);
            bench.manager.submit(PullContext::new().with_cancel(token), request, results.clone());
            bench.events.wait_for(1, EventReason::Pulling);
        }
        // The event precedes the call of the service, which a cancel before it would prevent over CRI.
        bench.node.next_started();
        for (n, token) in tokens.iter().enumerate() {
            assert!(bench.node.ended.is_empty(), "{}: {n} have gone", bench.name);
            token.cancel();
            let answer = answers.recv_timeout(SOON).unwrap();
            assert_eq!((answer.id, answer.outcome.unwrap_err().kind()), (n as u64, ErrorKind::Cancelled));
        }
        let (_, outcome) = bench.node.ended.recv_timeout(SOON).unwrap();
        assert_eq!(outcome, Some(ErrorKind::Cancelled));
    }
}

#[test]
fn the_first_caller_may_leave_and_the_others_get_the_image() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        let (first, others) = (bounded(1), unbounded());
        let token = CancelToken::new();
        let request = || EnsureRequest::new("pod", "gate/app:v1");
        bench.manager.submit(PullContext::new().with_cancel(&token), request(), first.0);
        bench.events.wait_for(1, EventReason::Pulling);
        for _ in 0..5 {
            bench.manager.submit(PullContext::new(), request(), others.0.clone());
        }
        bench.events.wait_for(5, EventReason::Pulling);
        token.cancel();
        let answer = first.1.recv_timeout(SOON).unwrap();
        assert_eq!(answer.outcome.unwrap_err().kind(), ErrorKind::Cancelled);
        bench.node.open(1);
        for _ in 0..5 {
            others.1.recv_timeout(SOON).unwrap().outcome.unwrap();
        }
        assert_eq!(bench.node.started.len(), 1);
    }
}

#[test]
fn a_request_after_a_cancel_gets_its_own_pull() {
    let bench = Bench::new(Kind::Parallel(2));
    let (results, answers) = unbounded();
    let token = CancelToken::new();
    let request = || EnsureRequest::new("pod", "deaf/app:v1");
    bench.manager.submit(PullContext::new().with_cancel(&token), request(), results.clone());
    bench.events.wait_for(1, EventReason::Pulling);
    token.cancel();
    assert!(answers.recv_timeout(SOON).unwrap().outcome.is_err());
    bench.manager.submit(PullContext::new(), request(), results);
    bench.events.wait_for(1, EventReason::Pulling);
    bench.node.open(2);
    answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    assert_eq!(bench.node.started.len(), 2);
}

#[test]
fn a_deadline_ends_the_wait_of_one_caller_and_not_the_pull() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        let (results, answers) = unbounded();
        let request = || EnsureRequest::new("pod", "gate/app:v1");
        bench.manager.submit(PullContext::new(), request(), results.clone());
        bench.events.wait_for(1, EventReason::Pulling);
        let soon = PullContext::new().with_timeout(Duration::from_millis(20));
        bench.manager.submit(soon.clone(), request(), results);
        let answer = answers.recv_timeout(SOON).unwrap();
        assert_eq!(answer.outcome.unwrap_err().kind(), ErrorKind::Timeout);
        let here = bench.manager.ensure_image_exists(&soon, &request());
        assert_eq!(here.unwrap_err().kind(), ErrorKind::Timeout);
        bench.node.open(1);
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    }
}

#[test]
fn other_credentials_are_not_let_in_on_a_pull() {
    let bench = Bench::new(Kind::Parallel(3));
    let (results, answers) = unbounded();
    for content in ["a", "b"] {
        let request = EnsureRequest::new(content, "gate/app:v1").with_pull_secrets(secrets(content));
        bench.begin(request, &results);
    }
    // The same secrets, from another owner, share.
    let shares = EnsureRequest::new("c", "gate/app:v1").with_pull_secrets(secrets("a"));
    bench.manager.submit(PullContext::new(), shares, results);
    bench.events.wait_for(3, EventReason::Pulling);
    bench.node.open(2);
    for _ in 0..3 {
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    }
    assert!(bench.node.started.is_empty());
}

#[test]
fn when_its_turn_comes_an_asker_looks_again() {
    // policy, whether the second one's pull is needed after the first one's
    for (policy, is_needed) in [(PullPolicy::IfNotPresent, false), (PullPolicy::Always, true)] {
        let bench = Bench::new(Kind::Serial);
        let (results, answers) = unbounded();
        let request = |content| {
            let request = EnsureRequest::new(content, "gate/app:v1").with_policy(policy);
            request.with_pull_secrets(secrets(content))
        };
        bench.begin(request("a"), &results);
        bench.enqueue(request("b"), &results);
        bench.node.open(2);
        for _ in 0..2 {
            answers.recv_timeout(SOON).unwrap().outcome.unwrap();
        }
        assert_eq!(bench.node.started.len(), usize::from(is_needed), "{policy}");
    }
}

#[test]
fn after_a_failure_joined_requests_look_again() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail("gate/app:v1", error(ErrorKind::Unavailable));
    let (results, answers) = unbounded();
    for id in 0..2 {
        let request = EnsureRequest::new(format!("pod-{id}"), "gate/app:v1").with_id(id);
        bench.manager.submit(PullContext::new(), request, results.clone());
        bench.events.wait_for(1, EventReason::Pulling);
    }
    bench.node.add("gate/app:v1");
    bench.node.open(1);
    let mut outcomes: Vec<_> = (0..2).map(|_| answers.recv_timeout(SOON).unwrap()).collect();
    outcomes.sort_by_key(|answer| answer.id);
    assert!(outcomes[0].outcome.is_err());
    assert!(matches!(outcomes[1].outcome.as_ref().unwrap().source, ImageSource::Present));
}

#[test]
fn each_submitted_request_has_one_answer() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        let (results, answers) = unbounded();
        for id in 0..500 {
            let image = format!("app{}:v1", id % 50);
            let request = EnsureRequest::new(format!("pod-{id}"), image).with_id(id);
            bench.manager.submit(PullContext::new(), request, results.clone());
        }
        // A disconnected receiver is ignored.
        bench.manager.submit(PullContext::new(), EnsureRequest::new("gone", "app0:v1"), unbounded().0);
        drop(results);
        let mut ids: Vec<_> =
            answers.iter().map(|answer| answer.outcome.map(|_| answer.id).unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..500).collect::<Vec<_>>(), "{}", bench.name);
        assert!(bench.node.started.len() <= 50, "{}", bench.name);
    }
}

struct Panics(AtomicUsize);

impl EventSink for Panics {
    fn event(&self, _: &Event) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a sink's panic that is meant");
    }
}

impl Progress for Panics {
    fn event(&self, _: &ProgressEvent) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a watcher's panic that is meant");
    }
}

#[test]
fn panics_of_sinks_and_receivers_fail_no_pull() {
    for puller in BOTH {
        let sink = Arc::new(Panics(AtomicUsize::new(0)));
        let bench = Bench::with(puller, |builder| builder.events(Arc::clone(&sink)));
        let watcher = Arc::new(Panics(AtomicUsize::new(0)));
        let cx = PullContext::new().with_progress(Arc::clone(&watcher));
        bench.manager.ensure_image_exists(&cx, &EnsureRequest::new("pod", "app")).unwrap();
        assert_eq!((sink.0.load(Ordering::SeqCst), watcher.0.load(Ordering::SeqCst)), (2, 1));
    }
}

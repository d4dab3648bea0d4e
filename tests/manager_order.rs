//! Which pull is next: priority, age, limits, and pre-pulls.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::node::{Bench, Kind, error};
use common::{SOON, served};
use crossbeam_channel::unbounded;
use oci_puller::manager::{EventReason, ImageSource, ThrottleMode};
use oci_puller::{CancelToken, EnsureRequest, ErrorKind, ImageManager, PrepullRequest, PullContext};

const SECOND: Duration = Duration::from_secs(1);

fn request(image: &str, priority: i8) -> EnsureRequest {
    EnsureRequest::new("pod", image).with_priority(priority)
}

/// A manager over one worker, which is busy until the gate is opened once.
fn occupied() -> Bench {
    let bench = Bench::new(Kind::Serial);
    bench.begin(request("gate/occupied:v1", 0), &unbounded().0);
    bench
}

/// Opens the gate for one pull after the other: the order in which they begin.
fn order(bench: &Bench, count: usize) -> Vec<String> {
    let next = |_| {
        bench.node.open(1);
        bench.node.next_started()
    };
    let order = (0..count).map(next).collect();
    bench.node.open(1);
    order
}

#[test]
fn higher_priorities_go_first_and_equals_in_the_order_asked() {
    let bench = occupied();
    let (results, _answers) = unbounded();
    for (image, priority) in
        [("gate/a:v1", 0), ("gate/b:v1", 5), ("gate/c:v1", 0), ("gate/d:v1", -3), ("gate/e:v1", 5)]
    {
        bench.enqueue(request(image, priority), &results);
    }
    assert_eq!(order(&bench, 5), ["gate/b:v1", "gate/e:v1", "gate/a:v1", "gate/c:v1", "gate/d:v1"]);
}

#[test]
fn a_pull_goes_as_soon_as_the_most_urgent_of_its_askers_would() {
    let bench = occupied();
    let (results, _answers) = unbounded();
    bench.enqueue(request("gate/a:v1", 0), &results);
    bench.enqueue(request("gate/b:v1", -1), &results);
    bench.enqueue(request("gate/b:v1", 7), &results);
    assert_eq!(order(&bench, 2), ["gate/b:v1", "gate/a:v1"]);
}

#[test]
fn pulls_begin_in_the_order_of_their_requests_however_long_a_look_up_takes() {
    for kind in [Kind::Serial, Kind::Parallel(3)] {
        let bench = Bench::new(kind);
        let (results, _answers) = unbounded();
        bench.manager.submit(PullContext::new(), request("gate/held:v1", 0), results.clone());
        for image in ["gate/b:v1", "gate/c:v1"] {
            bench.enqueue(request(image, 0), &results);
        }
        bench.manager.submit(PullContext::new(), request("gate/urgent:v1", 1), results.clone());
        assert_eq!(
            bench.node.next_started(),
            "gate/urgent:v1",
            "{}: a higher priority waits for none",
            bench.name
        );
        // It looks again when its turn comes.
        (0..2).for_each(|_| bench.node.let_look());
        match kind {
            Kind::Serial => assert_eq!(order(&bench, 3), ["gate/held:v1", "gate/b:v1", "gate/c:v1"]),
            Kind::Parallel(_) => {
                let began: HashSet<_> = (0..2).map(|_| bench.node.next_started()).collect();
                assert_eq!(began, HashSet::from(["gate/held:v1".to_owned(), "gate/b:v1".to_owned()]));
                bench.node.open(4);
            }
        }
    }
}

#[test]
fn a_hanging_look_up_delays_later_requests_only_briefly() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = unbounded();
    let token = CancelToken::new();
    let cx = PullContext::new().with_cancel(&token);
    bench.manager.submit(cx, request("held:v1", 0), results.clone());
    bench.node.wait_for_looks(1);
    bench.ensure(&request("app:v1", 0)).expect("it is pulled without the other one");
    bench.node.add("there:v1");
    bench.ensure(&request("there:v1", 0)).expect("an image that is there waits for none");
    token.cancel();
    let answer = answers.recv_timeout(SOON).unwrap();
    assert_eq!(answer.outcome.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_cancel_and_a_deadline_reach_a_request_that_no_worker_has_come_to() {
    let bench = Bench::new(Kind::Serial);
    let token = CancelToken::new();
    for n in 0..4 {
        bench.manager.submit(PullContext::new(), request(&format!("held{n}:v1"), 0), unbounded().0);
    }
    bench.node.wait_for_looks(4);
    let (results, answers) = unbounded();
    let contexts = [
        (PullContext::new().with_cancel(&token), ErrorKind::Cancelled),
        (PullContext::new().with_timeout(Duration::from_millis(20)), ErrorKind::Timeout),
    ];
    for (cx, expected) in contexts {
        bench.manager.submit(cx, request("app:v1", 0), results.clone());
        if expected == ErrorKind::Cancelled {
            token.cancel();
        }
        let error = answers.recv_timeout(SOON).unwrap().outcome.unwrap_err();
        assert_eq!((error.kind(), error.image()), (expected, Some("app:v1")));
    }
    (0..4).for_each(|_| bench.node.let_look());
}

#[test]
fn the_wait_is_that_of_the_request_with_its_look_up() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = unbounded();
    bench.manager.submit(PullContext::new(), request("held:v1", 0), results);
    bench.node.wait_for_looks(1);
    bench.clock.advance(7 * SECOND);
    bench.node.let_look();
    let image = answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    let ImageSource::Pulled { wait_duration, .. } = image.source else { panic!("{image:?}") };
    assert_eq!(wait_duration, 7 * SECOND);
}

#[test]
fn no_request_starves_behind_more_urgent_ones() {
    let bench = occupied();
    let (results, _answers) = unbounded();
    bench.enqueue(request("gate/patient:v1", 0), &results);
    let mut began = Vec::new();
    for n in 0..6 {
        bench.enqueue(request(&format!("gate/urgent{n}:v1"), 3), &results);
        bench.node.open(1);
        began.push(bench.node.next_started());
        bench.clock.advance(10 * SECOND);
    }
    // Three levels of ten seconds; then age has made up for it.
    assert_eq!(began.iter().position(|image| image == "gate/patient:v1"), Some(3), "{began:?}");
    bench.node.open(9);
}

#[test]
fn a_slow_registry_does_not_take_every_token() {
    let bench = Bench::with(Kind::Parallel(3), |b| b.max_per_registry(2));
    let (results, answers) = unbounded();
    for n in 0..2 {
        bench.begin(request(&format!("slow.io/gate{n}:v1"), 0), &results);
    }
    for n in 2..5 {
        bench.enqueue(request(&format!("slow.io/gate{n}:v1"), 100), &results);
    }
    bench.ensure(&request("quick.io/app:v1", 0)).expect("a free token is for another registry");
    assert_eq!(bench.node.next_started(), "quick.io/app:v1");
    assert_eq!(bench.node.most_running.load(Ordering::SeqCst), 3);
    bench.node.open(5);
    for _ in 0..5 {
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    }
    assert_eq!(bench.manager.metrics().registries, 0);
}

#[test]
fn the_puller_is_handed_no_more_than_it_can_start() {
    for (kind, most) in [(Kind::Serial, 1), (Kind::Parallel(3), 3), (Kind::Parallel(0), 7)] {
        let bench = Bench::with(kind, |b| if most == 7 { b.max_parallel(7) } else { b });
        let (results, answers) = unbounded();
        for n in 0..most {
            bench.begin(request(&format!("gate/{n}:v1"), 0), &results);
        }
        for n in 0..20 {
            bench.enqueue(request(&format!("gate/queued{n}:v1"), 0), &results);
        }
        let metrics = bench.manager.metrics();
        assert_eq!(
            (metrics.running, metrics.queued, metrics.waiting),
            (most, 20, 20 + most),
            "{}",
            bench.name
        );
        bench.node.open(20 + most);
        for _ in 0..20 + most {
            answers.recv_timeout(SOON).unwrap().outcome.unwrap();
        }
        assert_eq!(bench.node.most_running.load(Ordering::SeqCst), most);
    }
}

#[test]
fn the_pulling_event_is_sent_when_the_pull_begins() {
    let bench = occupied();
    bench.events.wait_for(1, EventReason::Pulling);
    bench.enqueue(request("gate/queued:v1", 0), &unbounded().0);
    assert!(bench.events.take().is_empty());
    bench.clock.advance(7 * SECOND);
    bench.node.open(2);
    // The first one's end, and the second one's beginning and end.
    let events = (0..3).map(|_| bench.events.events.recv_timeout(SOON).unwrap());
    let queued: Vec<_> = events.filter(|event| event.image == "gate/queued:v1").collect();
    assert_eq!(queued[0].message, "Pulling image \"gate/queued:v1\"");
    assert!(queued[1].message.contains("(7"), "with the wait: {}", queued[1].message);
}

#[test]
fn a_request_that_left_the_queue_is_not_pulled() {
    let bench = occupied();
    let token = CancelToken::new();
    let (cx, seen) = common::node::Watch::context();
    let (results, answers) = unbounded();
    bench.manager.submit(cx.with_cancel(&token), request("gate/left:v1", 0), results.clone());
    assert_eq!(seen.recv_timeout(SOON), Ok("queued"));
    bench.enqueue(request("gate/stays:v1", -1), &results);
    token.cancel();
    assert_eq!(answers.recv_timeout(SOON).unwrap().outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(order(&bench, 1), ["gate/stays:v1"]);
}

#[test]
fn images_are_had_before_somebody_asks() {
    let bench = Bench::new(Kind::Parallel(3));
    bench.node.add("there:v1");
    bench.node.fail("missing:v1", error(ErrorKind::NotFound));
    let images = ["there:v1", "a:v1", "missing:v1", "b:v1", "http://no-name", "a:v1"];
    let summary = bench.manager.prepull(&PullContext::new(), &PrepullRequest::new("node", images));
    let pulled: HashSet<_> = summary.pulled.iter().chain(&summary.present).map(String::as_str).collect();
    assert_eq!(pulled, HashSet::from(["there:v1", "a:v1", "b:v1"]));
    let mut failed: Vec<_> =
        summary.failed.iter().map(|(image, error)| (image.as_str(), error.kind())).collect();
    failed.sort_unstable_by_key(|(image, _)| *image);
    assert_eq!(
        failed,
        [("http://no-name", ErrorKind::InvalidReference), ("missing:v1", ErrorKind::NotFound)]
    );
    assert_eq!(summary.bytes_fetched % 40, 0);
    assert_eq!(summary.pulled.len() + summary.present.len() + summary.failed.len(), 6);
}

#[test]
fn the_throttle_makes_them_wait_and_refuses_none() {
    let bench = Bench::with(Kind::Parallel(3), |b| b.qps(1.0).burst(1).throttle(ThrottleMode::Refuse));
    let request = PrepullRequest::new("node", ["a:v1", "b:v1", "c:v1"]);
    let summary = std::thread::scope(|scope| {
        let prepulled = scope.spawn(|| bench.manager.prepull(&PullContext::new(), &request));
        for _ in 0..2 {
            bench.clock.advance(bench.clock.waits.recv_timeout(SOON).unwrap());
        }
        prepulled.join().unwrap()
    });
    assert_eq!(summary.pulled.len(), 3, "{summary:?}");
}

#[test]
fn requests_with_a_waiting_caller_go_before_pre_pulls() {
    let bench = occupied();
    std::thread::scope(|scope| {
        let (cx, seen) = common::node::Watch::context();
        let bench = &bench;
        let prepulled =
            scope.spawn(move || bench.manager.prepull(&cx, &PrepullRequest::new("node", ["gate/later:v1"])));
        assert_eq!(seen.recv_timeout(SOON), Ok("queued"));
        bench.enqueue(request("gate/now:v1", 0), &unbounded().0);
        assert_eq!(order(bench, 2), ["gate/now:v1", "gate/later:v1"]);
        assert_eq!(prepulled.join().unwrap().pulled, ["gate/later:v1"]);
    });
}

#[test]
fn a_prepull_ends_with_its_context() {
    let bench = occupied();
    let token = CancelToken::new();
    token.cancel();
    let cx = PullContext::new().with_cancel(&token);
    let summary = bench.manager.prepull(&cx, &PrepullRequest::new("node", ["a:v1", "b:v1"]));
    assert!(summary.failed.iter().all(|(_, error)| error.kind() == ErrorKind::Cancelled));
    assert_eq!(summary.failed.len(), 2);
}

#[test]
fn a_manager_without_a_puller_makes_its_own() {
    let node = std::sync::Arc::new(common::node::Node::new());
    let manager = ImageManager::builder(served(&node)).build().unwrap();
    manager.ensure_image_exists(&PullContext::new(), &request("app:v1", 0)).unwrap();
    assert_eq!(node.next_started(), "app:v1");
}

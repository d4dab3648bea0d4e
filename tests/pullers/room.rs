//! The limits of running pulls and of waiting requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use oci_puller::puller::RejectReason;
use oci_puller::{CancelToken, ErrorKind, ImagePuller, ParallelImagePuller, PullContext, PullRequest};

use crate::common::SOON;
use crate::common::served;
use crate::common::service::Scripted;
use crate::common::threads::threads_named;
use crate::{Bench, both, kind, next};

#[test]
fn requests_start_in_the_order_asked_and_no_more_than_the_limit_at_a_time() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        let asked: Vec<String> = (0..9).map(|n| format!("gate/{n}")).collect();
        for (id, image) in asked.iter().enumerate() {
            bench.ask(id as u64, image, &results);
        }
        assert!(bench.service.started.is_empty(), "{}: nothing starts above the limit", bench.name);
        for expected in &asked {
            bench.service.open(1);
            assert_eq!(&bench.service.next_started(), expected, "{}", bench.name);
        }
        bench.service.open(bench.width);
        for _ in 0..asked.len() + bench.width {
            assert!(next(&answers).outcome.is_ok());
        }
        assert_eq!(bench.service.most_running.load(Ordering::SeqCst), bench.width, "{}", bench.name);
    }
}

#[test]
fn limits_below_one_mean_no_limit_and_too_large_ones_are_refused() {
    for limit in [None, Some(0), Some(-1), Some(i32::MIN)] {
        let service = Arc::new(Scripted::new());
        let puller = ParallelImagePuller::new(served(&service), limit).unwrap();
        let (results, answers) = unbounded();
        for id in 0..40 {
            puller.pull_image(PullContext::new(), PullRequest::new(id, "gate/x"), results.clone());
        }
        for _ in 0..40 {
            service.next_started();
        }
        assert_eq!(service.running.load(Ordering::SeqCst), 40, "limit {limit:?}");
        service.open(40);
        assert!((0..40).all(|_| next(&answers).outcome.is_ok()));
    }
    // As callers write a limit.
    assert_eq!(ParallelImagePuller::new(Scripted::new(), 4).unwrap().capacity(), Some(4));
    assert_eq!(ParallelImagePuller::new(Scripted::new(), Some(4)).unwrap().capacity(), Some(4));
    assert_eq!(ParallelImagePuller::new(Scripted::new(), None).unwrap().capacity(), None);
    let builder = ParallelImagePuller::builder(Scripted::new()).max_parallel_image_pulls(4);
    assert_eq!(builder.build().unwrap().capacity(), Some(4));
    assert!(ParallelImagePuller::new(Scripted::new(), 4096).is_ok());
    let error = ParallelImagePuller::new(Scripted::new(), Some(4097)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("4097"), "{error}");
}

#[test]
fn ten_thousand_requests_at_a_limit_of_four_are_four_threads() {
    let service = Arc::new(Scripted::new());
    let puller = ParallelImagePuller::new(served(&service), Some(4)).unwrap();
    let (results, answers) = unbounded();
    for id in 0..10_000 {
        puller.pull_image(PullContext::new(), PullRequest::new(id, "named/one-of-four"), results.clone());
    }
    (0..4).for_each(|_| drop(service.next_started()));
    let stats = puller.stats();
    assert_eq!((stats.queued, stats.running, stats.threads), (9_996, 4, 4));
    assert_eq!(threads_named("one-of-four"), 4);
    service.open(10_000);
    let mut ids: Vec<u64> = (0..10_000).map(|_| next(&answers).id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..10_000));
    assert_eq!(puller.stats().succeeded, 10_000);
}

#[test]
fn a_full_queue_returns_the_request() {
    let service = Arc::new(Scripted::new());
    let puller = ParallelImagePuller::builder(served(&service))
        .max_parallel_image_pulls(Some(1))
        .max_queued(2)
        .build()
        .unwrap();
    let (results, answers) = unbounded();
    for id in 0..3 {
        puller.try_pull_image(PullContext::new(), PullRequest::new(id, "gate/x"), results.clone()).unwrap();
    }
    service.next_started();
    let full =
        puller.try_pull_image(PullContext::new(), PullRequest::new(3, "x"), results.clone()).unwrap_err();
    assert_eq!(full.reason(), RejectReason::Full);
    puller.pull_image(PullContext::new(), PullRequest::new(4, "x"), results);
    assert_eq!(kind(&next(&answers)), Some(ErrorKind::ResourceExhausted));
    service.open(3);
    assert!((0..3).all(|_| next(&answers).outcome.is_ok()));
}

#[test]
fn the_twelfth_caller_of_the_serial_puller_waits_until_there_is_room() {
    let bench = Bench::serial();
    let (results, answers) = unbounded();
    bench.occupy(&results);
    for id in 0..10 {
        bench.ask(id, "alpine", &results);
    }
    let rejected = bench
        .puller
        .try_pull_image(PullContext::new(), PullRequest::new(77, "given/back"), results.clone())
        .unwrap_err();
    assert_eq!(rejected.reason(), RejectReason::Full);
    assert_eq!(rejected.into_parts().1.id, 77);

    let (returned, has_returned) = bounded(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            bench.ask(12, "alpine", &results);
            returned.send(()).unwrap();
        });
        while bench.puller.stats().waiting == 0 {
            thread::yield_now();
        }
        assert!(has_returned.is_empty());
        assert_eq!((bench.puller.stats().queued, bench.puller.stats().running), (10, 1));
        bench.service.open(1);
        has_returned.recv_timeout(SOON).expect("the twelfth comes in");
    });
    let ids: Vec<u64> = (0..12).map(|_| next(&answers).id).collect();
    assert_eq!(ids, [1000, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12]);
}

#[test]
fn a_caller_that_waits_for_room_is_freed_by_cancel_deadline_and_shutdown() {
    type End = fn(&Bench, &CancelToken);
    let ends: [(&str, End, ErrorKind); 3] = [
        ("cancel", |_, token| token.cancel(), ErrorKind::Cancelled),
        ("deadline", |_, _| {}, ErrorKind::Timeout),
        ("shutdown", |bench, _| bench.puller.shutdown(Duration::ZERO), ErrorKind::ShutDown),
    ];
    for (name, end, expected) in ends {
        let bench = Bench::serial();
        let (others, _keep) = unbounded();
        bench.occupy(&others);
        for id in 0..10 {
            bench.ask(id, "alpine", &others);
        }
        let token = CancelToken::new();
        let mut cx = PullContext::new().with_cancel(&token);
        if name == "deadline" {
            cx = cx.with_timeout(Duration::from_millis(50));
        }
        let (results, answers) = unbounded();
        thread::scope(|scope| {
            scope.spawn(|| bench.puller.pull_image(cx, PullRequest::new(12, "alpine"), results));
            while name != "deadline" && bench.puller.stats().waiting == 0 {
                thread::yield_now();
            }
            end(&bench, &token);
        });
        assert_eq!(kind(&next(&answers)), Some(expected), "{name}");
        assert!(answers.recv_timeout(SOON).is_err_and(|error| error == RecvTimeoutError::Disconnected));
    }
}

#[test]
fn a_place_in_the_serial_queue_stays_taken_until_the_worker_comes_to_it() {
    type Leaving = fn(PullContext, &CancelToken) -> PullContext;
    let ways: [(Leaving, ErrorKind); 2] = [
        (|cx, token| cx.with_cancel(token), ErrorKind::Cancelled),
        (|cx, _| cx.with_timeout(Duration::from_millis(100)), ErrorKind::Timeout),
    ];
    for (leaving, expected) in ways {
        let bench = Bench::serial();
        let (results, answers) = unbounded();
        bench.occupy(&results);
        let token = CancelToken::new();
        for id in 0..10 {
            let cx = if id < 3 { leaving(PullContext::new(), &token) } else { PullContext::new() };
            bench.puller.pull_image(cx, PullRequest::new(id, "alpine"), results.clone());
        }
        token.cancel();
        for id in 0..3 {
            let result = next(&answers);
            assert_eq!((result.id, kind(&result)), (id, Some(expected)), "answered at once");
        }
        let full = bench
            .puller
            .try_pull_image(PullContext::new(), PullRequest::new(77, "alpine"), results.clone())
            .unwrap_err();
        assert_eq!(full.reason(), RejectReason::Full);
        assert_eq!(bench.puller.stats().queued, 10);
        bench.service.open(1);
        (0..8).for_each(|_| assert!(next(&answers).outcome.is_ok()));
        bench.ask(10, "alpine", &results);
        assert_eq!(next(&answers).id, 10);
    }
}

#[test]
fn callers_that_wait_for_room_come_in_in_the_order_asked() {
    let bench = Bench::serial();
    let (results, answers) = unbounded();
    bench.occupy(&results);
    (0..10).for_each(|id| bench.ask(id, "alpine", &results));
    let token = CancelToken::new();
    thread::scope(|scope| {
        for id in 10..18 {
            let (bench, results, token) = (&bench, &results, &token);
            scope.spawn(move || {
                // Every other one gives up while it waits, the first among them.
                let cx = if id % 2 == 0 { PullContext::new().with_cancel(token) } else { PullContext::new() };
                bench.puller.pull_image(cx, PullRequest::new(id, "alpine"), results.clone());
            });
            while (bench.puller.stats().waiting as u64) < id - 9 {
                thread::yield_now();
            }
            // Waits until it is queued. No event reports it.
            thread::sleep(Duration::from_millis(10));
        }
        token.cancel();
        while bench.puller.stats().waiting > 4 {
            thread::yield_now();
        }
        bench.service.open(1);
    });
    let results: Vec<_> = (0..19).map(|_| next(&answers)).collect();
    let (pulled, cancelled): (Vec<_>, Vec<_>) = results.iter().partition(|result| result.outcome.is_ok());
    let pulled: Vec<u64> = pulled.iter().map(|result| result.id).collect();
    assert_eq!(pulled, [1000, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 17]);
    assert!(cancelled.iter().all(|result| kind(result) == Some(ErrorKind::Cancelled)));
}

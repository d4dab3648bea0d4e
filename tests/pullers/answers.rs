//! One result for each request, on every outcome, and the time of its delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use oci_puller::clock::Clock;
use oci_puller::{
    CancelToken, ErrorKind, ImagePuller, ParallelImagePuller, PodSandboxConfig, PullContext, PullRequest,
    PullSecret, SerialImagePuller,
};
use proptest::prelude::*;

use crate::common::served;
use crate::common::service::Scripted;
use crate::{assert_silent, both, kind, next};

#[test]
fn each_outcome_of_the_service_becomes_one_result() {
    // image, kind of error, ref, size, whether the size was asked for
    let table = [
        ("alpine", None, "id of alpine", Some(42), true),
        ("fail/alpine", Some(ErrorKind::NotFound), "", None, false),
        ("panic/alpine", Some(ErrorKind::Panicked), "", None, false),
        ("anonymous/alpine", None, "", None, false),
        ("sizeless/alpine", None, "id of sizeless/alpine", None, true),
        ("sizepanic/alpine", None, "id of sizepanic/alpine", None, true),
    ];
    for (image, error, image_ref, size, asked) in table {
        for bench in both() {
            let (results, answers) = unbounded();
            bench.ask(7, image, &results);
            let result = next(&answers);
            assert_eq!((result.id, result.image.image.as_str()), (7, image), "{}", bench.name);
            assert_eq!(kind(&result), error, "{}: {image}", bench.name);
            match &result.outcome {
                Ok(pulled) => assert_eq!(pulled.image_ref.as_str(), image_ref),
                Err(error) => assert_eq!(error.image(), Some(image), "the error names the image"),
            }
            assert_eq!(result.image_size, size, "{}: {image}", bench.name);
            assert_eq!(
                bench.service.size_asked.load(Ordering::SeqCst) == 1,
                asked,
                "{}: {image}",
                bench.name
            );
            assert_silent(&answers);
        }
    }
}

#[test]
fn a_result_gives_the_request_back_whole() {
    let cancelled = CancelToken::new();
    cancelled.cancel();
    for bench in both() {
        for (image, cx) in [
            ("alpine", PullContext::new()),
            ("fail/alpine", PullContext::new()),
            ("alpine", PullContext::new().with_cancel(&cancelled)),
        ] {
            let secret = PullSecret::docker_config_json("{}");
            let request = PullRequest::new(7, image)
                .with_pull_secrets([secret])
                .with_pod_sandbox_config(PodSandboxConfig::default())
                .with_artifact_type("text/plain");
            let asked = format!("{request:?}");
            let (results, answers) = unbounded();
            bench.puller.pull_image(cx, request, results);
            let request = next(&answers).into_request();
            assert_eq!(format!("{request:?}"), asked);
            assert_eq!(request.pull_secrets[0].data[".dockerconfigjson"].as_bytes(), b"{}");
        }
    }
}

#[test]
fn the_wait_and_the_pull_are_measured_apart() {
    const A_WHILE: Duration = Duration::from_millis(60);
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        bench.ask(1, "alpine", &results);
        thread::sleep(A_WHILE);
        bench.service.open(bench.width);
        for result in (0..=bench.width).map(|_| next(&answers)) {
            let (long, short) = match result.id {
                1 => (result.wait_duration, result.pull_duration),
                _ => (result.pull_duration, result.wait_duration),
            };
            assert!(long >= A_WHILE && short < long, "{}: {result:?}", bench.name);
        }
    }
}

#[test]
fn the_token_is_held_until_the_result_was_taken() {
    for bench in both() {
        let (results, answers) = bounded(0);
        for id in 0..bench.width as u64 {
            bench.ask(id, "first", &results);
            assert_eq!(bench.service.next_started(), "first");
        }
        bench.ask(99, "second", &results);
        assert!(
            bench.service.started.recv_timeout(Duration::from_millis(40)).is_err(),
            "{}: nothing begins while a result is in hand",
            bench.name
        );
        next(&answers);
        assert_eq!(bench.service.next_started(), "second", "{}", bench.name);
        (0..bench.width).for_each(|_| drop(next(&answers)));
    }
}

#[test]
fn a_disconnected_receiver_is_ignored() {
    for bench in both() {
        let (results, answers) = bounded(0);
        drop(answers);
        bench.ask(1, "alpine", &results);
        bench.ask(2, "panic/alpine", &results);
        let (results, answers) = unbounded();
        bench.ask(3, "alpine", &results);
        assert!(next(&answers).outcome.is_ok(), "{}", bench.name);
    }
}

#[test]
fn a_thread_that_cannot_be_started_is_answered_for() {
    // More stack than an address space has: the kernel refuses.
    const TOO_MUCH: usize = 1 << 50;
    let serial = SerialImagePuller::builder(Scripted::new()).stack_size(TOO_MUCH).build();
    assert_eq!(serial.unwrap_err().kind(), ErrorKind::ResourceExhausted, "its worker starts with it");
    for limit in [None, Some(1), Some(3)] {
        let puller = ParallelImagePuller::builder(Scripted::new())
            .max_parallel_image_pulls(limit)
            .stack_size(TOO_MUCH)
            .build()
            .unwrap();
        let (results, answers) = unbounded();
        for id in 0..25 {
            puller.pull_image(PullContext::new(), PullRequest::new(id, "alpine"), results.clone());
            let result = next(&answers);
            assert_eq!((result.id, kind(&result)), (id, Some(ErrorKind::ResourceExhausted)));
        }
        assert_eq!(puller.stats().threads, 0);
    }
}

#[test]
fn a_result_is_not_lost_because_its_channel_is_full_for_a_moment() {
    type End = fn(PullContext, &CancelToken) -> PullContext;
    let ends: [(End, ErrorKind); 2] = [
        (|cx, _| cx.with_timeout(Duration::from_millis(50)), ErrorKind::Timeout),
        (|cx, token| cx.with_cancel(token), ErrorKind::Cancelled),
    ];
    for (end, expected) in ends {
        for room in [4, 0] {
            for bench in both() {
                let (others, _keep) = unbounded();
                bench.occupy(&others);
                let (results, answers) = bounded(room);
                let token = CancelToken::new();
                for id in 0..10 {
                    let cx = end(PullContext::new(), &token);
                    bench.puller.pull_image(cx, PullRequest::new(id, "never/pulled"), results.clone());
                }
                token.cancel();
                // Waits until all have found the channel full. No event reports it.
                thread::sleep(Duration::from_millis(100));
                let mut ids: Vec<u64> = (0..10)
                    .map(|_| {
                        let result = next(&answers);
                        assert_eq!(kind(&result), Some(expected), "{}, room for {room}", bench.name);
                        result.id
                    })
                    .collect();
                ids.sort_unstable();
                assert!(ids.into_iter().eq(0..10), "{}, room for {room}", bench.name);
            }
        }
    }
}

#[test]
fn a_full_result_channel_delays_no_other_channel_and_no_shutdown() {
    for bench in both() {
        let (others, _keep) = unbounded();
        bench.occupy(&others);
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        let (full, never_read) = bounded(0);
        let (results, answers) = unbounded();
        for id in 0..3 {
            bench.puller.pull_image(cx.clone(), PullRequest::new(id, "never/pulled"), full.clone());
        }
        token.cancel();
        let cx = PullContext::new().with_timeout(Duration::from_millis(30));
        bench.puller.pull_image(cx, PullRequest::new(9, "never/pulled"), results);
        assert_eq!(next(&answers).id, 9, "{}", bench.name);
        bench.puller.shutdown(Duration::ZERO);
        assert_eq!(bench.puller.stats().threads, 0, "{}", bench.name);
        assert!(never_read.try_recv().is_err(), "{}: dropped for want of room", bench.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens: n requests, n results, each with its own id, and no thread left.
    #[test]
    fn n_requests_have_n_results_in_any_storm(
        limit in 0..5_i32,
        steps in prop::collection::vec((0..7_usize, 0..4_usize, prop::option::of(0..6_u64)), 1..120),
        grace in 0..10_u64,
    ) {
        let service = Arc::new(Scripted::new());
        // A limit of 0 stands for the serial puller: one that panics every other request would rest
        // for minutes, so its clock does not make it wait.
        let puller: Arc<dyn ImagePuller> = match limit {
            0 => Arc::new(SerialImagePuller::builder(served(&service)).clock(Arc::new(Hurried)).build().unwrap()),
            _ => Arc::new(ParallelImagePuller::new(served(&service), Some(limit)).unwrap()),
        };
        let (results, answers) = unbounded();
        let tokens: Vec<CancelToken> = (0..4).map(|_| CancelToken::new()).collect();
        let images = ["alpine", "panic/x", "fail/x", "slow/x", "sizepanic/x", "slow/y"];
        let mut asked = 0;
        for (what, which, deadline) in steps {
            let Some(image) = images.get(what) else {
                tokens[which].cancel();
                continue;
            };
            let mut cx = PullContext::new();
            if which > 0 { cx = cx.with_cancel(&tokens[which]); }
            if let Some(millis) = deadline { cx = cx.with_timeout(Duration::from_millis(millis)); }
            puller.pull_image(cx, PullRequest::new(asked, *image), results.clone());
            asked += 1;
        }
        puller.shutdown(Duration::from_millis(grace));
        drop(results);
        let mut ids: Vec<u64> = answers.iter().map(|result| result.id).collect();
        ids.sort_unstable();
        prop_assert!(ids.into_iter().eq(0..asked));
        prop_assert_eq!(puller.stats().threads, 0);
        let stats = puller.stats();
        prop_assert_eq!((stats.queued, stats.running, stats.succeeded + stats.failed), (0, 0, asked));
    }
}

/// A clock without patience.
struct Hurried;

impl Clock for Hurried {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn after(&self, _: Duration) -> Receiver<Instant> {
        crossbeam_channel::after(Duration::ZERO)
    }
}

//! What both pullers promise: order, bound, one result a request, and an orderly end.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::clock::ManualClock;
use common::service::Scripted;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use oci_puller::{
    CancelToken, ErrorKind, ImagePuller, ParallelImagePuller, PullContext, PullRequest, PullResult,
    RejectReason, SerialImagePuller,
};
use proptest::prelude::*;

/// A puller under test, and the service behind it.
struct Bench {
    name: &'static str,
    puller: Arc<dyn ImagePuller>,
    service: Arc<Scripted>,
    /// How many pulls run at a time.
    width: usize,
}

impl Bench {
    fn serial() -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(SerialImagePuller::new(Arc::clone(&service)).unwrap());
        Bench { name: "serial", puller, service, width: 1 }
    }

    fn parallel(limit: i32) -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(ParallelImagePuller::new(Arc::clone(&service), Some(limit)).unwrap());
        Bench { name: "parallel", puller, service, width: limit as usize }
    }

    fn ask(&self, id: u64, image: &str, results: &Sender<PullResult>) {
        self.puller.pull_image(PullContext::new(), PullRequest::new(id, image), results.clone());
    }

    /// Fills every place at the gate, and waits until all of them stand there.
    fn occupy(&self, results: &Sender<PullResult>) {
        for place in 0..self.width {
            self.ask(1000 + place as u64, "gate/occupied", results);
            assert_eq!(self.service.next_started(), "gate/occupied", "{}", self.name);
        }
    }
}

/// The table that each promise to both pullers is tried on.
fn both() -> Vec<Bench> {
    vec![Bench::serial(), Bench::parallel(1), Bench::parallel(3)]
}

fn next(answers: &Receiver<PullResult>) -> PullResult {
    answers.recv_timeout(SOON).expect("a result")
}

fn assert_silent(answers: &Receiver<PullResult>) {
    assert!(answers.try_recv().is_err(), "no second result");
}

fn kind(result: &PullResult) -> Option<ErrorKind> {
    result.outcome.as_ref().err().map(|error| error.kind())
}

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
fn a_limit_that_is_absent_or_below_one_is_none_and_one_too_large_is_refused() {
    for limit in [None, Some(0), Some(-1), Some(i32::MIN)] {
        let service = Arc::new(Scripted::new());
        let puller = ParallelImagePuller::new(Arc::clone(&service), limit).unwrap();
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
    assert!(ParallelImagePuller::new(Scripted::new(), Some(4096)).is_ok());
    let error = ParallelImagePuller::new(Scripted::new(), Some(4097)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("4097"), "{error}");
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
fn a_request_that_leaves_the_serial_queue_makes_room_for_the_caller_who_waits() {
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
        thread::scope(|scope| {
            for id in 10..13 {
                let (bench, results) = (&bench, &results);
                scope.spawn(move || bench.ask(id, "alpine", results));
            }
            while bench.puller.stats().waiting < 3 && answers.is_empty() {
                thread::yield_now();
            }
            token.cancel();
            // The scope ends when all three callers have come back.
        });
        let left: Vec<u64> = (0..3)
            .map(|_| {
                let result = next(&answers);
                assert_eq!(kind(&result), Some(expected));
                result.id
            })
            .collect();
        assert_eq!(left, [0, 1, 2]);
        assert_eq!((bench.puller.stats().queued, bench.puller.stats().waiting), (10, 0), "{expected}");
        bench.service.open(1);
        (0..11).for_each(|_| assert!(next(&answers).outcome.is_ok()));
    }
}

#[test]
fn a_request_that_waits_is_answered_by_its_cancel_at_once_and_never_pulled() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        let token = CancelToken::new();
        for id in 0..4 {
            let cx = PullContext::new().with_cancel(&token.child());
            bench.puller.pull_image(cx, PullRequest::new(id, "never/pulled"), results.clone());
        }
        token.cancel();
        for id in 0..4 {
            let result = answers.try_recv().expect("answered on the thread that cancels");
            assert_eq!((result.id, kind(&result)), (id, Some(ErrorKind::Cancelled)), "{}", bench.name);
            assert_eq!(result.pull_duration, Duration::ZERO);
        }
        bench.service.open(bench.width);
        bench.ask(9, "alpine", &results);
        (0..=bench.width).for_each(|_| assert!(next(&answers).outcome.is_ok()));
        assert_eq!(bench.service.next_started(), "alpine", "{}: the cancelled ones never began", bench.name);
    }
}

#[test]
fn a_request_that_waits_is_answered_at_its_deadline() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        // The later deadline first: the timer must not sleep through the nearer one.
        for (id, millis) in [(1, 120), (0, 40)] {
            let cx = PullContext::new().with_timeout(Duration::from_millis(millis));
            bench.puller.pull_image(cx, PullRequest::new(id, "never/pulled"), results.clone());
        }
        for id in 0..2 {
            let result = next(&answers);
            assert_eq!((result.id, kind(&result)), (id, Some(ErrorKind::Timeout)), "{}", bench.name);
        }
        assert!(bench.service.started.is_empty());
    }
}

#[test]
fn a_pull_that_runs_is_reached_by_cancel_and_deadline() {
    for bench in both() {
        let (results, answers) = unbounded();
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        bench.puller.pull_image(cx, PullRequest::new(1, "gate/x"), results.clone());
        bench.service.next_started();
        token.cancel();
        assert_eq!(kind(&next(&answers)), Some(ErrorKind::Cancelled), "{}", bench.name);

        let cx = PullContext::new().with_timeout(Duration::from_millis(30));
        bench.puller.pull_image(cx, PullRequest::new(2, "gate/x"), results.clone());
        assert_eq!(kind(&next(&answers)), Some(ErrorKind::Timeout), "{}", bench.name);
    }
}

#[test]
fn a_context_that_has_ended_already_is_answered_without_a_pull() {
    for bench in both() {
        let (results, answers) = unbounded();
        let token = CancelToken::new();
        token.cancel();
        let ended = [
            (PullContext::new().with_cancel(&token), ErrorKind::Cancelled),
            (PullContext::new().with_deadline(Instant::now()), ErrorKind::Timeout),
        ];
        for (cx, expected) in ended {
            bench.puller.pull_image(cx, PullRequest::new(1, "alpine"), results.clone());
            assert_eq!(kind(&next(&answers)), Some(expected), "{}", bench.name);
        }
        assert!(bench.service.started.is_empty(), "{}", bench.name);
        assert_silent(&answers);
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
fn a_receiver_that_is_gone_harms_nobody() {
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
fn shutdown_lets_what_runs_finish_within_the_grace_and_answers_what_waits() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        (0..5).for_each(|id| bench.ask(id, "alpine", &results));
        thread::scope(|scope| {
            scope.spawn(|| bench.puller.shutdown(SOON));
            for id in 0..5 {
                let result = next(&answers);
                assert_eq!((result.id, kind(&result)), (id, Some(ErrorKind::ShutDown)), "{}", bench.name);
            }
            bench.service.open(bench.width);
        });
        (0..bench.width).for_each(|_| assert!(next(&answers).outcome.is_ok(), "{}", bench.name));
        assert_eq!(bench.puller.stats().threads, 0, "{}: every thread was joined", bench.name);

        bench.ask(6, "alpine", &results);
        assert_eq!(kind(&next(&answers)), Some(ErrorKind::ShutDown), "{}: nothing new is taken", bench.name);
        let rejected = bench
            .puller
            .try_pull_image(PullContext::new(), PullRequest::new(7, "alpine"), results.clone())
            .unwrap_err();
        assert_eq!(rejected.reason(), RejectReason::ShutDown);
        assert_silent(&answers);
    }
}

#[test]
fn shutdown_cancels_what_runs_when_the_grace_is_over() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.occupy(&results);
        bench.puller.shutdown(Duration::from_millis(20));
        assert_eq!(bench.puller.stats().threads, 0, "{}", bench.name);
        (0..bench.width).for_each(|_| {
            assert_eq!(kind(&next(&answers)), Some(ErrorKind::Cancelled), "{}", bench.name);
        });
    }
}

#[test]
fn shutdown_leaves_a_service_behind_that_does_not_listen() {
    for bench in both() {
        let (results, answers) = unbounded();
        bench.ask(1, "deaf/alpine", &results);
        bench.service.next_started();
        let begun_at = Instant::now();
        bench.puller.shutdown(Duration::from_millis(10));
        assert!(begun_at.elapsed() < Duration::from_secs(3), "{}", bench.name);
        assert_eq!(bench.puller.stats().threads, 1, "{}: it is still counted", bench.name);
        drop(bench.puller);
        bench.service.open(1);
        assert!(next(&answers).outcome.is_ok(), "{}: and still answers", bench.name);
    }
}

#[test]
fn shutdown_is_not_held_up_by_a_channel_that_is_full() {
    for bench in both() {
        let (results, _full) = bounded(0);
        bench.ask(1, "alpine", &results);
        bench.ask(2, "alpine", &results);
        bench.service.next_started();
        let begun_at = Instant::now();
        bench.puller.shutdown(Duration::ZERO);
        assert!(begun_at.elapsed() < SOON);
        assert_eq!(bench.puller.stats().threads, 0, "{}", bench.name);
    }
}

#[test]
fn the_last_handle_may_be_dropped_on_a_thread_of_the_puller() {
    use oci_puller::{Progress, ProgressEvent};
    /// Drops the puller from within its own pull.
    struct Dropper(std::sync::Mutex<Option<Arc<dyn ImagePuller>>>);
    impl Progress for Dropper {
        fn event(&self, _: &ProgressEvent<'_>) {
            let last = self.0.lock().unwrap().take();
            drop(last);
        }
    }
    for bench in both() {
        let (results, answers) = unbounded();
        let Bench { name, puller, service, .. } = bench;
        let dropper = Arc::new(Dropper(std::sync::Mutex::new(Some(Arc::clone(&puller)))));
        let second = Arc::clone(&puller);
        drop(puller);
        // The dropper's handle is the last one once this call has returned and `second` is gone.
        second.pull_image(PullContext::new(), PullRequest::new(1, "gate/wait"), results.clone());
        service.next_started();
        second.pull_image(PullContext::new().with_progress(dropper), PullRequest::new(2, "alpine"), results);
        drop(second);
        service.open(1);
        let outcomes = [next(&answers), next(&answers)];
        assert!(
            outcomes.iter().all(|result| matches!(
                kind(result),
                None | Some(ErrorKind::Cancelled | ErrorKind::ShutDown)
            )),
            "{name}: {outcomes:?}"
        );
    }
}

#[test]
fn the_serial_worker_rests_a_second_after_a_panic_and_loses_nothing() {
    let clock = Arc::new(ManualClock::new());
    let service = Arc::new(Scripted::new());
    let puller = SerialImagePuller::builder(Arc::clone(&service)).clock(clock.clone()).build().unwrap();
    let (results, answers) = unbounded();
    for round in 0..3 {
        puller.pull_image(PullContext::new(), PullRequest::new(round, "panic/x"), results.clone());
        assert_eq!(kind(&next(&answers)), Some(ErrorKind::Panicked));
        puller.pull_image(PullContext::new(), PullRequest::new(10 + round, "alpine"), results.clone());
        let rest = clock.waits.recv_timeout(SOON).expect("the worker rests");
        assert_eq!(rest, Duration::from_secs(1), "constant, in round {round}");
        service.next_started();
        clock.advance(rest - Duration::from_millis(1));
        assert!(service.started.is_empty(), "not before the second is over");
        clock.advance(Duration::from_millis(1));
        assert_eq!(next(&answers).id, 10 + round);
        service.next_started();
    }
    puller.pull_image(PullContext::new(), PullRequest::new(20, "panic/x"), results.clone());
    clock.waits.recv_timeout(SOON).expect("the worker rests");
    puller.shutdown(SOON);
    assert_eq!(puller.stats().threads, 0, "the rest is interrupted by the shutdown");
}

#[test]
fn the_serial_worker_comes_back_in_real_time() {
    let bench = Bench::serial();
    let (results, answers) = unbounded();
    bench.ask(1, "panic/x", &results);
    bench.ask(2, "alpine", &results);
    assert_eq!(kind(&next(&answers)), Some(ErrorKind::Panicked));
    let panicked_at = Instant::now();
    assert!(next(&answers).outcome.is_ok());
    assert!(panicked_at.elapsed() > Duration::from_millis(900), "{:?}", panicked_at.elapsed());
}

#[test]
fn a_bounded_queue_gives_back_what_has_no_room() {
    let service = Arc::new(Scripted::new());
    let puller = ParallelImagePuller::builder(Arc::clone(&service))
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
fn a_thread_that_cannot_be_started_is_answered_for() {
    // More stack than an address space has: the kernel refuses.
    const TOO_MUCH: usize = 1 << 50;
    let service = Arc::new(Scripted::new());
    let pullers: [Arc<dyn ImagePuller>; 2] = [
        Arc::new(ParallelImagePuller::builder(Arc::clone(&service)).stack_size(TOO_MUCH).build().unwrap()),
        Arc::new(SerialImagePuller::builder(Arc::clone(&service)).stack_size(TOO_MUCH).build().unwrap()),
    ];
    for puller in pullers {
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
fn ten_thousand_requests_at_a_limit_of_four_are_four_threads() {
    fn threads_of_pullers() -> usize {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("ten-thousand"))
            .count()
    }
    // The pull's threads are told from those of other tests by a name that each takes on when it runs.
    struct Naming(Scripted);
    impl oci_puller::ImageService for Naming {
        fn pull_image(
            &self,
            cx: &PullContext,
            request: &PullRequest,
        ) -> Result<oci_puller::PulledImage, oci_puller::Error> {
            let _ = std::fs::write("/proc/thread-self/comm", "ten-thousand");
            self.0.pull_image(cx, request)
        }
        fn image_size(
            &self,
            cx: &PullContext,
            image: &oci_puller::ImageSpec,
        ) -> Result<u64, oci_puller::Error> {
            self.0.image_size(cx, image)
        }
        fn image_ref(
            &self,
            cx: &PullContext,
            image: &oci_puller::ImageSpec,
        ) -> Result<Option<oci_puller::ImageRef>, oci_puller::Error> {
            self.0.image_ref(cx, image)
        }
        fn list_images(&self, cx: &PullContext) -> Result<Vec<oci_puller::ImageInfo>, oci_puller::Error> {
            self.0.list_images(cx)
        }
        fn remove_image(
            &self,
            cx: &PullContext,
            image: &oci_puller::ImageSpec,
        ) -> Result<(), oci_puller::Error> {
            self.0.remove_image(cx, image)
        }
        fn image_fs_info(&self, cx: &PullContext) -> Result<oci_puller::ImageFsInfo, oci_puller::Error> {
            self.0.image_fs_info(cx)
        }
    }
    let service = Arc::new(Naming(Scripted::new()));
    let puller = ParallelImagePuller::new(Arc::clone(&service), Some(4)).unwrap();
    let (results, answers) = unbounded();
    for id in 0..10_000 {
        puller.pull_image(PullContext::new(), PullRequest::new(id, "gate/x"), results.clone());
    }
    (0..4).for_each(|_| drop(service.0.next_started()));
    let stats = puller.stats();
    assert_eq!((stats.queued, stats.running, stats.threads), (9_996, 4, 4));
    assert_eq!(threads_of_pullers(), 4);
    service.0.open(10_000);
    let mut ids: Vec<u64> = (0..10_000).map(|_| next(&answers).id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..10_000));
    assert_eq!(puller.stats().succeeded, 10_000);
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
            0 => Arc::new(SerialImagePuller::builder(Arc::clone(&service)).clock(Arc::new(Hurried)).build().unwrap()),
            _ => Arc::new(ParallelImagePuller::new(Arc::clone(&service), Some(limit)).unwrap()),
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

impl oci_puller::Clock for Hurried {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn after(&self, _: Duration) -> Receiver<Instant> {
        crossbeam_channel::after(Duration::ZERO)
    }
}

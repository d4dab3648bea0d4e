//! Shutdown.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::puller::RejectReason;
use oci_puller::{ErrorKind, ImagePuller, PullContext, PullRequest};

use crate::common::SOON;
use crate::{Bench, assert_silent, both, kind, next};

#[test]
fn shutdown_answers_waiting_requests_and_gives_running_pulls_a_grace() {
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
fn shutdown_cancels_running_pulls_after_the_grace() {
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
    /// Drops the puller from within its own pull.
    struct Dropper(Mutex<Option<Arc<dyn ImagePuller>>>);
    impl Progress for Dropper {
        fn event(&self, _: &ProgressEvent) {
            let last = self.0.lock().unwrap().take();
            drop(last);
        }
    }
    for bench in both() {
        let (results, answers) = unbounded();
        let Bench { name, puller, service, .. } = bench;
        let dropper = Arc::new(Dropper(Mutex::new(Some(Arc::clone(&puller)))));
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

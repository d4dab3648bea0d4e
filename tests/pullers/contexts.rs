//! Requests that are cancelled, or run out of time.

use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use oci_puller::{CancelToken, ErrorKind, PullContext, PullRequest};

use crate::{assert_silent, both, kind, next};

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

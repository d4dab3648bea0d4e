//! Cancel tokens and contexts: which waits and hooks a cancel and a deadline end.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use crossbeam_channel::{bounded, never, select, unbounded};
use oci_puller::image::Digest;
use oci_puller::progress::ProgressEvent;
use oci_puller::{CancelToken, ErrorKind, PullContext};
use proptest::prelude::*;

/// Returns a counter, and a function that creates hooks which raise it.
fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Box<dyn FnOnce() + Send>) {
    let count = Arc::new(AtomicUsize::new(0));
    let of_hooks = Arc::clone(&count);
    let hook = move || {
        let count = Arc::clone(&of_hooks);
        Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }) as Box<dyn FnOnce() + Send>
    };
    (count, hook)
}

#[test]
fn a_cancel_wakes_every_receiver_and_runs_every_hook_once() {
    let token = CancelToken::new();
    let (count, hook) = counter();
    let _before = token.on_cancel(hook());
    thread::scope(|scope| {
        for _ in 0..4 {
            let token = token.clone();
            scope.spawn(move || {
                select! {
                    recv(token.cancelled()) -> message => assert!(message.is_err(), "no message, only the end"),
                    default(SOON) => panic!("not woken"),
                }
            });
        }
        token.cancel();
        token.cancel();
    });
    let _after = token.on_cancel(hook());
    assert_eq!(count.load(Ordering::SeqCst), 2, "one before, and one at once after");
    assert!(token.is_cancelled());
}

#[test]
fn a_dropped_hook_does_not_run() {
    let token = CancelToken::new();
    let (count, hook) = counter();
    drop(token.on_cancel(hook()));
    token.cancel();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_hook_that_panics_does_not_keep_the_others_from_running() {
    let token = CancelToken::new();
    let (count, hook) = counter();
    let _first = token.on_cancel(|| panic!("as it should"));
    let _second = token.on_cancel(hook());
    token.cancel();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_hook_may_use_its_own_token() {
    let token = CancelToken::new();
    let (inner, (count, hook)) = (token.clone(), counter());
    let hook = hook();
    let _hook = token.on_cancel(move || {
        inner.cancel();
        let _late = inner.on_cancel(hook);
    });
    token.cancel();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_child_ends_with_its_parent_and_the_parent_lives_without_its_child() {
    let parent = CancelToken::new();
    let (child, other) = (parent.child(), parent.child());
    let grandchild = child.child();
    drop(child);
    other.cancel();
    assert!(!parent.is_cancelled() && !grandchild.is_cancelled());
    parent.cancel();
    assert!(grandchild.is_cancelled(), "also when the child between them is gone");
    assert!(parent.child().is_cancelled(), "one that is born late");
}

#[test]
fn a_wait_ends_with_a_message_a_cancel_or_the_deadline() {
    let (sender, receiver) = bounded(1);
    sender.send(7).unwrap();
    assert_eq!(PullContext::new().wait_for(&receiver).unwrap(), Some(7));
    drop(sender);
    assert_eq!(PullContext::new().wait_for(&receiver).unwrap(), None);

    let late = PullContext::new().with_timeout(Duration::from_millis(20));
    assert_eq!(late.wait_for(&never::<()>()).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(late.sleep(SOON).unwrap_err().kind(), ErrorKind::Timeout, "an ended context stays ended");
    assert_eq!(late.remaining(), Some(Duration::ZERO));

    let token = CancelToken::new();
    let cx = PullContext::new().with_cancel(&token).with_timeout(SOON);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| cx.sleep(SOON).unwrap_err().kind());
        token.cancel();
        assert_eq!(waiting.join().unwrap(), ErrorKind::Cancelled);
    });
    assert_eq!(cx.check().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn progress_events_go_over_a_channel() {
    let (sender, events) = unbounded();
    let cx = PullContext::new().with_progress(sender);
    let advanced = ProgressEvent::BlobAdvanced { digest: Digest::sha256(b"layer"), bytes: 5 };
    thread::scope(|scope| {
        scope.spawn(|| cx.report(&advanced));
    });
    assert_eq!(events.recv().unwrap(), advanced);
    drop(events);
    cx.report(&advanced);
}

#[test]
fn a_timeout_too_long_for_the_clock_is_no_deadline() {
    let cx = PullContext::new().with_timeout(Duration::MAX);
    assert_eq!(cx.deadline(), None);
    assert!(cx.with_deadline(Instant::now() + SOON).check().is_ok());
}

proptest! {
    /// In any tree of tokens, a cancel reaches exactly the token and its descendants.
    #[test]
    fn a_cancel_reaches_exactly_the_descendants(
        parents in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
        told in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut tokens = vec![CancelToken::new()];
        let mut parent_of = vec![0];
        for parent in &parents {
            let parent = parent.index(tokens.len());
            tokens.push(tokens[parent].child());
            parent_of.push(parent);
        }
        let told: Vec<usize> = told.iter().map(|index| index.index(tokens.len())).collect();
        told.iter().for_each(|index| tokens[*index].cancel());
        for (index, token) in tokens.iter().enumerate() {
            let mut above = index;
            let mut expected = told.contains(&above);
            while above != 0 {
                above = parent_of[above];
                expected |= told.contains(&above);
            }
            prop_assert_eq!(token.is_cancelled(), expected);
        }
    }
}

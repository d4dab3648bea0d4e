//! The serial puller's worker rests after a panic, as Kubernetes' does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use oci_puller::{ErrorKind, ImagePuller, PullContext, PullRequest, SerialImagePuller};

use crate::common::SOON;
use crate::common::clock::ManualClock;
use crate::common::served;
use crate::common::service::Scripted;
use crate::{Bench, kind, next};

#[test]
fn the_serial_worker_rests_a_second_after_a_panic_and_loses_nothing() {
    let clock = Arc::new(ManualClock::new());
    let service = Arc::new(Scripted::new());
    let puller = SerialImagePuller::builder(served(&service)).clock(clock.clone()).build().unwrap();
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

//! Tests of the state for failures that no caller can cause: threads that cannot be started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::backoff::{BackOff, BackOffKey, DelaySeries};
use super::credential_hash::SecretsHash;
use super::in_flight::InFlight;
use super::request::{EnsureRequest, parse_reference};
use super::schedule::{PullLimits, Schedule};
use super::shared_pull::{Notify, ParsedRequest, PullOutcome};
use super::throttle::ThrottleMode;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};

const SECOND: Duration = Duration::from_secs(1);

fn in_flight(limit: usize, now: Instant) -> InFlight {
    let limits = PullLimits { in_all: limit, per_registry: limit };
    let series = DelaySeries { initial: SECOND, max: SECOND, jitter: 0.0 };
    InFlight::new(Schedule::new(limits, SECOND, now), None, BackOff::new(series))
}

/// Joins a pull of the image; returns the pulls to start.
fn join(in_flight: &mut InFlight, image: &str, now: Instant) -> Vec<u64> {
    let request = EnsureRequest::new("pod", image);
    let parsed = ParsedRequest {
        image: request.image.clone(),
        reference: parse_reference(image).unwrap(),
        credentials: SecretsHash::of(&[]),
        back_off_key: Arc::new(BackOffKey { owner: "pod".to_owned(), image: image.to_owned() }),
        arrival: in_flight.arrive(now),
        throttle: ThrottleMode::Refuse,
        pulls_ended_before: 0,
        request,
    };
    let notify = Notify::Thread(bounded(1).0);
    in_flight.join(&Arc::new(parsed), &PullContext::new(), notify, now).unwrap().ready
}

fn end(in_flight: &mut InFlight, pull: u64, now: Instant) -> Vec<u64> {
    let mut outcome = PullOutcome::never_begun(Error::new(ErrorKind::NotFound, "as the test says"));
    in_flight.end_pull(pull, &mut outcome, now).unwrap().ready
}

#[test]
fn a_pull_without_a_thread_is_started_when_another_one_ends() {
    let now = Instant::now();
    let mut in_flight = in_flight(2, now);
    let first = join(&mut in_flight, "first:v1", now)[0];
    let second = join(&mut in_flight, "second:v1", now)[0];
    assert!(join(&mut in_flight, "third:v1", now).is_empty());
    assert!(in_flight.put_back(second), "the first one runs");
    assert_eq!((in_flight.snapshot(now).running, in_flight.snapshot(now).queued), (1, 2));
    let ready = end(&mut in_flight, first, now);
    assert_eq!((ready.len(), ready[0]), (2, second), "in the order of the requests");
    end(&mut in_flight, second, now);
    assert!(!in_flight.put_back(ready[1]), "no other one runs that could start it");
    end(&mut in_flight, ready[1], now);
    assert!(in_flight.is_empty());
}

//! The back-off of images whose pull failed.

mod common;

use std::time::Duration;

use common::node::{BOTH, Bench, Kind, error, secrets};
use crossbeam_channel::unbounded;
use oci_puller::manager::ImageSource;
use oci_puller::{CancelToken, EnsureRequest, EnsuredImage, Error, ErrorKind, PullContext, PullPolicy};

const IMAGE: &str = "app:v1";
const SECOND: Duration = Duration::from_secs(1);

fn request(owner: &str) -> EnsureRequest {
    EnsureRequest::new(owner, IMAGE).with_policy(PullPolicy::Always)
}

fn kind(outcome: Result<EnsuredImage, Error>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[test]
fn each_second_of_kubelets_series_is_as_it_should() {
    for puller in BOTH {
        let bench = Bench::new(puller);
        bench.node.fail(IMAGE, error(ErrorKind::Unavailable));
        assert_eq!(kind(bench.ensure(&request("pod"))), Some(ErrorKind::Unavailable));
        for delay in [10, 20, 40, 80, 160, 300, 300] {
            for second in 0..delay {
                let outcome = kind(bench.ensure(&request("pod")));
                assert_eq!(outcome, Some(ErrorKind::BackOff), "{}: {second} of {delay} s", bench.name);
                bench.clock.advance(SECOND);
            }
            assert_eq!(kind(bench.ensure(&request("pod"))), Some(ErrorKind::Unavailable), "{}", bench.name);
        }
    }
}

#[test]
fn the_refusal_holds_the_cause_and_the_time_left() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail(IMAGE, error(ErrorKind::Unavailable));
    bench.ensure(&request("pod")).unwrap_err();
    bench.clock.advance(Duration::from_millis(2500));
    bench.events.take();
    let refusal = bench.ensure(&request("pod")).unwrap_err();
    assert_eq!(
        refusal.message(),
        "Back-off pulling image \"app:v1\": app:v1: unavailable: as the test says; 7.5s left"
    );
    assert_eq!(refusal.image(), Some(IMAGE));
    assert!(std::error::Error::source(&refusal).is_some());
    assert_eq!(bench.events.take_reasons(), ["BackOff"]);
}

#[test]
fn what_will_not_mend_itself_waits_for_the_longest_time_and_says_so() {
    for lasting in [ErrorKind::Denied, ErrorKind::InvalidManifest, ErrorKind::NoMatchingPlatform] {
        let bench = Bench::new(Kind::Serial);
        bench.node.fail(IMAGE, error(lasting));
        bench.ensure(&request("pod")).unwrap_err();
        bench.clock.advance(299 * SECOND);
        let refusal = bench.ensure(&request("pod")).unwrap_err();
        assert!(refusal.message().contains("1s left; trying again does not help"), "{refusal}");
        bench.clock.advance(SECOND);
        assert_eq!(kind(bench.ensure(&request("pod"))), Some(lasting));
    }
}

#[test]
fn a_registry_that_asks_to_be_left_alone_is() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail(IMAGE, error(ErrorKind::RateLimited).with_retry_after(1000 * SECOND));
    bench.ensure(&request("pod")).unwrap_err();
    bench.clock.advance(999 * SECOND);
    assert_eq!(kind(bench.ensure(&request("pod"))), Some(ErrorKind::BackOff));
    bench.clock.advance(SECOND);
    assert_eq!(kind(bench.ensure(&request("pod"))), Some(ErrorKind::RateLimited));
}

#[test]
fn owners_and_images_are_counted_apart() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail(IMAGE, error(ErrorKind::Unavailable));
    bench.ensure(&request("one")).unwrap_err();
    assert_eq!(kind(bench.ensure(&request("two"))), Some(ErrorKind::Unavailable));
    assert_eq!(kind(bench.ensure(&EnsureRequest::new("one", "other"))), None);
    assert_eq!(kind(bench.ensure(&request("one"))), Some(ErrorKind::BackOff));
}

#[test]
fn success_reset_and_other_credentials_set_an_image_free() {
    let bench = Bench::new(Kind::Serial);
    let fails = |secrets| {
        bench.node.fail(IMAGE, error(ErrorKind::Denied));
        let outcome = kind(bench.ensure(&request("pod").with_pull_secrets(secrets)));
        bench.node.fail(IMAGE, None);
        outcome
    };
    assert_eq!(fails(Vec::new()), Some(ErrorKind::Denied));
    assert_eq!(kind(bench.ensure(&request("pod"))), Some(ErrorKind::BackOff));
    assert!(bench.manager.reset("pod", IMAGE).unwrap());
    assert!(!bench.manager.reset("pod", IMAGE).unwrap());
    assert_eq!(kind(bench.ensure(&request("pod"))), None);

    assert_eq!(fails(secrets("old")), Some(ErrorKind::Denied));
    assert_eq!(fails(secrets("old")), Some(ErrorKind::BackOff));
    assert_eq!(kind(bench.ensure(&request("pod").with_pull_secrets(secrets("new")))), None);
    assert_eq!(bench.manager.metrics().back_off_keys, 0, "success clears it");
}

#[test]
fn reset_knows_the_image_by_what_was_typed() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail("app:latest", error(ErrorKind::Denied));
    bench.ensure(&EnsureRequest::new("pod", "app")).unwrap_err();
    assert!(bench.manager.reset("pod", "app").unwrap());
}

#[test]
fn keys_are_forgotten_with_time() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail(IMAGE, error(ErrorKind::Unavailable));
    for owner in 0..50 {
        bench.ensure(&request(&owner.to_string())).unwrap_err();
    }
    assert_eq!(bench.manager.metrics().back_off_keys, 50);
    bench.clock.advance(601 * SECOND);
    assert_eq!(bench.manager.metrics().back_off_keys, 0);
}

#[test]
fn a_pull_that_was_given_up_is_no_failure() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = unbounded();
    let token = CancelToken::new();
    let gated = EnsureRequest::new("pod", "gate");
    bench.manager.submit(PullContext::new().with_cancel(&token), gated, results);
    bench.node.next_started();
    token.cancel();
    let answer = answers.recv_timeout(common::SOON).unwrap();
    assert_eq!(kind(answer.outcome), Some(ErrorKind::Cancelled));
    assert_eq!(bench.node.ended.recv_timeout(common::SOON).unwrap().1, Some(ErrorKind::Cancelled));
    bench.ensure(&request("pod")).unwrap();
    assert_eq!(bench.manager.metrics().back_off_keys, 0);
}

#[test]
fn an_image_that_is_there_is_used_while_its_registry_is_out_of_reach() {
    for (cause, is_used) in [(ErrorKind::ConnectionFailed, true), (ErrorKind::Denied, false)] {
        let bench = Bench::new(Kind::Serial);
        bench.node.add(IMAGE);
        bench.node.fail(IMAGE, error(cause));
        let request = EnsureRequest::new("pod", IMAGE).with_policy(PullPolicy::PullIfPossible);
        for _ in 0..2 {
            match bench.ensure(&request) {
                Ok(image) => {
                    assert!(is_used);
                    assert!(
                        matches!(image.source, ImageSource::Fallback { cause: found } if found.kind() == cause)
                    );
                }
                Err(_) => assert!(!is_used),
            }
        }
        assert_eq!(bench.node.take_calls().iter().filter(|call| **call == "PullImage").count(), 1);
    }
}

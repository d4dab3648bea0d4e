//! The manager's own decisions: policies, presence, events, and invalid requests.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::node::{BOTH, Bench, Kind, Node, error, id};
use oci_puller::manager::{ImageManagerBuilder, ImageSource, ThrottleMode, VerificationPolicy};
use oci_puller::{
    EnsureRequest, ErrorKind, ImageManager, ParallelImagePuller, PullContext, PullPolicy, SerialImagePuller,
};

use PullPolicy::{Always, IfNotPresent, Never, PullIfPossible};

const IMAGE: &str = "app";
const TAGGED: &str = "app:latest";

fn ask(bench: &Bench, policy: PullPolicy) -> Result<oci_puller::EnsuredImage, oci_puller::Error> {
    let request = EnsureRequest::new("pod", IMAGE).with_policy(policy);
    bench.manager.ensure_image_exists(&PullContext::new(), &request)
}

#[test]
fn each_policy_looks_pulls_and_tells_as_it_should() {
    use ErrorKind::{Denied, NeverPull, NotFound, Unavailable};
    const LOOK: &str = "GetImageRef";
    const PULL: &str = "PullImage";
    const SIZE: &str = "GetImageSize";
    // policy, present, how the pull fails, error, calls, events
    #[rustfmt::skip]
    let table = [
        (Always, false, None, None, &[PULL, SIZE][..], &["Pulling", "Pulled"][..]),
        (Always, true, None, None, &[PULL, SIZE], &["Pulling", "Pulled"]),
        (Always, true, Some(Unavailable), Some(Unavailable), &[PULL], &["Pulling", "Failed"]),
        (IfNotPresent, true, None, None, &[LOOK], &["Pulled"]),
        (IfNotPresent, false, None, None, &[LOOK, PULL, SIZE], &["Pulling", "Pulled"]),
        (IfNotPresent, false, Some(NotFound), Some(NotFound), &[LOOK, PULL], &["Pulling", "Failed"]),
        (Never, true, None, None, &[LOOK], &["Pulled"]),
        (Never, false, None, Some(NeverPull), &[LOOK], &["ErrImageNeverPull"]),
        (PullIfPossible, false, None, None, &[PULL, SIZE], &["Pulling", "Pulled"]),
        (PullIfPossible, true, None, None, &[PULL, SIZE], &["Pulling", "Pulled"]),
        (PullIfPossible, true, Some(Unavailable), None, &[PULL, LOOK], &["Pulling", "Failed", "Pulled"]),
        (PullIfPossible, false, Some(Unavailable), Some(Unavailable), &[PULL, LOOK], &["Pulling", "Failed"]),
        (PullIfPossible, true, Some(Denied), Some(Denied), &[PULL], &["Pulling", "Failed"]),
    ];
    for (policy, is_present, fails, expected, calls, reasons) in table {
        for (kind, has_records) in BOTH.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let dir = tempfile::tempdir().unwrap();
            let bench = Bench::with(kind, |b| if has_records { b.records(dir.path()) } else { b });
            let case = format!(
                "{}: {policy}, present: {is_present}, fails: {fails:?}, records: {has_records}",
                bench.name
            );
            if is_present {
                bench.node.add(TAGGED);
            }
            bench.node.fail(TAGGED, fails.map(error));
            let outcome = ask(&bench, policy);
            assert_eq!(outcome.as_ref().err().map(|error| error.kind()), expected, "{case}");
            if let Ok(image) = outcome {
                assert_eq!((image.image_ref, image.image.image.as_str()), (id(TAGGED), TAGGED), "{case}");
            }
            assert_eq!(bench.node.take_calls(), calls, "{case}");
            let events = bench.events.take();
            assert!(
                events.iter().all(|event| event.owner == "pod" && event.message.contains("\"app\"")),
                "{case}"
            );
            assert_eq!(
                events.iter().map(|event| event.reason.as_str()).collect::<Vec<_>>(),
                reasons,
                "{case}"
            );
        }
    }
}

#[test]
fn an_image_that_the_service_cannot_tell_of_is_taken_for_absent() {
    for (policy, expected) in
        [(Always, None), (IfNotPresent, None), (PullIfPossible, None), (Never, Some(ErrorKind::NeverPull))]
    {
        for kind in BOTH {
            let bench = Bench::new(kind);
            bench.node.add(TAGGED);
            bench.node.fail_inspection(error(ErrorKind::Unsupported));
            let outcome = ask(&bench, policy);
            assert_eq!(outcome.err().map(|error| error.kind()), expected, "{}: {policy}", bench.name);
        }
    }
}

#[test]
fn events_speak_kubelets_words() {
    let bench = Bench::new(Kind::Serial);
    let said = |policy| {
        let _ = ask(&bench, policy);
        bench.events.take().into_iter().map(|event| event.message).collect::<Vec<_>>()
    };
    assert_eq!(said(Never), ["Container image \"app\" is not present with pull policy of Never"]);
    let pulled = said(IfNotPresent);
    assert_eq!(pulled[0], "Pulling image \"app\"");
    assert!(pulled[1].starts_with("Successfully pulled image \"app\" in "), "{pulled:?}");
    assert!(pulled[1].ends_with(" including waiting). Image size: 42 bytes."), "{pulled:?}");
    assert_eq!(said(IfNotPresent), ["Container image \"app\" already present on machine"]);

    bench.node.fail(TAGGED, error(ErrorKind::NotFound));
    assert!(
        said(Always)[1].starts_with("Failed to pull image \"app\": app:latest: not found: as the test says")
    );
    assert_eq!(said(Always), ["Back-off pulling image \"app\""]);

    bench.node.fail_inspection(error(ErrorKind::Store));
    assert!(said(IfNotPresent)[0].starts_with("Failed to inspect image \"app\": store failed"));
}

#[test]
fn only_the_default_tag_is_added_to_the_typed_name() {
    let digest = format!("root@sha256:{}", "0123456789abcdef".repeat(4));
    let table = [
        ("root", "root:latest"),
        ("root:tag", "root:tag"),
        (&digest, &digest),
        ("r.io:5000/root", "r.io:5000/root:latest"),
        ("docker.io/library/root", "docker.io/library/root:latest"),
    ];
    let bench = Bench::new(Kind::Parallel(3));
    for (typed, asked) in table {
        let request = EnsureRequest::new("pod", typed);
        let image = bench.manager.ensure_image_exists(&PullContext::new(), &request).unwrap();
        assert_eq!(image.image.image, asked);
        assert_eq!(bench.node.next_started(), asked);
    }
}

#[test]
fn an_invalid_name_is_refused_before_any_call() {
    let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for typed in ["", ":invalid", "http://url", hex, "Upper/Case", "a b"] {
        for policy in [Always, IfNotPresent, Never, PullIfPossible] {
            let bench = Bench::new(Kind::Serial);
            let request = EnsureRequest::new("pod", typed).with_policy(policy);
            let error = bench.manager.ensure_image_exists(&PullContext::new(), &request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidReference, "{typed}");
            assert_eq!(bench.events.take_reasons(), ["InspectFailed"], "{typed}");
            assert!(bench.node.take_calls().is_empty(), "{typed}");
        }
    }
}

#[test]
fn a_service_that_cannot_look_up_an_image_or_panics_is_an_error() {
    let bench = Bench::new(Kind::Serial);
    bench.node.fail_inspection(error(ErrorKind::Store));
    for policy in [IfNotPresent, Never] {
        assert_eq!(ask(&bench, policy).unwrap_err().kind(), ErrorKind::Store);
        assert_eq!(bench.events.take_reasons(), ["InspectFailed"]);
    }
    assert_eq!(bench.node.take_calls(), ["GetImageRef", "GetImageRef"]);

    let error = bench.ensure(&EnsureRequest::new("pod", "no-look")).unwrap_err();
    assert_eq!((error.kind(), error.image()), (ErrorKind::Panicked, Some("no-look")));
    assert_eq!(bench.events.take_reasons(), ["InspectFailed"]);
}

#[test]
fn requests_are_counted_by_kubelets_labels() {
    // policy, present, the labels of the first call
    let table = [
        (Never, false, ("never", "false", "unknown")),
        (Never, true, ("never", "true", "false")),
        (IfNotPresent, false, ("ifnotpresent", "false", "true")),
        (IfNotPresent, true, ("ifnotpresent", "true", "false")),
        (Always, true, ("always", "unknown", "true")),
    ];
    for (policy, is_present, expected) in table {
        let bench = Bench::new(Kind::Serial);
        if is_present {
            bench.node.add(TAGGED);
        }
        let _ = ask(&bench, policy);
        let metrics = bench.manager.metrics();
        let (labels, count) = metrics.requests.first_key_value().unwrap();
        assert_eq!((labels.pull_policy, labels.present_locally, labels.pull_required), expected);
        assert_eq!(*count, 1);
    }
}

#[test]
fn figures_tell_pulls_and_bytes() {
    let bench = Bench::new(Kind::Serial);
    ask(&bench, Always).unwrap();
    ask(&bench, IfNotPresent).unwrap();
    bench.node.fail(TAGGED, error(ErrorKind::Denied));
    ask(&bench, Always).unwrap_err();
    ask(&bench, Always).unwrap_err();
    let metrics = bench.manager.metrics();
    assert_eq!((metrics.queued, metrics.running, metrics.waiting, metrics.registries), (0, 0, 0, 0));
    assert_eq!((metrics.pulls_succeeded, &*metrics.pulls_failed), (1, &[(ErrorKind::Denied, 1)][..]));
    assert_eq!((metrics.present, metrics.back_offs, metrics.back_off_keys), (1, 1, 1));
    assert_eq!((metrics.bytes_fetched, metrics.bytes_reused), (40, 2));
    assert_eq!(metrics.pull_seconds["0-10MB"].count, 1);
    assert!(
        metrics.to_prometheus().contains("oci_puller_pulls_total{outcome=\"failure\",kind=\"Denied\"} 1")
    );
}

#[test]
fn policies_are_read_by_kubernetes_names() {
    for policy in [Always, IfNotPresent, Never, PullIfPossible] {
        assert_eq!(policy.as_str().parse::<PullPolicy>().unwrap(), policy);
    }
    for unknown in ["", "always", "Sometimes"] {
        let error = unknown.parse::<PullPolicy>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.message().starts_with("policy is "), "{error}");
    }
}

#[test]
fn an_owner_that_is_empty_is_named() {
    let bench = Bench::new(Kind::Serial);
    let request = EnsureRequest::new("", IMAGE);
    let error = bench.manager.ensure_image_exists(&PullContext::new(), &request).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::InvalidConfig, "owner is empty"));
    assert_eq!(bench.manager.reset("", IMAGE).unwrap_err().message(), "owner is empty");
    assert_eq!(bench.manager.reset("pod", "").unwrap_err().message(), "image is empty");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    type Set = fn(ImageManagerBuilder) -> ImageManagerBuilder;
    const SECOND: Duration = Duration::from_secs(1);
    let serial = |builder: ImageManagerBuilder| {
        builder.puller(Arc::new(SerialImagePuller::new(Node::new()).unwrap())).max_parallel(2)
    };
    let parallel = |builder: ImageManagerBuilder| {
        builder.puller(Arc::new(ParallelImagePuller::new(Node::new(), Some(4)).unwrap())).max_parallel(5)
    };
    let table: Vec<(&str, Set)> = vec![
        ("qps", |b| b.qps(-1.0)),
        ("qps", |b| b.qps(f64::NAN)),
        ("qps", |b| b.qps(f64::INFINITY)),
        ("burst", |b| b.burst(0)),
        ("burst", |b| b.burst(u32::MAX)),
        ("back_off", |b| b.back_off(Duration::ZERO, SECOND)),
        ("back_off", |b| b.back_off(2 * SECOND, SECOND)),
        ("back_off", |b| b.back_off(SECOND, Duration::MAX)),
        ("jitter", |b| b.jitter(-0.1)),
        ("jitter", |b| b.jitter(1.1)),
        ("jitter", |b| b.jitter(f64::NAN)),
        ("aging", |b| b.aging(Duration::ZERO)),
        ("max_parallel", |b| b.max_parallel(0)),
        ("max_parallel", |b| b.max_parallel(4097)),
        ("max_parallel", serial),
        ("max_parallel", parallel),
        ("max_per_registry", |b| b.max_per_registry(0)),
        ("max_per_registry", |b| b.max_parallel(2).max_per_registry(3)),
        ("records", |b| b.records("/proc/no/such/folder")),
        ("records", |b| b.records("/dev/null")),
        ("verification_policy", |b| b.verification_policy(VerificationPolicy::AlwaysVerify)),
        ("verification_policy", |b| {
            let list = vec!["r.io/*/app".to_owned()];
            b.verification_policy(VerificationPolicy::NeverVerifyAllowlistedImages(list))
        }),
    ];
    for (field, set) in table {
        let error = set(ImageManager::builder(Node::new())).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.message().starts_with(field), "{field}: {error}");
    }
    ImageManager::builder(Node::new()).qps(0.0).burst(0).build().unwrap();
}

#[test]
fn the_throttle_refuses_or_waits_and_neither_is_a_failure_of_the_image() {
    for kind in BOTH {
        let bench = Bench::with(kind, |b| b.qps(1.0).burst(1));
        ask(&bench, Always).unwrap();
        bench.events.take();
        for _ in 0..3 {
            let error = ask(&bench, Always).unwrap_err();
            assert_eq!((error.kind(), error.message()), (ErrorKind::RateLimited, "pull QPS exceeded"));
            assert_eq!(bench.events.take_reasons(), ["Failed"]);
        }
        bench.clock.advance(Duration::from_secs(1));
        ask(&bench, Always).unwrap();
        assert_eq!(bench.manager.metrics().throttled, 3);
        assert_eq!(bench.manager.metrics().back_off_keys, 0);
    }
    for kind in BOTH {
        let bench = Bench::with(kind, |b| b.qps(1.0).burst(1).throttle(ThrottleMode::Wait));
        ask(&bench, Always).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&bench, Always));
            let wait = bench.clock.waits.recv_timeout(common::SOON).unwrap();
            assert_eq!(wait, Duration::from_secs(1));
            bench.clock.advance(wait);
            let image = waiting.join().unwrap().unwrap();
            match image.source {
                ImageSource::Pulled { wait_duration, .. } => assert_eq!(wait_duration, wait),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn a_wait_for_the_throttle_ends_with_its_context() {
    let bench = Bench::with(Kind::Serial, |b| b.qps(0.01).burst(1).throttle(ThrottleMode::Wait));
    ask(&bench, Always).unwrap();
    let token = oci_puller::CancelToken::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let request = EnsureRequest::new("pod", IMAGE).with_policy(Always);
            bench.manager.ensure_image_exists(&PullContext::new().with_cancel(&token), &request)
        });
        bench.clock.waits.recv_timeout(common::SOON).unwrap();
        token.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    assert_eq!(bench.manager.metrics().queued, 0);
}

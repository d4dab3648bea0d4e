//! The credentials that may use a present image: records of pulls, across restarts and damage.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::node::{BOTH, Bench, Kind, Node, error, secrets};
use oci_puller::manager::{ImageSource, VerificationPolicy};
use oci_puller::{EnsureRequest, ErrorKind, ImageManager, PullContext, PullPolicy, PullSecret};

const IMAGE: &str = "r.io/team/app:v1";

fn bench(kind: Kind, node: &Arc<Node>, dir: &Path, policy: VerificationPolicy) -> Bench {
    Bench::over(kind, Arc::clone(node), |builder| builder.records(dir).verification_policy(policy))
}

fn request(owner: &str, secrets: Vec<PullSecret>) -> EnsureRequest {
    EnsureRequest::new(owner, IMAGE).with_pull_secrets(secrets)
}

/// What is there was good enough.
fn is_let_in(bench: &Bench, secrets: Vec<PullSecret>) -> bool {
    let image = bench.ensure(&request("pod", secrets)).unwrap();
    matches!(image.source, ImageSource::Present)
}

#[test]
fn each_policy_asks_again_as_it_should() {
    use VerificationPolicy::*;
    let listed = || NeverVerifyAllowlistedImages(vec!["r.io/team/*".to_owned()]);
    let unlisted = || NeverVerifyAllowlistedImages(vec!["r.io/other".to_owned()]);
    // policy, let in on a preloaded image, with the secrets that pulled, with others, without
    let table = [
        (NeverVerify, true, true, true, true),
        (NeverVerifyPreloadedImages, true, true, false, false),
        (listed(), true, true, true, true),
        (unlisted(), false, true, false, false),
        (AlwaysVerify, false, true, false, false),
    ];
    for (policy, preloaded, same, other, none) in table {
        for kind in BOTH {
            let is_let_in_on = |is_pulled: bool, content: Option<&str>| {
                let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
                let bench = bench(kind, &node, dir.path(), policy.clone());
                if is_pulled {
                    bench.ensure(&request("first", secrets("a"))).unwrap();
                } else {
                    node.add(IMAGE);
                }
                is_let_in(&bench, content.map(secrets).unwrap_or_default())
            };
            assert_eq!(is_let_in_on(false, None), preloaded, "{policy:?}: preloaded");
            assert_eq!(is_let_in_on(true, Some("a")), same, "{policy:?}: the same secrets");
            assert_eq!(is_let_in_on(true, Some("b")), other, "{policy:?}: other secrets");
            assert_eq!(is_let_in_on(true, None), none, "{policy:?}: no secrets");
        }
    }
}

#[test]
fn records_outlive_the_manager() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    let manager = || bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    manager().ensure(&request("pod", secrets("a"))).unwrap();
    assert!(is_let_in(&manager(), secrets("a")));
    assert!(!is_let_in(&manager(), secrets("b")), "pulls, and is recorded, too");
    assert!(is_let_in(&manager(), secrets("b")));
    assert!(!is_let_in(&manager(), Vec::new()), "pulls without secrets: good for all");
    assert!(is_let_in(&manager(), secrets("c")));
}

#[test]
fn who_could_not_have_pulled_is_refused_by_each_policy() {
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never, PullPolicy::PullIfPossible] {
        let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
        let bench = bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
        bench.ensure(&request("first", secrets("a"))).unwrap();
        node.fail(IMAGE, error(ErrorKind::Unavailable));
        let outcome = bench.ensure(&request("pod", secrets("b")).with_policy(policy));
        let expected =
            if policy == PullPolicy::Never { ErrorKind::NeverPull } else { ErrorKind::Unavailable };
        assert_eq!(outcome.unwrap_err().kind(), expected, "{policy}");
        if policy == PullPolicy::Never {
            let events = bench.events.take();
            assert_eq!(events.last().map(|event| event.reason.as_str()), Some("ErrImageNeverPull"));
        }
    }
}

#[test]
fn records_that_cannot_be_read_mean_ask_again() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    let manager = || bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    manager().ensure(&request("pod", Vec::new())).unwrap();
    assert!(is_let_in(&manager(), Vec::new()));
    for record in fs::read_dir(dir.path().join("pulled")).unwrap() {
        fs::write(record.unwrap().path(), "}").unwrap();
    }
    assert!(!is_let_in(&manager(), Vec::new()));
    assert!(is_let_in(&manager(), Vec::new()), "the pull recorded it again");
}

#[test]
fn a_pull_that_never_ended_is_no_preloaded_image() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    // What a process leaves that was killed while it pulled.
    let name = oci_puller::image::Digest::sha256(IMAGE.as_bytes());
    fs::create_dir_all(dir.path().join("pulling")).unwrap();
    let file = dir.path().join(format!("pulling/{}-1", name.hex()));
    fs::write(file, format!(r#"{{"image":"{IMAGE}"}}"#)).unwrap();
    node.add(IMAGE);
    let bench = bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    assert!(!is_let_in(&bench, secrets("a")));
    assert!(is_let_in(&bench, secrets("a")));
}

#[test]
fn no_secret_and_no_trace_of_a_failed_pull_is_on_the_disk() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    let bench = bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    bench.ensure(&request("pod", secrets("marker"))).unwrap();
    let mut records = 0;
    for record in fs::read_dir(dir.path().join("pulled")).unwrap() {
        assert!(!fs::read_to_string(record.unwrap().path()).unwrap().contains("marker"));
        records += 1;
    }
    assert_eq!(records, 1);

    node.fail("r.io/other:v1", error(ErrorKind::NotFound));
    bench.ensure(&EnsureRequest::new("pod", "r.io/other:v1")).unwrap_err();
    assert_eq!(fs::read_dir(dir.path().join("pulling")).unwrap().count(), 0);
}

#[test]
fn a_pull_that_cannot_be_recorded_is_not_begun() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    let bench = bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    fs::remove_dir(dir.path().join("pulling")).unwrap();
    let error = bench.ensure(&request("pod", Vec::new())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.message().starts_with("records: "), "{error}");
    assert!(node.started.is_empty());
}

#[test]
fn a_folder_that_another_manager_has_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let build = || ImageManager::builder(Node::new()).records(dir.path()).build();
    let first = build().unwrap();
    let error = build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().starts_with("records: "), "{error}");
    drop(first);
    build().unwrap();
}

#[test]
fn records_of_images_that_are_gone_are_pruned() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Arc::new(Node::new()));
    let bench = bench(Kind::Serial, &node, dir.path(), VerificationPolicy::default());
    bench.ensure(&request("pod", Vec::new())).unwrap();
    assert_eq!(bench.manager.prune_records(&PullContext::new()).unwrap(), 0);
    node.remove(IMAGE);
    assert_eq!(bench.manager.prune_records(&PullContext::new()).unwrap(), 1);
    assert_eq!(fs::read_dir(dir.path().join("pulled")).unwrap().count(), 0);
}

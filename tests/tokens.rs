//! Tokens: requests for them, their reuse, and refused ones.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::SOON;
use common::pulls::quick;
use oci_puller::credentials::Credential;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Stage, Target, TokenServer};
use oci_puller::{ErrorKind, ImageService, PullContext, PullRequest, PullSecret};

fn image(repository: &str) -> Image {
    ImageBuilder::new(repository).layer(5_000).layer(3_000).build()
}

fn registry(tokens: &TokenServer) -> (Registry, String) {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image("library/app"), "v1");
    registry.require_token(tokens);
    (registry, name)
}

fn targets(registry: &Registry) -> Vec<Target> {
    registry.requests().iter().map(|request| request.target).collect()
}

#[test]
fn an_anonymous_pull_requests_a_manifest_then_config_and_layers() {
    use Target::{Blob, Manifest, Token};
    let (registry, name) = registry(&TokenServer::new().anonymous());
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    service.pull(&*name).unwrap();
    assert_eq!(targets(&registry), [Manifest, Token, Manifest, Blob, Blob, Blob]);
    assert_eq!(registry.stats().pings, 0);

    // Known already: another image of the same repository asks for nothing but itself.
    let other = ImageBuilder::new("library/app").seed(9).layer(2_000).build();
    let other = registry.push(&other, "v2");
    registry.forget_requests();
    service.pull(&*other).unwrap();
    assert_eq!(targets(&registry), [Manifest, Blob, Blob]);

    // Another repository needs a token of its own, and no challenge for it.
    let other = registry.push(&image("library/other"), "v1");
    registry.forget_requests();
    service.pull(&*other).unwrap();
    assert_eq!(targets(&registry)[..2], [Token, Manifest]);
}

#[test]
fn a_token_is_asked_for_once_however_many_pulls_need_it() {
    let tokens = TokenServer::new().anonymous();
    let (registry, _) = registry(&tokens);
    let names: Vec<String> = (0..8)
        .map(|n| {
            registry.push(&ImageBuilder::new("library/app").seed(n).layer(1_000).build(), &format!("t{n}"))
        })
        .collect();
    let slow = registry.fault(Fault::on(Target::Token).with(Action::Hold(Stage::BeforeHead)));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).connections_per_host(16).build().unwrap();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| service.pull(&**name).unwrap());
        }
        assert!(slow.wait_fired(1, SOON));
        // The others have time to ask, too.
        thread::sleep(Duration::from_millis(150));
        slow.release();
    });
    assert_eq!(registry.stats().tokens, 1);
    assert_eq!(tokens.issued()[0].scopes, ["repository:library/app:pull"]);
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_pull_is_renewed_once() {
    let tokens = TokenServer::new().anonymous();
    let (registry, name) = registry(&tokens);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).downloads_per_pull(3).build().unwrap();
    let held = registry.fault(Fault::on(Target::Manifest).with(Action::Hold(Stage::Body(10))));
    thread::scope(|scope| {
        let pull = scope.spawn(|| service.pull(&*name));
        assert!(held.wait_fired(1, SOON));
        registry.expire_tokens();
        held.release();
        pull.join().unwrap().unwrap();
    });
    assert_eq!(registry.stats().tokens, 2, "one to begin with, one anew for three threads");
}

#[test]
fn a_403_from_a_token_that_was_good_counts_as_expired() {
    let (registry, name) = registry(&TokenServer::new().anonymous());
    let denied = Fault::on(Target::Blob).times(1).with(Action::Status(403));
    registry.fault(denied);
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).build().unwrap().pull(&*name).unwrap();
    assert_eq!(registry.stats().tokens, 2);
}

#[test]
fn a_token_is_used_until_shortly_before_it_expires() {
    for (expires_in, tokens_for_two_pulls) in [(Some(3600), 1), (None, 1), (Some(1), 2)] {
        let (registry, name) = registry(&TokenServer::new().anonymous().expires_in(expires_in));
        let other = ImageBuilder::new("library/app").seed(9).layer(2_000).build();
        let other = registry.push(&other, "v2");
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).build().unwrap();
        service.pull(&*name).unwrap();
        if expires_in == Some(1) {
            thread::sleep(Duration::from_millis(1000));
        }
        service.pull(&*other).unwrap();
        assert_eq!(registry.stats().tokens, tokens_for_two_pulls, "{expires_in:?}");
    }
}

#[test]
fn credentials_are_tried_in_order_and_anonymous_last() {
    let with_user = || TokenServer::new().user("ann", "right");
    let right = || Credential::basic("ann", "right");
    let wrong = || Credential::basic("ann", "wrong");
    // What the registry takes, what it is shown, and how the pull ends.
    for (tokens, credentials, kind, asked_for_tokens) in [
        (with_user(), vec![right()], None, 1),
        (with_user(), vec![wrong(), right()], None, 2),
        (with_user(), vec![wrong()], Some(ErrorKind::Unauthorized), 2),
        (with_user().anonymous(), vec![wrong()], None, 2),
        (with_user(), vec![], Some(ErrorKind::Unauthorized), 1),
    ] {
        let (registry, name) = registry(&tokens);
        let dir = tempfile::tempdir().unwrap();
        let mut builder = quick(dir.path());
        for credential in &credentials {
            builder = builder.credential(registry.host(), credential.clone());
        }
        let outcome = builder.build().unwrap().pull(&*name);
        assert_eq!(outcome.as_ref().err().map(|error| error.kind()), kind, "{credentials:?}: {outcome:?}");
        assert_eq!(registry.stats().tokens, asked_for_tokens, "{credentials:?}");
        if let Err(error) = outcome {
            let told = format!("{error} {error:?}");
            assert!(!told.contains("wrong"), "a password is told: {told}");
            let source = if credentials.is_empty() { "no credentials" } else { "static credentials" };
            assert!(told.contains(source), "{told}");
        }
    }
}

#[test]
fn basic_authentication_is_shown_from_the_second_question_on() {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image("library/app"), "v1");
    registry.require_basic("ann", "right");
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();

    let error = service.pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(registry.stats().requests, 1, "nobody's credentials are not shown twice");

    let auth = "YW5uOnJpZ2h0";
    let secret = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.host());
    let mut request = PullRequest::new(0, &*name);
    request.pull_secrets.push(PullSecret::docker_config_json(secret));
    let pulled = service.pull_image(&PullContext::new(), &request).unwrap();
    assert_eq!(pulled.credential, Some(Credential::basic("ann", "right").fingerprint()));
    let shown =
        registry.requests().iter().filter(|request| request.header("authorization").is_some()).count();
    assert_eq!((registry.stats().requests, shown), (5, 4));
}

#[test]
fn an_identity_token_is_posted_and_a_registry_token_shown_as_it_is() {
    let tokens = TokenServer::new().identity_token("marker-identity");
    let (registry, name) = registry(&tokens);
    let dir = tempfile::tempdir().unwrap();
    let identity = Credential::identity_token("marker-identity");
    quick(dir.path()).credential(registry.host(), identity).build().unwrap().pull(&*name).unwrap();
    let posted: Vec<SeenRequest> =
        registry.requests().into_iter().filter(|request| request.target == Target::Token).collect();
    assert_eq!((posted.len(), posted[0].method.as_str()), (1, "POST"));
    assert!(posted[0].header("authorization").is_none());

    let good = tokens.issued()[0].token.clone();
    let dir = tempfile::tempdir().unwrap();
    let token = Credential::registry_token(good);
    quick(dir.path()).credential(registry.host(), token).build().unwrap().pull(&*name).unwrap();
    assert_eq!(registry.stats().tokens, 1);
}

#[test]
fn a_realm_at_a_link_local_address_is_asked_not_even_for_a_registry_on_this_machine() {
    for realm in [
        "http://169.254.169.254/token",
        "http://0xa9fea9fe/token",
        "http://100.100.100.200/token",
        "http://[fe80::1]/token",
        "file:///etc",
    ] {
        let (registry, name) = registry(&TokenServer::new().anonymous().realm(realm));
        let dir = tempfile::tempdir().unwrap();
        let error = quick(dir.path()).build().unwrap().pull(&*name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{realm}: {error}");
        assert_eq!(registry.stats().requests, 1);
    }
}

#[test]
fn a_token_server_that_asks_to_be_left_alone_is_by_every_pull() {
    let realm = Arc::new(Registry::start().unwrap());
    let tokens = TokenServer::new().anonymous().realm(format!("{}/token", realm.url()));
    let (registry, name) = registry(&tokens);
    realm.require_token(&tokens);
    let busy = Fault::on(Target::Token).times(1).with(Action::Status(429));
    realm.fault(busy.with(Action::header("Retry-After", "1")));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    let begin = std::time::Instant::now();
    service.pull(&*name).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    assert_eq!((realm.stats().tokens, registry.stats().tokens), (2, 0));
}

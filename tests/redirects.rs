//! Redirects: each is followed explicitly, and no credential reaches another host.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use common::pulls::{hosts_toml, quick};
use oci_puller::ErrorKind;
use oci_puller::credentials::Credential;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Stage, Target, TokenServer};

fn image() -> Image {
    ImageBuilder::new("library/app").layer(50_000).build()
}

fn layer_fault(image: &Image) -> Fault {
    Fault::on(Target::Blob).path_containing(image.layers()[0].digest.as_str())
}

/// A registry that requires a password and redirects requests for layers to another host.
fn registry_and_cdn(location: &str) -> (Registry, Registry, Image, String) {
    let (registry, cdn, image) = (Registry::start().unwrap(), Registry::start().unwrap(), image());
    let name = registry.push(&image, "v1");
    registry.require_basic("ann", "marker-password");
    cdn.put_file("/cdn", image.layers()[0].data.clone());
    let location = location.replace("CDN", &cdn.url());
    registry.fault(layer_fault(&image).with(Action::Redirect(location)));
    (registry, cdn, image, name)
}

#[test]
fn another_host_sees_neither_credentials_nor_headers() {
    let (registry, cdn, _, name) = registry_and_cdn("CDN/cdn?signature=x");
    let dir = tempfile::tempdir().unwrap();
    let hosts = format!("server = '{}'\n[header]\nx-own = 'marker-header'", registry.url());
    let service = quick(dir.path())
        .hosts_dir(hosts_toml(dir.path(), &registry.host(), &hosts))
        .credential(registry.host(), Credential::basic("ann", "marker-password"));
    service.build().unwrap().pull(&*name).unwrap();
    let seen = cdn.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].header("authorization"), seen[0].header("x-own")), (None, None));
    assert_eq!(seen[0].query, "signature=x");
    assert!(registry.requests().iter().all(|request| request.header("x-own") == Some("marker-header")));
}

#[test]
fn a_broken_download_behind_a_redirect_resumes_there() {
    let (registry, cdn, image, name) = registry_and_cdn("CDN/cdn");
    cdn.fault(Fault::anywhere().times(1).with(Action::Cut(20_000)));
    let dir = tempfile::tempdir().unwrap();
    let credential = Credential::basic("ann", "marker-password");
    quick(dir.path()).credential(registry.host(), credential).build().unwrap().pull(&*name).unwrap();
    let ranges: Vec<_> = cdn.requests().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=20000-".to_owned())]);
    assert_eq!(cdn.stats().body_bytes, image.layers()[0].size());
}

#[test]
fn a_signed_url_that_expired_is_asked_for_anew() {
    for status in [401, 403, 410] {
        let (registry, cdn, _, name) = registry_and_cdn("CDN/cdn");
        cdn.fault(Fault::anywhere().times(1).with(Action::Status(status)));
        let dir = tempfile::tempdir().unwrap();
        let credential = Credential::basic("ann", "marker-password");
        quick(dir.path()).credential(registry.host(), credential).build().unwrap().pull(&*name).unwrap();
        assert_eq!(cdn.stats().requests, 2, "{status}");
    }
}

#[test]
fn a_refusal_behind_a_redirect_is_not_about_the_credentials_of_the_registry() {
    let (registry, cdn, _, name) = registry_and_cdn("CDN/cdn");
    cdn.fault(Fault::anywhere().with(Action::Status(403)));
    let dir = tempfile::tempdir().unwrap();
    let credential = Credential::basic("ann", "marker-password");
    let service = quick(dir.path()).credential(registry.host(), credential).build().unwrap();
    let error = service.pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // The password is still good for the next pull.
    cdn.clear_faults();
    service.pull(&*name).unwrap();
}

#[test]
fn an_error_quotes_no_body_of_a_host_that_was_redirected_to() {
    let s3 =
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    for (status, body, quoted) in [
        (200, r#"{"schemaVersion":2,"mediaType":"marker"}"#, None),
        (200, "<html><title>marker</title></html>", None),
        (200, "marker", None),
        (403, r#"{"errors":[{"code":"marker","message":"marker"}]}"#, None),
        (404, "marker", None),
        (500, "<html><title>marker</title></html>", None),
        (400, "<Error><Message>marker</Message></Error>", None),
        (403, s3, Some("Request has expired")),
        (500, s3, Some("Request has expired")),
    ] {
        let (registry, inner) = (Registry::start().unwrap(), Registry::start().unwrap());
        let name = registry.push(&image(), "v1");
        let location = format!("{}/inner", inner.url());
        let redirect = Fault::on(Target::Manifest).with(Action::Status(307));
        registry.fault(redirect.with(Action::header("Location", &location)));
        inner.fault(Fault::anywhere().with(Action::Status(status)).with(Action::Body(body.into())));
        let dir = tempfile::tempdir().unwrap();
        let error = quick(dir.path()).tries(1).build().unwrap().pull(&*name).unwrap_err();
        let text = format!("{error} {error:?}");
        assert_eq!(error.host(), Some(&*inner.host()), "{body}: {text}");
        assert!(!text.contains("marker"), "{status} {body}: {text}");
        assert!(quoted.is_none_or(|quoted| text.contains(quoted)), "{status} {body}: {text}");
    }
}

#[test]
fn redirects_that_are_not_followed() {
    for location in ["ftp://127.0.0.1/x", "http://ann:pw@127.0.0.1/x", "http://", "{path}"] {
        let (registry, _, _, name) = registry_and_cdn(location);
        let dir = tempfile::tempdir().unwrap();
        let credential = Credential::basic("ann", "marker-password");
        let service = quick(dir.path()).credential(registry.host(), credential).build().unwrap();
        let error = service.pull(&*name).unwrap_err();
        assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Protocol, 1), "{location}: {error}");
    }
}

#[test]
fn a_layers_own_urls_are_used_only_if_the_builder_allows_and_anonymously() {
    let elsewhere = Registry::start().unwrap();
    let plain = image();
    elsewhere.put_file("/foreign", plain.layers()[0].data.clone());
    let url = format!("{}/foreign", elsewhere.url());
    let image = ImageBuilder::new("library/app")
        .layer(50_000)
        .rewrite_manifest(move |json| {
            let mut manifest: serde_json::Value = serde_json::from_slice(&json).unwrap();
            manifest["layers"][0]["urls"] = serde_json::json!(["http://169.254.169.254/x", url]);
            manifest.to_string().into_bytes()
        })
        .build();
    for allowed in [false, true] {
        let registry = Registry::start().unwrap();
        let name = registry.push(&image, "v1");
        registry.require_basic("ann", "marker-password");
        registry.fault(layer_fault(&image).with(Action::Status(404)));
        let dir = tempfile::tempdir().unwrap();
        let mut builder =
            quick(dir.path()).credential(registry.host(), Credential::basic("ann", "marker-password"));
        if allowed {
            builder = builder.allow_foreign_urls();
        }
        let outcome = builder.build().unwrap().pull(&*name);
        assert_eq!(outcome.map_err(|error| error.kind()).err(), (!allowed).then_some(ErrorKind::NotFound));
    }
    let seen = elsewhere.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
}

/// A registry at a vanity name, which redirects all that it is asked to the registry that has the image.
fn vanity_and_registry() -> (Registry, Registry, String) {
    let (vanity, registry) = (Registry::start().unwrap(), Registry::start().unwrap());
    registry.push(&image(), "v1");
    vanity.fault(Fault::anywhere().with(Action::Redirect(format!("{}{{path}}", registry.url()))));
    let name = format!("{}/library/app:v1", vanity.host());
    (vanity, registry, name)
}

#[test]
fn a_challenge_behind_a_redirect_belongs_to_the_host_that_it_leads_to() {
    let mut cases = Vec::new();
    // What the registry asks for, the credential that is configured for it, and whether the pull succeeds.
    for (name, ask) in [("token", true), ("basic", false)] {
        for (known, expected) in [(Some("right"), true), (Some("wrong"), false), (None, false)] {
            cases.push((name, ask, known, expected));
        }
    }
    for (what, is_token, known, expected) in cases {
        let (vanity, registry, name) = vanity_and_registry();
        match is_token {
            true => registry.require_token(&TokenServer::new().user("ann", "right")),
            false => registry.require_basic("ann", "right"),
        }
        let dir = tempfile::tempdir().unwrap();
        let mut builder = quick(dir.path()).credential(vanity.host(), Credential::basic("bob", "of-vanity"));
        if let Some(password) = known {
            builder = builder.credential(registry.host(), Credential::basic("ann", password));
        }
        let outcome = builder.build().unwrap().pull(&*name);
        assert_eq!(outcome.is_ok(), expected, "{what} {known:?}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
            assert_eq!(error.host(), Some(&*registry.host()), "{error}");
        }
        let of_vanity = "Ym9iOm9mLXZhbml0eQ=="; // bob:of-vanity
        for request in registry.requests() {
            assert!(!request.header("authorization").unwrap_or_default().contains(of_vanity), "{request:?}");
            assert!(!request.query.contains("bob"), "{request:?}");
        }
        assert!(vanity.requests().iter().all(|request| request.header("authorization").is_none()));
    }
}

#[test]
fn an_anonymous_token_is_got_behind_a_redirect() {
    let (vanity, registry, name) = vanity_and_registry();
    let tokens = TokenServer::new().anonymous();
    registry.require_token(&tokens);
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).build().unwrap().pull(&*name).unwrap();
    assert_eq!(tokens.issued().len(), 1);
    assert_eq!(vanity.stats().tokens, 0);
}

#[test]
fn storage_that_answered_is_asked_directly_until_it_refuses() {
    const CHUNK: u64 = 64 * 1024;
    let (registry, cdn) = (Registry::start().unwrap(), Registry::start().unwrap());
    let image = ImageBuilder::new("library/app").layer(24 * CHUNK as usize).build();
    let name = registry.push(&image, "v1");
    cdn.put_file("/cdn", image.layers()[0].data.clone());
    registry.fault(layer_fault(&image).with(Action::Redirect(format!("{}/cdn", cdn.url()))));
    let layer = image.layers()[0].digest.to_string();
    let asked = |registry: &Registry| {
        registry.requests().iter().filter(|request| request.path.contains(&layer)).count()
    };
    let pull = || {
        let dir = tempfile::tempdir().unwrap();
        quick(dir.path()).chunks(CHUNK, CHUNK).downloads_per_pull(1).build().unwrap().pull(&*name).unwrap();
    };
    pull();
    assert_eq!(asked(&registry), 1, "of {} chunks", cdn.stats().requests);
    assert!(cdn.stats().requests >= 24);

    // Refused, cut off, or gone: the registry is asked again.
    for action in [Action::Status(401), Action::Status(403), Action::Status(410), Action::Status(404)] {
        registry.forget_requests();
        let refused = cdn.fault(Fault::anywhere().skip(5).times(1).with(action));
        pull();
        assert_eq!((refused.fired(), asked(&registry)), (1, 2));
        cdn.clear_faults();
    }
    registry.forget_requests();
    cdn.fault(Fault::anywhere().skip(5).times(1).with(Action::Reset(Stage::BeforeHead)));
    pull();
    assert!(asked(&registry) <= 2);
}

//! Mirrors, from the builder and from `hosts.toml`: their order, requests and fail-over.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::SOON;
use common::pulls::{hosts_toml, quick};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Stage, Target};
use oci_puller::{ErrorKind, ImageService, PullContext, PullRequest};

/// An image at a registry and at a mirror of it.
struct Pair {
    image: Image,
    name: String,
    origin: Registry,
    mirror: Registry,
    dir: tempfile::TempDir,
}

impl Pair {
    fn new(layer: usize) -> Self {
        let image = ImageBuilder::new("library/app").layer(layer).build();
        let (origin, mirror) = (Registry::start().unwrap(), Registry::start().unwrap());
        let name = origin.push(&image, "v1");
        mirror.push(&image, "v1");
        Pair { image, name, origin, mirror, dir: tempfile::tempdir().unwrap() }
    }

    /// A service that knows the mirror from its builder.
    fn built(&self) -> RegistryImageServiceBuilder {
        quick(self.dir.path()).mirror(self.origin.host(), self.mirror.url())
    }

    /// A service that knows the mirror from a file, with `settings`.
    fn configured(&self, settings: &str) -> RegistryImageServiceBuilder {
        let hosts = format!(
            "server = '{}'\n[header]\nx-own = 'for-origin'\n[host.'{mirror}']\n{settings}\n[host.'{mirror}'.header]\nx-own = 'for-mirror'\n",
            self.origin.url(),
            mirror = self.mirror.url(),
        );
        quick(self.dir.path()).hosts_dir(hosts_toml(self.dir.path(), &self.origin.host(), &hosts))
    }

    fn layer(&self) -> Fault {
        Fault::on(Target::Blob).path_containing(self.image.layers()[0].digest.as_str())
    }
}

#[test]
fn a_mirror_is_asked_with_the_namespace_of_the_registry() {
    let pair = Pair::new(5_000);
    pair.built().build().unwrap().pull(&*pair.name).unwrap();
    assert_eq!(pair.origin.stats().requests, 0);
    let told = format!("ns={}", pair.origin.host());
    assert!(pair.mirror.requests().iter().all(|request| request.query == told));
}

#[test]
fn the_registry_itself_is_asked_without_a_namespace() {
    let pair = Pair::new(5_000);
    pair.mirror.shutdown();
    pair.built().build().unwrap().pull(&*pair.name).unwrap();
    assert!(pair.origin.requests().iter().all(|request| request.query.is_empty()));
}

#[test]
fn a_header_for_one_host_never_reaches_another() {
    let pair = Pair::new(5_000);
    pair.mirror.fault(pair.layer().with(Action::Status(404)));
    pair.configured("").build().unwrap().pull(&*pair.name).unwrap();
    for (registry, own) in [(&pair.origin, "for-origin"), (&pair.mirror, "for-mirror")] {
        assert!(!registry.requests().is_empty());
        assert!(registry.requests().iter().all(|request| request.header("x-own") == Some(own)), "{own}");
    }
}

#[test]
fn a_configured_authorization_is_sent_until_the_host_asks_for_another_one() {
    let pair = Pair::new(1_000);
    let hosts = format!("server = '{}'\n[header]\nAuthorization = 'Basic eDp5'", pair.origin.url());
    let builder = || {
        let folder = hosts_toml(pair.dir.path(), &pair.origin.host(), &hosts);
        quick(pair.dir.path()).hosts_dir(folder)
    };
    builder().build().unwrap().pull(&*pair.name).unwrap();
    let shown =
        |pair: &Pair| pair.origin.requests().pop().unwrap().header("authorization").map(str::to_owned);
    assert_eq!(shown(&pair).as_deref(), Some("Basic eDp5"));

    let other = pair.origin.push(&ImageBuilder::new("library/other").layer(1_000).build(), "v1");
    let refused = Fault::anywhere().when(|seen| seen.header("authorization") == Some("Basic eDp5"));
    let challenge = Action::AddHeader("WWW-Authenticate".into(), "Basic realm=\"x\"".into());
    pair.origin.fault(refused.with(Action::Status(401)).with(challenge));
    let credential = oci_puller::credentials::Credential::basic("ann", "secret");
    builder().credential(pair.origin.host(), credential).build().unwrap().pull(&*other).unwrap();
    // `ann:secret`
    assert_eq!(shown(&pair).as_deref(), Some("Basic YW5uOnNlY3JldA=="));
}

#[test]
fn capabilities_are_kept() {
    use Target::{Blob, Manifest};
    // What the mirror may do, and what the mirror and the registry are asked for.
    for (capabilities, of_mirror, of_origin) in [
        ("['pull', 'resolve']", vec![Manifest, Blob, Blob], vec![]),
        ("['pull']", vec![Blob, Blob], vec![Manifest]),
        ("['resolve']", vec![Manifest], vec![Blob, Blob]),
        ("['push']", vec![], vec![Manifest, Blob, Blob]),
    ] {
        let pair = Pair::new(5_000);
        let service = pair.configured(&format!("capabilities = {capabilities}")).build().unwrap();
        service.pull(&*pair.name).unwrap();
        for (registry, expected) in [(&pair.mirror, of_mirror), (&pair.origin, of_origin)] {
            let asked: Vec<Target> = registry.requests().iter().map(|request| request.target).collect();
            assert_eq!(asked, expected, "{capabilities}");
        }
    }
}

#[test]
fn a_tag_is_not_resolved_by_a_mirror_that_must_not_even_if_the_registry_is_gone() {
    let pair = Pair::new(5_000);
    pair.origin.shutdown();
    let service = pair.configured("capabilities = ['pull']").build().unwrap();
    assert_eq!(service.pull(&*pair.name).unwrap_err().kind(), ErrorKind::ConnectionFailed);
    assert_eq!(pair.mirror.stats().requests, 0);
    // A digest needs no confirmation by the registry.
    let by_digest = format!("{}/library/app@{}", pair.origin.host(), pair.image.digest());
    service.pull(by_digest).unwrap();
}

#[test]
fn another_host_takes_over_in_the_middle_of_a_blob_at_the_offset_reached() {
    for action in
        [Action::Cut(300_000), Action::Reset(Stage::Body(300_000)), Action::Hold(Stage::Body(300_000))]
    {
        let pair = Pair::new(1_000_000);
        let size = pair.image.layers()[0].size();
        pair.mirror.fault(pair.layer().with(action.clone()));
        let service = pair.built().silence_timeout(Duration::from_millis(300)).build().unwrap();
        service.pull(&*pair.name).unwrap();
        // The config may be asked for there, too, once the mirror has failed.
        let layer = pair.image.layers()[0].digest.as_str();
        let mut seen = pair.origin.requests();
        seen.retain(|request| request.path.ends_with(layer));
        assert_eq!(seen.len(), 1, "{action:?}: {seen:?}");
        let range = seen[0].header("range").unwrap().to_owned();
        let offset: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        // A reset may cost what was on its way.
        assert!(offset <= 300_000, "{range}");
        if !matches!(action, Action::Reset(_)) {
            assert_eq!(offset, 300_000, "{action:?}");
        }
        assert!(pair.origin.stats().blob_bytes < size - offset + 1_000, "only the rest comes from there");
    }
}

#[test]
fn a_host_that_failed_is_tried_last_for_a_while() {
    let pair = Pair::new(5_000);
    let broken = pair.mirror.fault(Fault::anywhere().with(Action::Status(503)));
    let service = pair.built().build().unwrap();
    service.pull(&*pair.name).unwrap();
    assert_eq!(broken.fired(), 1, "one failure, and the blobs are asked for elsewhere");
    broken.remove();
    pair.mirror.forget_requests();
    let other = ImageBuilder::new("library/other").layer(1_000).build();
    let other = pair.origin.push(&other, "v1");
    service.pull(&*other).unwrap();
    assert!(pair.mirror.requests().is_empty());
    // When the others fail it has its chance.
    pair.origin.shutdown();
    pair.mirror.push(&ImageBuilder::new("library/third").layer(1_000).build(), "v1");
    service.pull(format!("{}/library/third:v1", pair.origin.host())).unwrap();
}

#[test]
fn a_mirror_with_retry_after_delays_no_other_host() {
    let pair = Pair::new(5_000);
    let busy = Fault::anywhere().with(Action::Status(429)).with(Action::header("Retry-After", "60"));
    let busy = pair.mirror.fault(busy);
    let service = pair.built().max_retry_after(Duration::from_secs(60)).build().unwrap();
    let begin = std::time::Instant::now();
    service.pull(&*pair.name).unwrap();
    let absent = service.pull(format!("{}/library/absent:v1", pair.origin.host())).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert!(begin.elapsed() < SOON);
    assert_eq!(busy.fired(), 1);
}

#[test]
fn a_failure_lists_each_attempt_at_each_host() {
    let pair = Pair::new(5_000);
    pair.mirror.fault(Fault::anywhere().with(Action::Status(500)));
    pair.origin.fault(Fault::anywhere().with(Action::Status(404)));
    let error = pair.built().build().unwrap().pull(&*pair.name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "the registry's own word counts");
    let attempts: Vec<_> = error.attempts().iter().map(|it| (it.host.clone(), it.error.kind())).collect();
    let expected = [(pair.mirror.host(), ErrorKind::Unavailable), (pair.origin.host(), ErrorKind::NotFound)];
    assert_eq!(attempts, expected);
}

#[test]
fn a_missing_tag_beside_a_mirror_with_certificate_trouble_says_both() {
    let pair = Pair::new(1_000);
    // A TLS client at an HTTP port.
    let mirror = pair.mirror.url().replace("http:", "https:");
    let service = quick(pair.dir.path()).mirror(pair.origin.host(), mirror).build().unwrap();
    let error = service.pull(format!("{}/library/app:missing", pair.origin.host())).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{text}");
    assert!(text.contains(&format!("{}: not found: status 404", pair.origin.host())), "{text}");
    assert!(text.contains(&format!("also tried {}: TLS failed: ", pair.mirror.host())), "{text}");
}

#[test]
fn html_in_place_of_a_manifest_is_an_error_of_that_host() {
    let page = "<!DOCTYPE html>\n<html><head><title>Access\nblocked</title></head></html>";
    let blocked = || Fault::on(Target::Manifest).with(Action::Status(200)).with(Action::Body(page.into()));
    let pair = Pair::new(1_000);
    pair.mirror.fault(blocked());
    pair.built().build().unwrap().pull(&*pair.name).unwrap();

    pair.origin.fault(blocked());
    let by_digest = format!("{}/library/app@{}", pair.origin.host(), pair.image.digest());
    for name in [&pair.name, &by_digest] {
        let dir = tempfile::tempdir().unwrap();
        let error = quick(dir.path()).build().unwrap().pull(&**name).unwrap_err();
        let text = error.to_string();
        assert_eq!((error.kind(), error.host()), (ErrorKind::Protocol, Some(&*pair.origin.host())), "{text}");
        assert!(text.contains("HTML came where JSON was due") && text.contains("Access blocked"), "{text}");
    }
}

#[derive(Default)]
struct Hosts(Mutex<Vec<(String, u64)>>);

impl Progress for Hosts {
    fn event(&self, event: &ProgressEvent) {
        if let ProgressEvent::BlobStarted { host, offset, size, .. } = event
            && *size > 100_000
        {
            self.0.lock().unwrap().push(((*host).to_owned(), *offset));
        }
    }
}

#[test]
fn progress_names_the_host_that_serves_and_its_successor() {
    let pair = Pair::new(200_000);
    pair.mirror.fault(pair.layer().with(Action::Cut(70_000)));
    let hosts = std::sync::Arc::new(Hosts::default());
    let cx = PullContext::new().with_progress(hosts.clone());
    pair.built().build().unwrap().pull_image(&cx, &PullRequest::new(0, &*pair.name)).unwrap();
    let told = hosts.0.lock().unwrap().clone();
    assert_eq!(told, [(pair.mirror.host(), 0), (pair.origin.host(), 70_000)]);
}

#[test]
fn a_hosts_file_that_is_wrong_stops_the_pull_before_any_host_is_asked() {
    let pair = Pair::new(5_000);
    let folder = hosts_toml(pair.dir.path(), &pair.origin.host(), "server = 'x\n");
    let error = quick(pair.dir.path()).hosts_dir(folder).build().unwrap().pull(&*pair.name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("hosts.toml: line 1"), "{error}");
    assert_eq!(pair.origin.stats().requests, 0);
}

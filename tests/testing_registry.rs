//! The registry of `testing`: that it serves as a registry does, and fails as it is told.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common {
    pub(crate) mod raw;
    pub(crate) mod tls;
}

use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::raw::{Answer, Client};
use common::tls::{PrivateCa, ServerCertificate};
use oci_puller::Digest;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Stage, Target, TokenServer};
use rustls::{ClientConnection, StreamOwned};

const REPOSITORY: &str = "library/app";
const SOON: Duration = Duration::from_secs(10);

/// A registry with one image of one layer, 3,000 bytes and what the archive adds.
fn registry() -> (Registry, Image) {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new(REPOSITORY).layer(3000).build();
    registry.push(&image, "latest");
    (registry, image)
}

fn manifest_path() -> String {
    format!("/v2/{REPOSITORY}/manifests/latest")
}

fn layer_path(image: &Image) -> String {
    blob_path(&image.layers()[0].digest)
}

fn blob_path(digest: &Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

fn layer(image: &Image) -> &[u8] {
    &image.layers()[0].data
}

fn client(registry: &Registry) -> Client {
    Client::connect(registry.addr())
}

/// What a new connection gets for the layer.
fn get_layer(registry: &Registry, image: &Image) -> Answer {
    client(registry).get(&layer_path(image)).unwrap()
}

// Serving.

#[test]
fn an_image_is_served_by_tag_and_by_digest() {
    let registry = Registry::start().unwrap();
    for image in [
        ImageBuilder::new("a/b").layer(10).platforms(["linux/amd64", "linux/arm64"]).nested(1).build(),
        ImageBuilder::new("c").layer(10).docker().build(),
    ] {
        let reference = registry.push(&image, "v1");
        assert_eq!(reference, format!("{}/{}:v1", registry.host(), image.repository()));
        let mut client = client(&registry);
        let root = client.get(&format!("/v2/{}/manifests/v1", image.repository())).unwrap();
        assert_eq!((root.status, &*root.body), (200, image.manifest_bytes()));
        for part in image.documents() {
            let answer =
                client.get(&format!("/v2/{}/manifests/{}", image.repository(), part.digest)).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &*part.data));
            assert_eq!(answer.header("content-type"), Some(&*part.media_type));
            assert_eq!(answer.header("docker-content-digest"), Some(part.digest.as_str()));
        }
        for part in image.blobs() {
            let answer = client.get(&format!("/v2/{}/blobs/{}", image.repository(), part.digest)).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &*part.data));
        }
    }
}

#[test]
fn what_is_not_there_is_named_in_the_error() {
    let (registry, image) = registry();
    let digest = image.digest();
    for (path, code) in [
        (format!("/v2/{REPOSITORY}/manifests/v9"), "MANIFEST_UNKNOWN"),
        ("/v2/else/manifests/latest".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/blobs/{digest}"), "BLOB_UNKNOWN"),
        ("/elsewhere".to_owned(), "NOT_FOUND"),
    ] {
        let answer = client(&registry).get(&path).unwrap();
        assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (404, &code.into()), "{path}");
    }
    assert_eq!(client(&registry).ask("DELETE", &manifest_path(), &[]).unwrap().status, 405);
    assert_eq!(client(&registry).get("/v2/").unwrap().status, 200);
}

#[test]
fn a_head_has_the_headers_of_the_get_and_no_body() {
    let (registry, image) = registry();
    let mut client = client(&registry);
    let head = client.ask("HEAD", &layer_path(&image), &[]).unwrap();
    let get = client.get(&layer_path(&image)).unwrap();
    assert_eq!((head.headers, head.body.len()), (get.headers, 0));
    assert_eq!(registry.stats().heads, 1);
}

#[test]
fn ranges_are_served_in_part() {
    let (registry, image) = registry();
    let (path, whole) = (layer_path(&image), layer(&image));
    let last = whole.len() - 1;
    for (range, start, end) in [("10-", 10, last), ("10-19", 10, 19), ("4000-99999", 4000, last)] {
        let answer = client(&registry).ask("GET", &path, &[&format!("Range: bytes={range}")]).unwrap();
        assert_eq!((answer.status, &*answer.body), (206, &whole[start..=end]), "{range}");
        let content_range = format!("bytes {start}-{end}/{}", whole.len());
        assert_eq!(answer.header("content-range"), Some(&*content_range));
    }
    let answer = client(&registry).ask("GET", &path, &[&format!("Range: bytes={}-", last + 1)]).unwrap();
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{}", whole.len())));
}

#[test]
fn referrers_name_the_manifests_of_a_subject() {
    let (registry, image) = registry();
    let subject = image.digest();
    let signature = format!(
        r#"{{"artifactType":"application/x-signature","subject":{{"digest":"{subject}"}},"annotations":{{"a":"b"}}}}"#
    );
    let digest = registry.put_manifest(
        REPOSITORY,
        "sig",
        "application/vnd.oci.image.manifest.v1+json",
        signature.into_bytes(),
    );
    let path = format!("/v2/{REPOSITORY}/referrers/{subject}");
    let index = client(&registry).get(&path).unwrap().json();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
    assert_eq!(index["manifests"][0]["annotations"]["a"], "b");
    let filtered = client(&registry).get(&format!("{path}?artifactType=application%2Fx-else")).unwrap();
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"], serde_json::json!([]));
}

#[test]
fn the_api_can_stand_elsewhere() {
    let registry = Registry::builder().api_root("/mirror/of").start().unwrap();
    registry.put_blob("a", *b"blob");
    let digest = Digest::sha256(b"blob");
    assert_eq!(client(&registry).get(&format!("/mirror/of/a/blobs/{digest}")).unwrap().body, b"blob");
    assert_eq!(client(&registry).get(&format!("/v2/a/blobs/{digest}")).unwrap().status, 404);
}

#[test]
fn a_request_that_is_none_is_refused() {
    let (registry, _) = registry();
    let answer = client(&registry).get("/ no such thing\u{1}").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
}

// Counting.

#[test]
fn requests_connections_and_bytes_are_counted() {
    let (registry, image) = registry();
    let mut first = client(&registry);
    first.ask("GET", &format!("{}?ns=docker.io", manifest_path()), &["X-Mine: yes", "x-mine: too"]).unwrap();
    first.get(&layer_path(&image)).unwrap();
    let mut second = client(&registry);
    second.get("/v2/").unwrap();

    let stats = registry.stats();
    assert_eq!((stats.requests, stats.manifests, stats.blobs, stats.pings, stats.tokens), (3, 1, 1, 1, 0));
    assert_eq!((stats.connections_accepted, stats.connections_open), (2, 2));
    assert_eq!(stats.blob_bytes, image.layers()[0].size());
    assert_eq!(stats.body_bytes, stats.blob_bytes + image.root().size() + 2);

    let seen = registry.requests();
    assert_eq!(seen.iter().map(|one| one.connection).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!((&*seen[0].path, &*seen[0].query), (&*manifest_path(), "ns=docker.io"));
    assert_eq!(
        (seen[0].target, &*seen[0].method, seen[0].header("X-MINE")),
        (Target::Manifest, "GET", Some("yes"))
    );
    drop(first);
    assert!(registry.wait_until(|stats| stats.connections_open == 1, SOON));
}

#[test]
fn no_more_connections_are_served_at_once_than_allowed() {
    let registry = Registry::builder().max_connections(2).start().unwrap();
    let mut served = [client(&registry), client(&registry)];
    for client in &mut served {
        client.get("/v2/").unwrap();
    }
    let mut waiting = client(&registry);
    waiting.send("GET", "/v2/", &[], "").unwrap();
    assert!(!registry.wait_until(|stats| stats.connections_accepted > 2, Duration::from_millis(100)));
    drop(served);
    assert_eq!(waiting.answer("GET").unwrap().status, 200);
    assert_eq!(registry.stats().connections_accepted, 3);
}

#[test]
fn its_connections_can_be_closed_under_a_client() {
    let (registry, _) = registry();
    let mut idle = client(&registry);
    idle.get("/v2/").unwrap();
    registry.close_connections();
    assert!(registry.wait_until(|stats| stats.connections_open == 0, SOON));
    assert!(idle.get("/v2/").is_err());
    assert_eq!(client(&registry).get("/v2/").unwrap().status, 200);
}

// Ending.

#[test]
fn shutdown_does_not_wait_for_what_hangs() {
    let long = Duration::from_secs(3600);
    for action in [
        Action::Delay(long),
        Action::Hold(Stage::BeforeHead),
        Action::Hold(Stage::InHead),
        Action::Hold(Stage::Body(100)),
        Action::Drip { bytes: 1, every: long },
        Action::Pace(1),
    ] {
        let (registry, image) = registry();
        let fault = registry.fault(Fault::on(Target::Blob).with(action.clone()));
        let mut busy = client(&registry);
        busy.send("GET", &layer_path(&image), &[], "").unwrap();
        let _idle = client(&registry);
        assert!(fault.wait_fired(1, SOON));
        let begin = Instant::now();
        registry.shutdown();
        assert!(begin.elapsed() < Duration::from_millis(500), "{action:?}: {:?}", begin.elapsed());
        assert!(TcpStream::connect(registry.addr()).is_err(), "{action:?}");
    }
}

#[test]
fn shutdown_does_not_wait_for_a_client_that_does_not_read() {
    let registry = Registry::start().unwrap();
    let digest = registry.put_blob(REPOSITORY, vec![0; 32 << 20]);
    let mut lazy = client(&registry);
    lazy.send("GET", &blob_path(&digest), &[], "").unwrap();
    assert!(registry.wait_until(|stats| stats.blob_bytes > 0, SOON));
    let begin = Instant::now();
    drop(registry);
    assert!(begin.elapsed() < Duration::from_millis(500));
}

// Faults.

#[test]
fn what_an_action_does_to_a_blob() {
    let (_, image) = registry();
    let whole = layer(&image);
    let size = whole.len();
    let part = |end: usize| whole[..end].to_vec();
    let mut damaged = whole.to_vec();
    damaged[2000] ^= 1;
    let set = Action::header;
    let longer = [whole, b"++"].concat();

    // The actions, the status, the body, and how the body ended.
    for (actions, status, body, broken) in [
        (vec![], 200, part(size), None),
        (vec![Action::Delay(Duration::from_millis(1))], 200, part(size), None),
        (vec![Action::Pace(1 << 20)], 200, part(size), None),
        (vec![Action::Drip { bytes: 1000, every: Duration::from_millis(1) }], 200, part(size), None),
        (vec![Action::Chunked], 200, part(size), None),
        (vec![Action::Cut(0)], 200, part(0), Some(UnexpectedEof)),
        (vec![Action::Cut(1000)], 200, part(1000), Some(UnexpectedEof)),
        (vec![Action::CutWithin(1000..1001)], 200, part(1000), Some(UnexpectedEof)),
        (vec![Action::Chunked, Action::Cut(1000)], 200, part(1000), Some(UnexpectedEof)),
        (vec![Action::Cut(1000), Action::NoHeader("content-length".into())], 200, part(1000), None),
        (vec![Action::NoHeader("content-length".into())], 200, part(size), None),
        (vec![set("Content-Length", "1000")], 200, part(1000), None),
        (vec![set("Content-Length", "99999")], 200, part(size), Some(UnexpectedEof)),
        (vec![Action::Reset(Stage::Body(1000))], 200, part(1000), Some(ConnectionReset)),
        (vec![Action::Corrupt(2000)], 200, damaged, None),
        (vec![Action::Corrupt(1 << 40)], 200, part(size), None),
        (vec![Action::Longer(2)], 200, longer, None),
        (vec![Action::Status(503), Action::Body(b"busy".to_vec())], 503, b"busy".to_vec(), None),
        (vec![Action::Body(b"<html>".to_vec())], 200, b"<html>".to_vec(), None),
    ] {
        let (registry, image) = registry();
        for action in &actions {
            registry.fault(Fault::on(Target::Blob).with(action.clone()));
        }
        let answer = get_layer(&registry, &image);
        assert_eq!((answer.status, answer.broken), (status, broken), "{actions:?}");
        assert!(answer.body == body, "{actions:?}: {} bytes", answer.body.len());
    }
}

#[test]
fn a_body_can_go_on_until_the_client_has_had_enough() {
    let (registry, image) = registry();
    let endless = Fault::on(Target::Blob).with(Action::Longer(u64::MAX));
    registry.fault(endless.with(Action::NoHeader("Content-Length".into())));
    let mut patient = client(&registry);
    patient.send("GET", &layer_path(&image), &[], "").unwrap();
    let mut socket = patient.socket();
    socket.read_exact(&mut vec![0; 8 << 20]).unwrap();
    drop(patient);
    assert!(registry.wait_until(|stats| stats.connections_open == 0, SOON));
}

#[test]
fn a_reset_before_the_body_leaves_no_answer() {
    for stage in [Stage::BeforeHead, Stage::InHead] {
        let (registry, image) = registry();
        registry.fault(Fault::on(Target::Blob).with(Action::Reset(stage)));
        let error = client(&registry).get(&layer_path(&image)).unwrap_err();
        assert_eq!(error.kind(), ConnectionReset, "{stage:?}");
    }
}

#[test]
fn a_status_comes_with_its_error_and_headers() {
    let (registry, _) = registry();
    for (status, code) in [
        (401, "UNAUTHORIZED"),
        (403, "DENIED"),
        (404, "NOT_FOUND"),
        (408, "UNKNOWN"),
        (416, "RANGE_INVALID"),
        (429, "TOOMANYREQUESTS"),
        (500, "UNAVAILABLE"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
    ] {
        let fault = Fault::on(Target::Manifest).times(1).with(Action::Status(status));
        registry.fault(fault.with(Action::header("Retry-After", "7")));
        let mut client = client(&registry);
        let answer = client.get(&manifest_path()).unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (status, Some("7")));
        assert_eq!(answer.json()["errors"][0]["code"], code);
        assert_eq!(client.get(&manifest_path()).unwrap().status, 200, "the connection is still good");
    }
}

#[test]
fn headers_are_replaced_added_and_left_out() {
    let (registry, image) = registry();
    let wrong = Digest::sha256(b"else");
    registry.fault(
        Fault::on(Target::Manifest)
            .with(Action::header("Docker-Content-Digest", wrong.as_str()))
            .with(Action::header("Content-Encoding", "gzip"))
            .with(Action::AddHeader("WWW-Authenticate".into(), "Basic".into()))
            .with(Action::AddHeader("WWW-Authenticate".into(), "Bearer".into()))
            .with(Action::NoHeader("Content-Type".into())),
    );
    let answer = client(&registry).get(&manifest_path()).unwrap();
    assert_eq!(answer.body, image.manifest_bytes());
    assert_eq!(answer.header("docker-content-digest"), Some(wrong.as_str()));
    assert_eq!((answer.header("content-encoding"), answer.header("content-type")), (Some("gzip"), None));
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "WWW-Authenticate").count(), 2);
}

#[test]
fn a_redirect_leads_where_it_is_told() {
    let (registry, image) = registry();
    let other = Registry::start().unwrap();
    other.push(&image, "latest");
    other.put_file("/cdn", layer(&image).to_vec());
    for (location, leads_to) in [
        (format!("{}{{path}}", other.url()), format!("{}{}?ns=x", other.url(), layer_path(&image))),
        (format!("{}/cdn", other.url()), format!("{}/cdn", other.url())),
        ("{path}".to_owned(), format!("{}?ns=x", layer_path(&image))),
    ] {
        registry.clear_faults();
        registry.fault(Fault::on(Target::Blob).with(Action::Redirect(location)));
        let answer = client(&registry).get(&format!("{}?ns=x", layer_path(&image))).unwrap();
        assert_eq!((answer.status, answer.header("location")), (307, Some(&*leads_to)));
    }
    let answer = client(&other).ask("GET", "/cdn", &["Range: bytes=5-"]).unwrap();
    assert_eq!((answer.status, &*answer.body), (206, &layer(&image)[5..]));
}

#[test]
fn a_range_can_be_ignored_or_answered_wrong() {
    let (registry, image) = registry();
    let range = ["Range: bytes=1000-"];
    let fault = registry.fault(Fault::on(Target::Blob).with(Action::IgnoreRange));
    let answer = client(&registry).ask("GET", &layer_path(&image), &range).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, layer(&image)));
    fault.remove();
    registry.fault(Fault::on(Target::Blob).with(Action::header("Content-Range", "bytes 5-9/10")));
    let answer = client(&registry).ask("GET", &layer_path(&image), &range).unwrap();
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 5-9/10")));
}

#[test]
fn a_wrong_byte_is_wrong_in_the_ranges_that_have_it() {
    let (registry, image) = registry();
    registry.fault(Fault::on(Target::Blob).with(Action::Corrupt(1000)));
    for (start, is_right) in [(999, false), (1000, false), (1001, true)] {
        let answer =
            client(&registry).ask("GET", &layer_path(&image), &[&format!("Range: bytes={start}-")]).unwrap();
        assert_eq!(answer.body == layer(&image)[start..], is_right, "{start}");
    }
}

#[test]
fn a_delay_and_a_pace_take_their_time() {
    let (registry, image) = registry();
    // The layer has 4,608 bytes.
    for (action, at_least) in [
        (Action::Delay(Duration::from_millis(80)), 80),
        (Action::Pace(46_080), 60),
        (Action::Drip { bytes: 1000, every: Duration::from_millis(20) }, 80),
    ] {
        let fault = registry.fault(Fault::on(Target::Blob).with(action.clone()));
        let begin = Instant::now();
        assert_eq!(get_layer(&registry, &image).body, layer(&image));
        assert!(begin.elapsed() >= Duration::from_millis(at_least), "{action:?}: {:?}", begin.elapsed());
        fault.remove();
    }
}

#[test]
fn what_is_held_goes_on_when_it_is_released() {
    for (stage, bytes_before) in [(Stage::BeforeHead, 0), (Stage::InHead, 0), (Stage::Body(1000), 1000)] {
        let (registry, image) = registry();
        let fault = registry.fault(Fault::on(Target::Blob).with(Action::Hold(stage)));
        let (path, addr) = (layer_path(&image), registry.addr());
        let waiting = thread::spawn(move || Client::connect(addr).get(&path).unwrap());
        assert!(fault.wait_fired(1, SOON));
        assert!(registry.wait_until(|stats| stats.blob_bytes == bytes_before, SOON));
        assert!(!waiting.is_finished());
        fault.release();
        assert_eq!(waiting.join().unwrap().body, layer(&image), "{stage:?}");
        assert_eq!(get_layer(&registry, &image).body, layer(&image), "released for good");
    }
}

#[test]
fn a_client_that_leaves_is_not_held() {
    let (registry, image) = registry();
    let fault = registry.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::Body(1))));
    let mut leaving = client(&registry);
    leaving.send("GET", &layer_path(&image), &[], "").unwrap();
    assert!(fault.wait_fired(1, SOON));
    drop(leaving);
    assert!(registry.wait_until(|stats| stats.connections_open == 0, SOON));
}

#[test]
fn a_fault_hits_whom_and_as_often_as_it_is_told() {
    let (registry, image) = registry();
    let teapot = || Action::Status(418);
    let layer = &image.layers()[0].digest;
    let (manifest, blob, config) = (manifest_path(), layer_path(&image), blob_path(image.config_digest()));
    let asked = [("GET", &manifest), ("HEAD", &manifest), ("GET", &blob), ("GET", &config), ("GET", &blob)];
    // The fault, and which of the five requests it hits.
    for (fault, hits) in [
        (Fault::anywhere(), [1, 1, 1, 1, 1]),
        (Fault::on(Target::Blob), [0, 0, 1, 1, 1]),
        (Fault::on(Target::Blob).path_containing(layer.as_str()), [0, 0, 1, 0, 1]),
        (Fault::on(Target::Blob).times(1), [0, 0, 1, 0, 0]),
        (Fault::on(Target::Blob).skip(1), [0, 0, 0, 1, 1]),
        (Fault::anywhere().skip(1).times(2), [0, 1, 1, 0, 0]),
        (Fault::anywhere().method("HEAD"), [0, 1, 0, 0, 0]),
        (Fault::anywhere().when(|seen| seen.header("host").is_none()), [0, 0, 0, 0, 0]),
    ] {
        registry.clear_faults();
        let handle = registry.fault(fault.clone().with(teapot()));
        let mut client = client(&registry);
        let got = asked.map(|(method, path)| client.ask(method, path, &[]).unwrap().status == 418);
        assert_eq!(got.map(u64::from), hits, "{fault:?}");
        assert_eq!(handle.fired(), hits.iter().sum::<u64>(), "{fault:?}");
    }
}

// Credentials.

#[test]
fn basic_lets_only_known_users_pass() {
    let (registry, _) = registry();
    registry.require_basic("ann", "secret:1");
    registry.require_basic("bob", "");
    let encoded = |text: &str| format!("Authorization: Basic {text}");
    for (header, status) in [
        (encoded("YW5uOnNlY3JldDox"), 200), // ann:secret:1
        (encoded("Ym9iOg=="), 200),         // bob:
        (encoded("YW5uOndyb25n"), 401),     // ann:wrong
        (encoded("!"), 401),
        ("X-None: 1".to_owned(), 401),
    ] {
        let answer = client(&registry).ask("GET", &manifest_path(), &[&header]).unwrap();
        assert_eq!(answer.status, status, "{header}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
}

fn ask_token(registry: &Registry, query: &str, headers: &[&str]) -> Answer {
    client(registry).ask("GET", &format!("/token?{query}"), headers).unwrap()
}

fn with_token(registry: &Registry, token: &serde_json::Value) -> Answer {
    let header = format!("Authorization: Bearer {}", token.as_str().unwrap());
    client(registry).ask("GET", &manifest_path(), &[&header]).unwrap()
}

const PULL: &str = "service=s&scope=repository%3Alibrary%2Fapp%3Apull";

#[test]
fn a_token_is_demanded_given_and_taken() {
    let (registry, _) = registry();
    let tokens = TokenServer::new().service("s").user("ann", "1").expires_in(Some(60));
    registry.require_token(&tokens);

    let refused = client(&registry).get(&manifest_path()).unwrap();
    assert_eq!(refused.status, 401);
    let challenge =
        format!(r#"Bearer realm="{}/token",service="s",scope="repository:library/app:pull""#, registry.url());
    assert_eq!(refused.header("www-authenticate"), Some(&*challenge));

    assert_eq!(ask_token(&registry, PULL, &[]).status, 401, "no anonymous tokens");
    assert_eq!(ask_token(&registry, PULL, &["Authorization: Basic YW5uOjI="]).status, 401, "ann:2");
    let answer = ask_token(&registry, PULL, &["Authorization: Basic YW5uOjE="]);
    assert_eq!((answer.status, &answer.json()["expires_in"]), (200, &60.into()));
    assert_eq!(with_token(&registry, &answer.json()["token"]).status, 200);
    assert_eq!(tokens.issued()[0].user.as_deref(), Some("ann"));
    assert_eq!(tokens.issued()[0].scopes, ["repository:library/app:pull"]);
}

#[test]
fn a_token_is_good_for_its_scope_until_it_expires() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().anonymous().expires_in(None));
    let other = ask_token(&registry, "scope=repository:else:pull", &[]).json();
    assert!(other.get("expires_in").is_none());
    let refused = with_token(&registry, &other["token"]);
    assert!(refused.header("www-authenticate").unwrap().contains(r#"error="insufficient_scope""#));

    let good = ask_token(&registry, PULL, &[]).json();
    assert_eq!(with_token(&registry, &good["token"]).status, 200);
    registry.expire_tokens();
    let refused = with_token(&registry, &good["token"]);
    assert!(refused.header("www-authenticate").unwrap().contains(r#"error="invalid_token""#));
    let renewed = ask_token(&registry, PULL, &[]).json();
    assert_eq!(with_token(&registry, &renewed["token"]).status, 200);
}

#[test]
fn tokens_are_given_by_post_too() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().user("ann", "1").identity_token("idt"));
    for (form, status) in [
        ("grant_type=refresh_token&refresh_token=idt", 200),
        ("grant_type=refresh_token&refresh_token=else", 401),
        ("grant_type=password&username=ann&password=1", 200),
        ("grant_type=password&username=ann&password=2", 401),
        ("grant_type=magic", 400),
    ] {
        let mut client = client(&registry);
        client.send("POST", "/token", &[], &format!("{form}&{PULL}")).unwrap();
        let answer = client.answer("POST").unwrap();
        assert_eq!(answer.status, status, "{form}");
        if status == 200 {
            assert_eq!(answer.json()["refresh_token"], "idt");
            assert_eq!(with_token(&registry, &answer.json()["access_token"]).status, 200);
        }
    }
}

#[test]
fn one_registry_can_give_the_tokens_of_another() {
    let (registry, _) = registry();
    let issuer = Registry::start().unwrap();
    let tokens = TokenServer::new().anonymous().realm(format!("{}/token", issuer.url()));
    registry.require_token(&tokens);
    issuer.require_token(&tokens);
    let challenge = client(&registry).get("/v2/").unwrap().header("www-authenticate").unwrap().to_owned();
    assert!(challenge.contains(&issuer.host()), "{challenge}");
    let token = ask_token(&issuer, PULL, &[]).json();
    assert_eq!(with_token(&registry, &token["token"]).status, 200);
}

#[test]
fn faults_leave_challenges_alone_and_hit_the_token_server() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().anonymous());
    let fault = registry.fault(Fault::anywhere().with(Action::Status(503)));
    assert_eq!(client(&registry).get(&manifest_path()).unwrap().status, 401);
    assert_eq!(fault.fired(), 0);
    assert_eq!(ask_token(&registry, PULL, &[]).status, 503);
}

// TLS.

fn tls_client(registry: &Registry, ca: &PrivateCa) -> Client<StreamOwned<ClientConnection, TcpStream>> {
    let name = "127.0.0.1".try_into().unwrap();
    let session = ClientConnection::new(ca.client_config(), name).unwrap();
    Client::over(StreamOwned::new(session, TcpStream::connect(registry.addr()).unwrap()))
}

#[test]
fn an_acceptor_adds_tls() {
    let ca = PrivateCa::new();
    for (certificate, refused_because) in [
        (ServerCertificate::Good, None),
        (ServerCertificate::Expired, Some("Expired")),
        (ServerCertificate::SelfSigned, Some("UnknownIssuer")),
        (ServerCertificate::WrongName, Some("not valid for name")),
    ] {
        let registry = Registry::builder().acceptor(ca.acceptor(certificate)).start().unwrap();
        assert!(registry.url().starts_with("https://127.0.0.1:"));
        match (tls_client(&registry, &ca).get("/v2/"), refused_because) {
            (Ok(answer), None) => assert_eq!(answer.status, 200),
            (Err(error), Some(reason)) => {
                let text = format!("{error} {error:?}");
                assert!(text.contains(reason), "{certificate:?}: {text}");
            }
            (other, _) => panic!("{certificate:?}: {other:?}"),
        }
    }
}

#[test]
fn a_cut_under_tls_is_a_cut() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let digest = registry.put_blob(REPOSITORY, vec![1; 1 << 20]);
    registry.fault(Fault::on(Target::Blob).with(Action::Cut(300_000)));
    let answer = tls_client(&registry, &ca).get(&blob_path(&digest)).unwrap();
    assert_eq!((answer.body.len(), answer.broken), (300_000, Some(UnexpectedEof)));
}

#[test]
fn only_known_clients_pass_where_certificates_are_demanded() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor_for_known_clients()).start().unwrap();
    assert!(tls_client(&registry, &ca).get("/v2/").is_err());
    assert!(ca.client_identity().key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn shutdown_ends_a_handshake_that_never_comes() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let mut silent = TcpStream::connect(registry.addr()).unwrap();
    assert!(registry.wait_until(|stats| stats.connections_open == 1, SOON));
    drop(registry);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
}

// Speed: a measurement, to be run by hand with --release -- --ignored --nocapture.

#[test]
#[ignore = "measures, and proves nothing"]
fn how_fast_a_blob_goes_over_loopback() {
    let registry = Registry::start().unwrap();
    let data: Arc<[u8]> = vec![7; 256 << 20].into();
    let digest = registry.put_blob(REPOSITORY, data.clone());
    let mut client = client(&registry);
    let mut sink = vec![0; 1 << 20];
    for _ in 0..4 {
        client.send("GET", &blob_path(&digest), &[], "").unwrap();
        let begin = Instant::now();
        let mut left = data.len();
        let mut socket = client.socket();
        while left > 0 {
            left = left.saturating_sub(socket.read(&mut sink).unwrap());
        }
        println!("{:.2} GB/s", data.len() as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
}

//! The effect of each fault, and the requests that it hits.

use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use oci_puller::image::Digest;
use oci_puller::testing::{Action, Fault, Registry, Stage, Target};

use crate::raw::Client;
use crate::{SOON, blob_path, client, get_layer, layer, layer_path, manifest_path, registry};

#[test]
fn each_action_has_its_effect_on_a_blob() {
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
fn a_redirect_leads_to_its_location() {
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
fn held_requests_continue_when_released() {
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
fn a_fault_hits_the_chosen_requests_the_given_number_of_times() {
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

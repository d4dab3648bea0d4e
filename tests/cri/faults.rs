//! Peers that break HTTP/2, HPACK, gRPC or protobuf, or send without end: each call fails with `Protocol`, soon.

use std::time::{Duration, Instant};

use oci_puller::{Error, ErrorKind, ImageService, PullContext};

use crate::peer::*;
use crate::{Test, service};

pub const TESTS: &[Test] = &[
    ("broken_answers_are_protocol_errors", &[], broken),
    ("endless_answers_are_protocol_errors", &[], endless),
    ("other_protocols_are_named", &[], other_protocols),
    ("resets_and_closed_connections_are_errors", &[], ends),
    ("everything_that_http2_allows_is_accepted", &[], allowed),
];

/// Calls a peer that answers with these bytes and keeps the connection open.
fn answer_to(bytes: Vec<u8>) -> Result<(), Error> {
    let peer = Peer::start(move |_| Answer { bytes: bytes.clone(), stays_open: true });
    let began = Instant::now();
    let cx = PullContext::new().with_timeout(Duration::from_secs(10));
    let answered = service(&peer.path()).image_ref(&cx, &"app".into()).map(drop);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    answered
}

#[track_caller]
fn refused(name: &str, bytes: Vec<u8>) {
    match answer_to(bytes) {
        Err(error) => {
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{name}: {error}")
        }
        Ok(()) => panic!("{name} was accepted"),
    }
}

fn broken() {
    let no_message = [head(), trailers(OK)].concat();
    let compressed = [head(), data(b"\x01\0\0\0\x01x"), trailers(OK)].concat();
    let long = [head(), data(b"\0\0\0\0\x09x"), trailers(OK)].concat();
    let two = [head(), data(&prefixed(b"")), data(&prefixed(b"")), trailers(OK)].concat();
    let not_protobuf = message(b"\x0a\xff\xff\xff\xff\x0f");
    let no_status = [head(), data(&prefixed(b"")), trailers(&[("x", "y")])].concat();
    let no_trailers = [head(), frame(DATA, END_STREAM, 1, &prefixed(b""))].concat();
    let bad_padding = [head(), frame(DATA, PADDED, 1, &[9, 1, 2])].concat();
    let head_fields = block(HEAD);
    for (name, bytes) in [
        ("no message", no_message),
        ("a compressed message", compressed),
        ("a message that is shorter than it says", long),
        ("two messages", two),
        ("no protobuf", not_protobuf),
        ("no grpc-status", no_status),
        ("no trailers", no_trailers),
        ("padding longer than its frame", bad_padding),
        ("a frame of 17 KiB", frame(DATA, 0, 1, &vec![0; 17 << 10])),
        ("data before headers", data(&prefixed(b""))),
        ("data of another stream", [head(), frame(DATA, 0, 3, b"x")].concat()),
        ("a push promise", frame(PUSH_PROMISE, END_HEADERS, 1, &head_fields)),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("a ping of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("a window update of 0", frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ("a window beyond 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &head_fields)),
        (
            "a ping within a header block",
            [frame(HEADERS, 0, 1, &head_fields), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("an index that the table lacks", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x0f])),
        ("a header block that is cut", frame(HEADERS, END_HEADERS, 1, &[0, 9, b'x'])),
        ("a wrong Huffman code", frame(HEADERS, END_HEADERS, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0])),
        (
            "a second header block before the end",
            [head(), frame(HEADERS, END_HEADERS, 1, &head_fields)].concat(),
        ),
        ("no content type", trailers(&[(":status", "200"), ("grpc-status", "0")])),
        ("a status of HTTP", trailers(&[(":status", "502"), ("content-type", "text/html")])),
    ] {
        refused(name, bytes);
    }
}

fn endless() {
    let headers_without_end = || frame(HEADERS, 0, 1, &block(HEAD));
    let large_block = frame(CONTINUATION, 0, 1, &[0x10; 16 << 10]);
    // One entry of 3,000 bytes in the table, then references to it.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xb9, 0x16];
    bomb.extend([b'v'; 3000]);
    bomb.extend([0xbe; 1000]);
    for (name, bytes) in [
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(1100)),
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(1100)),
        ("unknown frames", frame(0x42, 0, 7, b"x").repeat(1100)),
        ("empty data", [head(), frame(DATA, 0, 1, b"").repeat(1100)].concat()),
        ("nothing but padding", [head(), frame(DATA, PADDED, 1, &[1, 0]).repeat(1100)].concat()),
        ("continuations", [headers_without_end(), frame(CONTINUATION, 0, 1, b"").repeat(1100)].concat()),
        ("a long header block", [headers_without_end(), large_block.repeat(8)].concat()),
        ("a header bomb", frame(HEADERS, END_HEADERS, 1, &bomb)),
        ("1xx answers", frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103")])).repeat(1100)),
        ("a message over the limit", [head(), data(&vec![0; 17 << 20])].concat()),
    ] {
        refused(name, bytes);
    }
}

fn other_protocols() {
    for (answer, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "HTTP/1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP/2"),
        (b"\0\0\0\0\0\0\0\0\0\0\0\0", "does not speak HTTP/2"),
    ] {
        // `Peer` writes settings before its answer; this listener does not.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cri.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = service(&path).version(&PullContext::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.message().contains(part), "{error}");
        thread.join().unwrap();
    }
}

fn ends() {
    let goaway =
        |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    for (bytes, kind, retryable) in [
        (frame(RST_STREAM, 0, 1, &7u32.to_be_bytes()), ErrorKind::Unavailable, true),
        (frame(RST_STREAM, 0, 1, &1u32.to_be_bytes()), ErrorKind::Protocol, false),
        (goaway(0, 0), ErrorKind::Unavailable, true),
        (goaway(0, 1), ErrorKind::Protocol, false),
    ] {
        let error = answer_to(bytes).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{error}");
    }
    // A runtime that ends in the middle of its answer.
    for bytes in [Vec::new(), head(), [head(), data(&prefixed(b"")[..3])].concat()] {
        let peer = Peer::start(move |_| bytes.clone().into());
        let error = service(&peer.path()).image_ref(&PullContext::new(), &"app".into()).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::ConnectionFailed, true), "{error}");
    }
}

fn allowed() {
    let image = prefixed(&field(1, field(1, "sha256:id")));
    let padded = |byte: &u8| frame(DATA, PADDED, 1, &[2, *byte, 0, 0]);
    let goaway = frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let with_priority = frame(HEADERS, END_HEADERS | 0x20, 1, &[&[0, 0, 0, 0, 9][..], &block(HEAD)].concat());
    let split = [
        frame(HEADERS, 0, 1, &block(HEAD)[..3]),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, &block(HEAD)[3..]),
    ]
    .concat();
    let early_hints = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103")]));
    for (name, answer) in [
        ("data with padding", [head(), image.iter().flat_map(padded).collect(), trailers(OK)].concat()),
        (
            "a ping and unknown frames",
            [frame(PING, 0, 0, &[7; 8]), frame(99, 0, 9, b"?"), head(), data(&image), trailers(OK)].concat(),
        ),
        ("a graceful GOAWAY", [goaway, head(), data(&image), trailers(OK)].concat()),
        ("priorities", [frame(2, 0, 1, &[0; 5]), with_priority, data(&image), trailers(OK)].concat()),
        ("a header block in parts", [split, data(&image), trailers(OK)].concat()),
        ("early hints", [early_hints, head(), data(&image), trailers(OK)].concat()),
    ] {
        let peer = Peer::start(move |_| Answer { bytes: answer.clone(), stays_open: true });
        let found = service(&peer.path()).image_ref(&PullContext::new(), &"app".into()).unwrap();
        assert_eq!(found.unwrap().as_str(), "sha256:id", "{name}");
    }
}

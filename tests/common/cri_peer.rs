//! A CRI runtime in the process: it reads a call's whole request, and answers with the bytes that a test gives it.

// Each test file uses some of it, and only tests do.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, unbounded};
use oci_puller::CancelToken;
use tempfile::TempDir;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A request as the peer read it.
#[derive(Clone, Debug)]
pub struct Call {
    pub headers: BTreeMap<String, String>,
    /// The protobuf message.
    pub message: Vec<u8>,
    /// Cancelled when the client closes the connection.
    pub token: CancelToken,
}

impl Call {
    /// Returns the name of the method, such as `PullImage`.
    pub fn method(&self) -> &str {
        self.headers[":path"].rsplit('/').next().unwrap()
    }
}

/// Bytes to answer with, and whether the connection stays open after them.
pub struct Answer {
    pub bytes: Vec<u8>,
    pub stays_open: bool,
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Self {
        Answer { bytes, stays_open: false }
    }
}

/// A listening socket whose connections are answered by a function.
pub struct Peer {
    folder: TempDir,
    /// Each call, when it was answered.
    pub calls: Receiver<Call>,
    /// A message for each connection that the client closed.
    pub closed: Receiver<()>,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts a peer that answers each call on a thread of its own.
    pub fn start(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("cri.sock")).unwrap();
        let (call, calls) = unbounded();
        let (close, closed) = unbounded();
        let (answer, accepting) = (Arc::new(answer), listener.try_clone().unwrap());
        let thread = thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                let (answer, call, close) = (Arc::clone(&answer), call.clone(), close.clone());
                thread::spawn(move || {
                    let mut stream = stream;
                    let Some(request) = read_request(&mut stream) else { return };
                    let (mut watched, token) = (stream.try_clone().unwrap(), request.token.clone());
                    thread::spawn(move || {
                        while watched.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
                        token.cancel();
                        let _ = close.send(());
                    });
                    let Ok(answer) = catch_unwind(AssertUnwindSafe(|| answer(&request))) else {
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    };
                    let Answer { bytes, stays_open } = answer;
                    let _ = call.send(request);
                    let _ = stream.write_all(&bytes);
                    if !stays_open {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                });
            }
        });
        Peer { folder, calls, closed, listener, thread: Some(thread) }
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("cri.sock")
    }
}

/// Stops accepting. The threads of connections end when their clients close them.
impl Drop for Peer {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Reads preface and frames up to the end of the stream; `None` if the client closes the connection before.
fn read_request(stream: &mut UnixStream) -> Option<Call> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).ok()?;
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // The client sends no more of its body than the window of the peer admits: the settings go first.
    stream.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).ok()?;
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes())).ok()?;
    let (mut headers, mut data) = (BTreeMap::new(), Vec::new());
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).ok()?;
        match head[3] {
            HEADERS => headers = literals(&payload),
            DATA => {
                data.extend(payload);
                if head[4] & END_STREAM != 0 {
                    assert_eq!(data[0], 0);
                    assert_eq!(data[1..5], (data.len() as u32 - 5).to_be_bytes());
                    let (message, token) = (data.split_off(5), CancelToken::new());
                    return Some(Call { headers, message, token });
                }
            }
            _ => {}
        }
    }
}

/// Reads a header block of literals that are never indexed, as the client writes it.
fn literals(mut block: &[u8]) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    while let [0x10, rest @ ..] = block {
        block = rest;
        let mut string = || {
            let (length, rest) = block.split_first().unwrap();
            assert!(*length < 0x7f);
            let (text, rest) = rest.split_at(usize::from(*length));
            block = rest;
            String::from_utf8(text.to_vec()).unwrap()
        };
        let name = string();
        headers.insert(name, string());
    }
    assert!(block.is_empty());
    headers
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns a header block of literals.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

pub const HEAD: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];
pub const OK: &[(&str, &str)] = &[("grpc-status", "0")];

pub fn head() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &block(HEAD))
}

pub fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// Returns a message with gRPC's prefix.
pub fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

/// Returns `bytes` in DATA frames.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(16 << 10).flat_map(|chunk| frame(DATA, 0, 1, chunk)).collect()
}

/// Returns a whole answer with a message.
pub fn message(message: &[u8]) -> Vec<u8> {
    [head(), data(&prefixed(message)), trailers(OK)].concat()
}

/// Returns a whole answer with a status in place of a message.
pub fn status(code: &str, text: &str) -> Vec<u8> {
    let fields = [HEAD, &[("grpc-status", code), ("grpc-message", text)]].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))
}

/// Returns a field of a protobuf message: bytes, a text, or a message.
pub fn field(number: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(value.as_ref().len() as u64, &mut bytes);
    bytes.extend(value.as_ref());
    bytes
}

/// Returns a field of a protobuf message: a number.
pub fn number(number: u8, value: u64) -> Vec<u8> {
    let mut bytes = vec![number << 3];
    varint(value, &mut bytes);
    bytes
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns an answer to ImageStatus.
pub fn image(id: &str, size: u64, repo_digest: &str) -> Vec<u8> {
    message(&field(1, [field(1, id), field(3, repo_digest), number(4, size)].concat()))
}

/// Returns the path of a socket that nothing listens on.
pub fn unused(folder: &Path) -> PathBuf {
    folder.join("none.sock")
}

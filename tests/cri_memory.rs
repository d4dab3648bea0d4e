//! The memory and the threads of calls to a CRI runtime. Alone in its process, whose memory it measures.
// `cri_peer` is shared with other targets.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "common/cri_peer.rs"]
mod peer;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use oci_puller::credentials::{Credential, CredentialQuery, Keychain};
use oci_puller::cri::CriImageService;
use oci_puller::{CancelToken, Error, ErrorKind, ImageService, PullContext, PullRequest};
use zeroize::Zeroizing;

/// Each test measures the whole process, so there is one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

fn threads_but_those_of_callers_and_tests() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let expected = ["caller", "cri_memory", "a_running_call", "no_password"];
    names.filter(|name| !expected.iter().any(|start| name.starts_with(start))).collect()
}

fn service(path: &Path) -> CriImageService {
    CriImageService::builder(path.to_str().unwrap()).build().unwrap()
}

#[test]
fn a_running_call_takes_at_most_64_kib_and_no_thread_of_its_own() {
    const CALLS: usize = 200;
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cri.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (service, token) = (service(&path), CancelToken::new());
    // The first calls touch what all share.
    let mut memory_before = 0;
    let mut connections = Vec::new();
    thread::scope(|scope| {
        for call in 0..CALLS + 8 {
            let (service, cx) = (&service, PullContext::new().with_cancel(&token));
            let caller = thread::Builder::new().name("caller".to_owned());
            let call_runs = move || {
                let error = service.pull_image(&cx, &PullRequest::new(1, "app")).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Cancelled);
            };
            caller.spawn_scoped(scope, call_runs).unwrap();
            // A call has sent its request when there is something to read, and then waits for the answer.
            let (mut connection, _) = listener.accept().unwrap();
            connection.read_exact(&mut [0; 64]).unwrap();
            connections.push(connection);
            if call == 7 {
                memory_before = resident();
            }
        }
        let each = resident().saturating_sub(memory_before) / CALLS;
        let others = threads_but_those_of_callers_and_tests();
        token.cancel();
        assert!(each <= 64 << 10, "{each} bytes a call, with the stack of its thread");
        assert!(others.is_empty(), "a call runs on its caller's thread: {others:?}");
    });
}

/// Returns a byte of the password, which is in no constant of the program.
fn password_byte(n: usize) -> u8 {
    b'A' + (n as u8).wrapping_mul(151) % 61
}

fn password() -> Zeroizing<Vec<u8>> {
    Zeroizing::new((0..32).map(password_byte).collect())
}

struct Passwords;

impl Keychain for Passwords {
    fn credentials(&self, _: &PullContext, _: &CredentialQuery<'_>) -> Result<Vec<Credential>, Error> {
        let mut bytes = password();
        let password = String::from_utf8(std::mem::take(&mut *bytes)).unwrap();
        Ok(vec![Credential::basic("user", password)])
    }
}

/// Returns how often the password is in the memory of this process.
fn copies_of_the_password() -> usize {
    const BLOCK: usize = 64 << 10;
    // Byte by byte, so that the comparison makes no copy.
    let is_password = |bytes: &[u8]| bytes.iter().enumerate().all(|(n, byte)| *byte == password_byte(n));
    let memory = File::open("/proc/self/mem").unwrap();
    let mut block = Zeroizing::new(vec![0; BLOCK]);
    let own = block.as_ptr() as u64..block.as_ptr() as u64 + BLOCK as u64;
    let mut copies = 0;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split(' ');
        let (begin, end) = words.next().unwrap().split_once('-').unwrap();
        let address = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (mut at, end) = (address(begin), address(end));
        if !words.next().unwrap().starts_with("rw") {
            continue;
        }
        while at < end {
            let length = BLOCK.min((end - at) as usize);
            let Ok(count) = memory.read_at(&mut block[..length], at) else { break };
            let found = block[..count].windows(32).enumerate();
            copies +=
                found.filter(|(n, bytes)| !own.contains(&(at + *n as u64)) && is_password(bytes)).count();
            // A copy may lie across two blocks.
            at += if length < BLOCK { length } else { length - 31 } as u64;
        }
    }
    copies
}

#[test]
fn no_password_stays_in_memory_after_a_pull() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cri.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let builder = CriImageService::builder(path.to_str().unwrap()).keychain(Arc::new(Passwords));
    let service = builder.build().unwrap();
    thread::scope(|scope| {
        let pull = scope.spawn(move || {
            let pulled = service.pull_image(&PullContext::new(), &PullRequest::new(1, "app")).unwrap();
            assert!(pulled.credential.is_some());
        });
        // The pull, then the look-up of its digests.
        for call in 0..2 {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = Zeroizing::new(vec![0; 64 << 10]);
            let count = connection.read(&mut request).unwrap();
            let is_sent = request[..count].windows(32).any(|bytes| bytes == &password()[..]);
            assert_eq!(is_sent, call == 0);
            if call == 0 {
                assert!(copies_of_the_password() > 0, "what is there is found");
            }
            let settings = peer::frame(peer::SETTINGS, 0, 0, &[]);
            let answer = peer::message(&peer::field(1, "sha256:id"));
            connection.write_all(&[settings, answer].concat()).unwrap();
            while connection.read(&mut request).unwrap() > 0 {}
        }
        pull.join().unwrap();
    });
    assert_eq!(copies_of_the_password(), 0);
}

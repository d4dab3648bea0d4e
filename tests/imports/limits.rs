//! The limits of imports: each ends by itself, with its context, or at a limit.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use oci_puller::image::Digest;
use oci_puller::store::{Cancellable, Durability};
use oci_puller::{CancelToken, ErrorKind, PullContext, Store};
use serde_json::{Value, json};

use crate::made::{Machine, Made, header};

/// Far more than any of these takes on a loaded machine, and far less than those of no end.
const LONG: Duration = Duration::from_secs(60);

/// What an import may take to end after its context: 100 ms on a machine that has nothing else to do.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Runs `work`, which must not take long.
fn soon<T>(told: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    assert!(began.elapsed() < LONG, "{told} took {:?}", began.elapsed());
    result
}

fn kind<T>(outcome: Result<T, oci_puller::Error>) -> Result<T, ErrorKind> {
    outcome.map_err(|error| error.kind())
}

/// A descriptor as short as one may be.
fn descriptor(listed: &Value) -> Value {
    json!({ "mediaType": listed["mediaType"], "digest": listed["digest"], "size": listed["size"] })
}

#[test]
fn indexes_that_list_each_other_many_times_are_read_once() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let mut listed = descriptor(&image.descriptor);
    for _ in 0..4 {
        listed = made.index(&vec![listed; 4_000]);
    }
    made.list(&listed, Some("v1"));
    let (machine, outcome) = soon("nested indexes", || made.import(&Default::default()));
    assert_eq!(outcome.unwrap().names, ["v1"]);
    assert_eq!(machine.found("v1"), Some(image.manifest));
    soon("verify", || assert!(machine.store.verify(&PullContext::new()).unwrap().is_sound()));
    soon("rm", || machine.remove("v1"));
    assert_eq!(machine.blobs(), 0);
}

#[test]
fn many_names_of_a_wide_index_are_cheap() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let absent = |at: usize| {
        let digest = Digest::sha256(at.to_string().as_bytes());
        json!({ "mediaType": image.descriptor["mediaType"], "digest": digest.as_str(), "size": 7 })
    };
    let mut wide: Vec<_> = (0..3_999).map(absent).collect();
    wide.push(image.descriptor.clone());
    let wide = made.index(&wide);
    for at in 0..18_000 {
        made.list(&descriptor(&wide), Some(&format!("v{at}")));
    }
    let machine = Machine::new("linux/amd64");
    let archive = made.archive();
    let names = soon("the import", || machine.store.import(&PullContext::new(), &archive[..]));
    assert_eq!(names.unwrap().len(), 18_000);
    assert_eq!(soon("images", || machine.images())[0].1.len(), 18_000);
    assert_eq!(soon("find", || machine.found("v17999")), Some(image.manifest.clone()));
    assert!(soon("verify", || machine.store.verify(&PullContext::new())).unwrap().is_sound());
    soon("a second import", || machine.store.import(&PullContext::new(), &archive[..])).unwrap();
    assert_eq!(soon("rm", || machine.remove(image.manifest.as_str())).names.len(), 18_000);
    assert_eq!(machine.blobs(), 0);
}

#[test]
fn many_indexes_that_share_a_wide_one_reach_the_limit() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let absent = |at: usize| {
        let digest = Digest::sha256(at.to_string().as_bytes());
        json!({ "mediaType": image.descriptor["mediaType"], "digest": digest.as_str(), "size": 7 })
    };
    let wide = made.index(&(0..4_000).map(absent).collect::<Vec<_>>());
    for at in 0..100 {
        let mut entry = descriptor(&wide);
        entry["annotations"] = json!({ "at": at.to_string() });
        let root = made.index(&[entry, image.descriptor.clone()]);
        made.list(&root, None);
    }
    let (_, outcome) = soon("the import", || made.import(&Default::default()));
    assert_eq!(outcome, Err(ErrorKind::InvalidManifest));
}

#[test]
fn a_sparse_index_with_many_names_reaches_the_limit() {
    // Each name would record all the manifests that were taken.
    let mut made = Made::default();
    let mut listed: Vec<_> = (0..60).map(|at| made.image(&format!("linux/amd64 {at}")).descriptor).collect();
    let absent = Digest::sha256(b"absent");
    listed.push(json!({ "mediaType": listed[0]["mediaType"], "digest": absent.as_str(), "size": 7 }));
    let sparse = made.index(&listed);
    for (names, expected) in [(100, Ok(100)), (2_000, Err(ErrorKind::InvalidManifest))] {
        made.listed.clear();
        (0..names).for_each(|at| made.list(&descriptor(&sparse), Some(&format!("v{at}"))));
        let archive = made.archive();
        let machine = Machine::new("linux/amd64");
        let outcome = soon("the import", || machine.store.import(&PullContext::new(), &archive[..]));
        assert_eq!(kind(outcome).map(|names| names.len()), expected);
    }
}

/// An archive of `docker save` with one config, and what `manifest.json` lists.
fn docker(listed: &str) -> Vec<u8> {
    let mut made = Made::default();
    made.file("c", br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#);
    made.file("manifest.json", listed.as_bytes());
    made.archive()
}

#[test]
fn many_images_of_one_config_end_or_are_refused() {
    let many = |count: usize, entry: &dyn Fn(usize) -> String| {
        format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    let nameless = |_: usize| r#"{"Config":"c"}"#.to_owned();
    let named = |at: usize| format!(r#"{{"Config":"c","RepoTags":["a:{at}"]}}"#);
    type Case<'c> = (usize, &'c dyn Fn(usize) -> String, Result<usize, ErrorKind>);
    let cases: [Case<'_>; 4] = [
        (110_000, &nameless, Err(ErrorKind::InvalidManifest)),
        (110_000, &named, Err(ErrorKind::InvalidManifest)),
        (90_000, &nameless, Ok(1)),
        (45_000, &named, Ok(45_000)),
    ];
    for (count, entry, expected) in cases {
        let archive = docker(&many(count, entry));
        let machine = Machine::new("linux/amd64");
        let outcome = soon("the import", || machine.store.import(&PullContext::new(), &archive[..]));
        assert_eq!(kind(outcome).map(|names| names.len()), expected);
        if expected.is_ok() {
            assert_eq!(soon("images", || machine.images()).len(), 1);
        }
    }
}

/// Repeats its blocks for ever, and calls `at_end` when the first million bytes were read.
struct Endless<F> {
    blocks: Vec<u8>,
    read: usize,
    after_a_while: Option<F>,
}

impl<F: FnOnce()> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.blocks[self.read % self.blocks.len()..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        if self.read > 1_000_000 {
            self.after_a_while.take().into_iter().for_each(|call| call());
        }
        Ok(count)
    }
}

/// Archives without an end: what each repeats.
fn endless() -> Vec<(&'static str, Vec<u8>)> {
    let mut record = b"512 comment=".to_vec();
    record.resize(511, b'a');
    record.push(b'\n');
    let long = |kind| [&header(kind, "a", 512)[..], &record].concat();
    vec![
        ("files", header(b'0', "a", 0).to_vec()),
        ("folders", header(b'5', "a/", 0).to_vec()),
        ("folders that claim 2^62 bytes", header(b'5', "a/", 1 << 62).to_vec()),
        ("extended headers", long(b'x')),
        ("global headers", long(b'g')),
        ("long names", long(b'L')),
        ("long links", long(b'K')),
        ("a global header of 2^62 bytes", header(b'g', "a", 1 << 62).to_vec()),
        ("an extended header of 2^62 bytes", header(b'x', "a", 1 << 62).to_vec()),
        ("a file of 2^62 bytes", header(b'0', "a", 1 << 62).to_vec()),
        ("what is no archive", b"nothing that tar knows ".repeat(100)),
    ]
}

#[test]
fn archives_without_an_end_end_with_the_context_or_at_a_limit() {
    for (told, blocks) in endless() {
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        let machine = Machine::new("linux/amd64");
        let cancelled = Cell::new(None);
        let cancel = || {
            token.cancel();
            cancelled.set(Some(Instant::now()));
        };
        let archive = Endless { blocks, read: 0, after_a_while: Some(cancel) };
        let outcome = soon(told, || machine.store.import(&cx, archive));
        let took = cancelled.get().map_or(Duration::ZERO, |cancelled| cancelled.elapsed());
        println!("{told}: ended {took:?} after the cancel");
        assert!(took < AT_ONCE, "{told}: {took:?}");
        let allowed = [ErrorKind::Cancelled, ErrorKind::InvalidManifest, ErrorKind::DiskFull];
        assert!(allowed.contains(&kind(outcome).unwrap_err()), "{told}");
    }
    // What reaches no limit soon is what must be cancelled.
    for (told, blocks) in endless() {
        if told.contains("a global header of") {
            continue;
        }
        let machine = Machine::new("linux/amd64");
        let archive = Endless { blocks, read: 0, after_a_while: None::<fn()> };
        let outcome = soon(told, || machine.store.import(&PullContext::new(), archive));
        assert!(matches!(kind(outcome), Err(ErrorKind::InvalidManifest | ErrorKind::DiskFull)), "{told}");
    }
}

#[test]
fn a_silent_pipe_ends_with_the_context() {
    let archive = {
        let mut made = Made::default();
        let image = made.image("linux/amd64");
        made.list(&image.descriptor, Some("v1"));
        made.archive()
    };
    // Silent from the beginning, within a header, within a blob.
    for length in [0, 100, 600] {
        for is_cancelled in [true, false] {
            let (mut writer, reader) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut writer, &archive[..length]).unwrap();
            let token = CancelToken::new();
            let cx = match is_cancelled {
                true => PullContext::new().with_cancel(&token),
                false => PullContext::new().with_timeout(Duration::from_millis(100)),
            };
            let machine = Machine::new("linux/amd64");
            let reader = Cancellable::new(&cx, reader).unwrap();
            let outcome = thread::scope(|scope| {
                let import = scope.spawn(|| soon("the import", || machine.store.import(&cx, reader)));
                if is_cancelled {
                    token.cancel();
                }
                let cancelled = Instant::now();
                let outcome = import.join().unwrap();
                assert!(cancelled.elapsed() < AT_ONCE, "{:?}", cancelled.elapsed());
                outcome
            });
            let expected = if is_cancelled { ErrorKind::Cancelled } else { ErrorKind::Timeout };
            assert_eq!(kind(outcome), Err(expected), "after {length} bytes");
            drop(writer);
        }
    }
}

#[test]
fn an_import_does_not_wait_for_a_held_lock_of_the_index_longer_than_its_context() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, Some("v1"));
    let archive = made.archive();
    for durability in [Durability::Full, Durability::Relaxed] {
        for is_cancelled in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::builder(dir.path()).durability(durability).build().unwrap();
            let lock = File::open(dir.path().join(".oci-puller/index.lock")).unwrap();
            lock.lock().unwrap();
            let token = CancelToken::new();
            let cx = PullContext::new().with_cancel(&token);
            // It certainly waits for the lock by then.
            let soon_over = Duration::from_millis(500);
            let (cx, expected) = match is_cancelled {
                true => (cx, ErrorKind::Cancelled),
                false => (cx.with_timeout(soon_over), ErrorKind::Timeout),
            };
            let began = Instant::now();
            let outcome = thread::scope(|scope| {
                let import = scope.spawn(|| store.import(&cx, &archive[..]));
                if is_cancelled {
                    thread::sleep(soon_over);
                    token.cancel();
                }
                import.join().unwrap()
            });
            // Without the context it is 60 s.
            assert!(began.elapsed() < Duration::from_secs(20), "{durability:?}: {:?}", began.elapsed());
            assert_eq!(kind(outcome), Err(expected), "{durability:?}");
            lock.unlock().unwrap();
            // The next change is made after the one that was given up.
            let mut other = Made::default();
            let image = other.image("linux/amd64");
            other.list(&image.descriptor, Some("v2"));
            assert_eq!(store.import(&PullContext::new(), &other.archive()[..]).unwrap(), ["v2"]);
            assert!(store.find("v1").unwrap().is_none(), "{durability:?}");
            assert!(store.verify(&PullContext::new()).unwrap().is_sound(), "{durability:?}");
        }
    }
}

/// The largest part of this process that was in memory, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "hands over 3.4 GB"]
fn memory_does_not_grow_with_the_paths_of_an_archive() {
    /// So many files without content, each with a path of almost a megabyte.
    struct LongPaths {
        block: Vec<u8>,
        left: u64,
    }
    impl Read for LongPaths {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let total = self.block.len();
            let at = (total as u64 - self.left % total as u64) as usize % total;
            let rest = &self.block[at..];
            let count = rest.len().min(buffer.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            buffer[..count].copy_from_slice(&rest[..count]);
            self.left -= count as u64;
            Ok(count)
        }
    }
    const PATH: usize = 1_000_000;
    for (kind_of, flag) in [("files", b'0'), ("folders", b'5')] {
        let length = PATH.next_multiple_of(512);
        let mut block = header(b'L', "././@LongLink", PATH as u64).to_vec();
        block.extend(b"long/".iter().cycle().take(PATH - 1));
        block.resize(512 + length, 0);
        block.extend(header(flag, "a", 0));
        let left = 3_400_000_000 / block.len() as u64 * block.len() as u64;
        let machine = Machine::new("linux/amd64");
        let before = peak();
        let outcome = machine.store.import(&PullContext::new(), LongPaths { block, left });
        let grown = peak() - before;
        println!("{kind_of}: {} MiB more", grown >> 20);
        assert_eq!(kind(outcome), Err(ErrorKind::InvalidManifest));
        assert!(grown < 64 << 20, "{kind_of}: {grown} bytes");
    }
}

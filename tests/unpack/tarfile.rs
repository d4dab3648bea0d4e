//! Archives with damaged headers, read by Python's `tarfile` too: what both accept, both read alike.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::layers::{Blob, Item, file, image, tar};

const ARCHIVES: u64 = 400;

/// Prints a line for each archive: `refused`, or a JSON object of its regular files.
const SCRIPT: &str = r#"
import json, sys, tarfile
for path in sys.argv[1:]:
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            files = {}
            for entry in archive:
                if not entry.isreg():
                    raise tarfile.ReadError("not a file")
                content = archive.extractfile(entry).read()
                if len(content) != entry.size:
                    raise tarfile.ReadError("cut")
                name = entry.name.encode("utf-8", "surrogateescape").decode("latin1")
                files[name] = [entry.mode & 0o7777, entry.uid, entry.gid, int(entry.mtime // 1), content.decode("latin1")]
            # It takes a header that it cannot read for the end.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512).strip(b"\0"):
                raise tarfile.ReadError("broken")
            print(json.dumps(files))
    except Exception:
        print("refused")
"#;

/// A regular file: mode, owner, group, seconds and content.
type Read = (u32, u32, u32, i64, String);

/// Returns a time as ext4 can have it.
fn seconds(time: i64) -> i64 {
    time.clamp(-(1 << 31), (1 << 34) - (1 << 31) - 1)
}

/// Returns an archive of a few files, of which some bytes of headers are replaced.
fn archive(random: &mut fastrand::Rng) -> Vec<u8> {
    let items: Vec<Item> = (0..random.usize(1..4))
        .map(|number| {
            let name = if random.bool() { format!("f{number}") } else { format!("{number}").repeat(120) };
            let item = file(name, "x".repeat(random.usize(0..700))).mode(random.u64(0..0o10000));
            let item =
                item.owner(random.u64(0..1 << 31), random.u64(0..1 << 20)).time(random.i64(-9..1 << 34));
            match random.u8(0..4) {
                0 => item.pax("mtime", format!("{}.5", random.u32(..))),
                1 => item.pax("uid", random.u32(0..1 << 31).to_string()),
                2 => item.pax("path", format!("p{number}")),
                _ => item,
            }
        })
        .collect();
    let mut bytes = tar(&items);
    for _ in 0..random.usize(0..3) {
        let header = random.usize(0..bytes.len() / 512) * 512;
        let at = header + random.usize(100..512);
        bytes[at] = *random.choice(b"01234567 \0x-\xff\x80").unwrap();
        let sum: u32 = (0..512)
            .map(|at| if (148..156).contains(&at) { 32 } else { u32::from(bytes[header + at]) })
            .sum();
        if random.u8(..) > 20 && bytes[header + 257..header + 262] == *b"ustar" {
            bytes[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

pub(crate) fn what_both_accept_python_reads_alike() {
    let at = tempfile::tempdir().unwrap();
    let archives: Vec<Vec<u8>> =
        (0..ARCHIVES).map(|seed| archive(&mut fastrand::Rng::with_seed(seed))).collect();
    let mut python = Command::new("python3");
    python.args(["-I", "-c", SCRIPT]);
    for (number, bytes) in archives.iter().enumerate() {
        let path = at.path().join(format!("{number}.tar"));
        fs::write(&path, bytes).unwrap();
        python.arg(path);
    }
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut both = 0;
    for ((number, bytes), line) in archives.iter().enumerate().zip(lines.lines()) {
        let dir = at.path().join(number.to_string());
        let (store, image) = image(&dir.join("store"), &[Blob::plain(bytes.clone())]);
        let root = dir.join("root");
        if line == "refused" || store.unpack(&image).into_dir(&root).is_err() {
            continue;
        }
        both += 1;
        let expected: BTreeMap<String, Read> = serde_json::from_str(line).unwrap();
        for (name, expected) in &expected {
            // Each character is a byte.
            let name: Vec<u8> = name.chars().map(|byte| byte as u8).collect();
            let path = root.join(OsStr::from_bytes(&name));
            let metadata = fs::metadata(&path).unwrap_or_else(|error| panic!("{number}: {path:?}: {error}"));
            let content = fs::read(&path).unwrap().iter().map(|byte| char::from(*byte)).collect();
            let found = (
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid(),
                seconds(metadata.mtime()),
                content,
            );
            let (mode, uid, gid, time, content) = expected.clone();
            assert_eq!(found, (mode, uid, gid, seconds(time), content), "{number}: {path:?}");
        }
        let names = fs::read_dir(&root).unwrap().count();
        assert_eq!(names, expected.len(), "{number}");
    }
    assert!(both > ARCHIVES / 10, "only {both} archives were accepted by both");
}

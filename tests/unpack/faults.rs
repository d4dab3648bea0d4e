//! Others that change the target meanwhile, system calls that fail, and processes that are killed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oci_puller::store::Durability;
use oci_puller::unpack::{LayerStore, Owners};
use oci_puller::{Error, PullContext, Store};

use crate::layers::{Blob, char_device, dir, file, hard_link, image, symlink, tar};
use crate::tree::tree;

/// Set in a process that is to unpack: `STORE DIR`, `STORE layers:DIR` for a layer store, or `STORE recorded:DIR`
/// to record owners in `DIR.json`.
pub(crate) const WORK: &str = "OCI_PULLER_UNPACK_WORK";

/// Unpacks with full durability; prints what was left out, or the kind of the error.
pub(crate) fn work(work: &str) -> ExitCode {
    let (store, dir) = work.split_once(' ').unwrap();
    let unpack = || {
        let store = Store::builder(store).durability(Durability::Relaxed).build()?;
        let image = store.images()?.remove(0);
        if let Some(dir) = dir.strip_prefix("layers:") {
            let layers = LayerStore::builder(dir).durability(Durability::Full).build()?;
            store.unpack(&image).durability(Durability::Full).into_layers(&layers)?;
            return Ok((0, 0));
        }
        let unpack = store.unpack(&image).durability(Durability::Full);
        let unpacked = match dir.strip_prefix("recorded:") {
            Some(dir) => unpack.owners(Owners::Recorded(format!("{dir}.json").into())).into_dir(dir)?,
            None => unpack.into_dir(dir)?,
        };
        Ok::<_, Error>((unpacked.left_out.devices, unpacked.left_out.xattrs))
    };
    match unpack() {
        Ok((devices, xattrs)) => {
            println!("{devices} {xattrs}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{:?}", error.kind());
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn sample(at: &Path) -> Vec<Blob> {
    let below =
        [dir("d").mode(0o555), file("d/f", vec![7; 200_000]), symlink("l", "d"), char_device("null", 1, 3)];
    let above = [
        file("l/g", "x").owner(5, 6),
        file(".wh.null", ""),
        hard_link("h", "d/f"),
        file("e", "x").pax("SCHILY.xattr.user.k", "v"),
        char_device("zero", 1, 5),
    ];
    let blobs = vec![Blob::gzip(tar(&below)), Blob::gzip(tar(&above))];
    image(&at.join("store"), &blobs);
    blobs
}

pub(crate) fn run(at: &Path, target: impl AsRef<OsStr>, strace: &str) -> Output {
    let mut command = match strace {
        "" => Command::new(std::env::current_exe().unwrap()),
        _ => {
            let mut command = Command::new("strace");
            command
                .args(["-f", "-qq", "-o", "/dev/null"])
                .args(strace.split(' '))
                .arg(std::env::current_exe().unwrap());
            command
        }
    };
    set_work(&mut command, at, target.as_ref());
    command.output().unwrap()
}

/// A process that unpacks.
pub(crate) fn worker(at: &Path, target: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    set_work(&mut command, at, target.as_ref());
    command
}

fn set_work(command: &mut Command, at: &Path, target: &OsStr) {
    command.env(WORK, format!("{} {}", at.join("store").display(), target.display()));
}

fn inject(call: &str, what: &str) -> String {
    format!("-e trace={call} -e inject={call}:{what}")
}

pub(crate) fn without_openat2_the_trees_are_the_same() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let (with, without) = (at.path().join("with"), at.path().join("without"));
    assert!(run(at.path(), &with, "").status.success());
    for errno in ["ENOSYS", "EPERM", "EAGAIN"] {
        let output = run(at.path(), &without, &inject("openat2", &format!("error={errno}")));
        assert!(output.status.success(), "{errno}: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(tree(&with), tree(&without), "{errno}");
        fs::remove_dir_all(&without).unwrap();
    }
}

pub(crate) fn forbidden_devices_and_attributes_are_left_out_and_counted() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let devices = run(at.path(), at.path().join("devices"), &inject("mknodat", "error=EPERM"));
    assert_eq!(String::from_utf8_lossy(&devices.stdout), "2 0\n");
    let attributes = run(at.path(), at.path().join("attributes"), &inject("fsetxattr", "error=EOPNOTSUPP"));
    assert_eq!(String::from_utf8_lossy(&attributes.stdout), "0 1\n");
}

pub(crate) fn a_killed_or_failed_unpack_is_marked_and_can_be_repeated() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let (whole, target) = (at.path().join("whole"), at.path().join("target"));
    assert!(run(at.path(), &whole, "").status.success());
    let whole = tree(&whole);
    let faults = [
        ("signal=KILL", None),
        ("error=EIO", Some("Store")),
        ("error=ENOSPC", Some("DiskFull")),
        ("error=EDQUOT", Some("DiskFull")),
    ];
    let mut hits = 0;
    for call in [
        "write",
        "mkdirat",
        "renameat",
        "linkat",
        "symlinkat",
        "fchmod",
        "utimensat",
        "unlinkat",
        "fsync",
        "syncfs",
    ] {
        for (fault, kind) in faults {
            for nth in [1, 2, 4] {
                let output = run(at.path(), &target, &inject(call, &format!("{fault}:when={nth}")));
                let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                if output.status.success() {
                    assert_eq!(tree(&target), whole, "{call} {fault} {nth}");
                    fs::remove_dir_all(&target).unwrap();
                    continue;
                }
                hits += 1;
                // A line that cannot be printed is no concern of ours.
                if let Some(kind) = kind.filter(|_| call != "write") {
                    assert_eq!(told, kind, "{call} {fault} {nth}");
                }
                // The marker tells, unless the folder is whole, or was never begun.
                let names = fs::read_dir(&target).map_or(0, Iterator::count);
                let is_marked = target.join(".oci-puller-unfinished").exists();
                if names > 0 && !is_marked {
                    let mut found = tree(&target);
                    let mut expected = whole.clone();
                    // The root's time may be missing.
                    found.remove(".");
                    expected.remove(".");
                    assert_eq!(found, expected, "{call} {fault} {nth}");
                    fs::remove_dir_all(&target).unwrap();
                }
                let again = run(at.path(), &target, "");
                assert!(
                    again.status.success(),
                    "{call} {fault} {nth}: {}",
                    String::from_utf8_lossy(&again.stdout)
                );
                assert_eq!(tree(&target), whole, "{call} {fault} {nth}");
                fs::remove_dir_all(&target).unwrap();
            }
        }
    }
    assert!(hits > 30, "only {hits} faults");
}

/// The trees of the layers that have a name, which are all whole.
pub(crate) fn named_layers(dir: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let names = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.len() == 64);
    let mut layers: BTreeMap<_, _> =
        names.map(|name| (name.clone(), tree(&dir.join(name).join("fs")))).collect();
    // A whiteout has the time when it was made.
    let whiteouts = layers.values_mut().flat_map(|tree| tree.values_mut());
    for line in whiteouts.filter(|line| line.starts_with("char 0:0")) {
        *line = "whiteout".to_owned();
    }
    layers
}

pub(crate) fn a_layer_has_its_name_only_when_it_is_whole() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let target = |name: &str| format!("layers:{}", at.path().join(name).display());
    assert!(run(at.path(), target("whole"), "").status.success());
    let whole = named_layers(&at.path().join("whole"));
    assert_eq!(whole.len(), 2);
    let dir = at.path().join("layers");
    let mut hits = 0;
    for call in
        ["write", "mkdirat", "renameat", "linkat", "fchmod", "utimensat", "unlinkat", "fsync", "syncfs"]
    {
        for (fault, nth) in [("signal=KILL", 1), ("signal=KILL", 2), ("signal=KILL", 5), ("error=EIO", 2)] {
            let output = run(at.path(), target("layers"), &inject(call, &format!("{fault}:when={nth}")));
            hits += u32::from(!output.status.success());
            let named = named_layers(&dir);
            assert!(named.iter().all(|(name, tree)| whole[name] == *tree), "{call} {fault} {nth}: {named:?}");
            let again = run(at.path(), target("layers"), "");
            let said = String::from_utf8_lossy(&again.stdout);
            assert!(again.status.success(), "{call} {fault} {nth}: {said}");
            assert_eq!(named_layers(&dir), whole, "{call} {fault} {nth}");
            let layers = LayerStore::open(&dir).unwrap();
            assert_eq!(layers.verify(&PullContext::new()).unwrap(), [], "{call} {fault} {nth}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(hits > 15, "only {hits} faults");
}

pub(crate) fn a_user_namespace_records_what_it_cannot_set() {
    let at = tempfile::tempdir().unwrap();
    sample(at.path());
    let (whole, dir) = (at.path().join("whole"), at.path().join("root"));
    assert!(run(at.path(), &whole, "").status.success());
    let mut unshare = Command::new("unshare");
    unshare.arg("-Ur").arg(std::env::current_exe().unwrap());
    unshare.env(WORK, format!("{} recorded:{}", at.path().join("store").display(), dir.display()));
    let output = unshare.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 0\n", "{output:?}");
    let mut expected = tree(&whole);
    expected.remove("zero");
    expected.insert("d/g".to_owned(), "file x".to_owned());
    assert_eq!(tree(&dir), expected);
    let recorded: BTreeMap<String, serde_json::Value> = fs::read_to_string(dir.with_extension("json"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["path"].as_str().unwrap().to_owned(), line))
        .collect();
    assert_eq!((&recorded["d/g"]["uid"], &recorded["d/g"]["gid"]), (&5.into(), &6.into()));
    assert_eq!(recorded["zero"]["dev"], serde_json::json!([1, 5]));
    assert_eq!(recorded.len(), 2, "{recorded:?}");
}

pub(crate) fn swapped_parents_do_not_escape_the_root() {
    let at = tempfile::tempdir().unwrap();
    let mut items = vec![dir("d"), dir("d/e")];
    items.extend((0..300).map(|number| file(format!("d/e/{number}"), "x")));
    let replaced: Vec<_> =
        (0..300).map(|number| hard_link(format!("d/h{number}"), format!("d/e/{number}"))).collect();
    let (store, image) = image(
        &at.path().join("store"),
        &[Blob::gzip(tar(&items)), Blob::gzip(tar(&replaced)), Blob::gzip(tar(&[file(".wh.d", "")]))],
    );
    let outside = at.path().join("outside");
    fs::create_dir_all(outside.join("e")).unwrap();
    fs::write(outside.join("e/7"), "keep").unwrap();
    let before = tree(&outside);
    let thorough = std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some();
    let wanted = if thorough { 100_000 } else { 5_000 };
    let swaps = AtomicU64::new(0);
    let mut round = 0;
    while swaps.load(Ordering::Relaxed) < wanted && round < 2000 {
        round += 1;
        let root = at.path().join(format!("root-{round}"));
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (place, aside) = (root.join("d"), root.join("aside"));
                while !ended.load(Ordering::Relaxed) {
                    if fs::rename(&place, &aside).is_ok() {
                        if std::os::unix::fs::symlink(&outside, &place).is_ok() {
                            swaps.fetch_add(1, Ordering::Relaxed);
                            let _ = fs::remove_file(&place);
                        }
                        let _ = fs::rename(&aside, &place);
                    }
                }
            });
            // It may fail, but only inside.
            let _ = store.unpack(&image).into_dir(&root);
            ended.store(true, Ordering::Relaxed);
        });
        assert_eq!(tree(&outside), before, "round {round}");
        let _ = fs::remove_dir_all(&root);
    }
    assert!(swaps.load(Ordering::Relaxed) > 100, "only {swaps:?} swaps");
}

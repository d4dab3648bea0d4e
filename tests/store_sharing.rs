//! A store beside other users, other processes and their files: permissions, locks, links.

#![allow(clippy::unwrap_used)]

mod archives;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use archives::image;
use oci_puller::{CancelToken, Error, ErrorKind, PullContext, Store};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn import(store: &Store, image: &archives::Image) -> Result<(), Error> {
    store.import(&PullContext::new(), &image.archive[..]).map(drop)
}

fn names(store: &Store) -> Vec<String> {
    store.images().unwrap().into_iter().flat_map(|image| image.names).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Every file and folder in `.oci-puller`, itself included.
fn own_files(store: &Path) -> Vec<PathBuf> {
    let mut found = vec![store.join(".oci-puller")];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() {
            found.extend(fs::read_dir(&found[at]).unwrap().map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    found
}

#[test]
fn only_users_that_may_write_to_the_store_have_rights_to_its_own_files() {
    for (store_mode, allowed) in
        [(0o755, 0o700), (0o700, 0o700), (0o775, 0o770), (0o777, 0o777), (0o757, 0o707)]
    {
        for is_old in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            set_mode(dir.path(), store_mode);
            if is_old {
                as_version_0_1_0_left_it(dir.path());
            }
            let store = Store::open(dir.path()).unwrap();
            import(&store, &image("a", &[b"layer"])).unwrap();
            let files = own_files(dir.path());
            assert!(files.len() >= 6, "{files:?}");
            for file in files {
                let (found, told) = (mode(&file), format!("{} in {store_mode:o}", file.display()));
                assert_eq!(found & !allowed, 0, "{told}: {found:o}");
                assert_eq!(found & 0o600, 0o600, "{told}: {found:o}");
            }
            assert_eq!(mode(&dir.path().join("index.json")), 0o644);
            assert_eq!(mode(&dir.path().join("oci-layout")), 0o644);
        }
    }
}

/// A store as version 0.1.0 left it, with a download that did not end.
fn as_version_0_1_0_left_it(dir: &Path) {
    for folder in ["blobs/sha256", ".oci-puller/partial", ".oci-puller/leases", ".oci-puller/damaged"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    for file in ["index.lock", "collect.lock", "partial/sha256-00", "damaged/sha256-00"] {
        fs::write(dir.join(".oci-puller").join(file), "").unwrap();
    }
    for file in own_files(dir) {
        set_mode(&file, if file.is_dir() { 0o755 } else { 0o644 });
    }
    for file in ["oci-layout", "index.json"] {
        set_mode(&dir.join(file), 0o644);
    }
}

#[test]
fn a_hard_link_or_symlink_in_place_of_a_temporary_file_leads_to_no_other_file() {
    type Link = fn(&Path, &Path) -> std::io::Result<()>;
    let hard: Link = |target, link| fs::hard_link(target, link);
    let soft: Link = |target, link| symlink(target, link);
    let pulled = image("a", &[b"layer"]);
    let partial = format!("partial/sha256-{}", pulled.layers[0].0.hex());
    for (link, told) in [(hard, "hard link"), (soft, "symlink")] {
        for name in ["index.json", "oci-layout", "index.lock", "collect.lock", &partial, "reserve"] {
            let dir = tempfile::tempdir().unwrap();
            let bystander = dir.path().join("bystander");
            fs::write(&bystander, "another user's text").unwrap();
            let path = dir.path().join("store");
            drop(Store::open(&path).unwrap());
            let link_at = path.join(".oci-puller").join(name);
            let _ = fs::remove_file(&link_at);
            link(&bystander, &link_at).unwrap();
            let used = Store::open(&path).and_then(|store| {
                import(&store, &pulled)?;
                store.remove(&PullContext::new(), "a")
            });
            // A symlink in place of a lock is refused, and anything else is replaced.
            let is_refused = told == "symlink" && (name.ends_with(".lock") || name == partial);
            assert_eq!(used.is_err(), is_refused, "{told} at {name}: {used:?}");
            assert_eq!(fs::read_to_string(&bystander).unwrap(), "another user's text", "{told} at {name}");
        }
    }
}

#[test]
fn files_among_the_leases_that_are_no_leases_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let leases = dir.path().join(".oci-puller/leases");
    fs::create_dir(leases.join("1-folder")).unwrap();
    mknodat(CWD, leases.join("1-fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink("/etc/passwd", leases.join("1-link")).unwrap();
    symlink("/nowhere", leases.join("1-dangling")).unwrap();
    import(&store, &image("a", &[b"layer"])).unwrap();
    assert_eq!(store.remove(&PullContext::new(), "a").unwrap().blobs, 3);
}

#[test]
fn a_lease_of_3_gib_is_not_read_and_no_name_goes_that_its_holder_may_need() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    import(&store, &image("a", &[b"layer"])).unwrap();
    let huge = |name: &str| {
        let file = File::create(dir.path().join(".oci-puller").join(name)).unwrap();
        file.set_len(3 << 30).unwrap();
        file
    };
    let held = huge("leases/1-held");
    held.lock().unwrap();
    huge("index.lock");
    huge("collect.lock");
    let error = store.remove(&PullContext::new(), "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.message().contains("leases/1-held"), "{error}");
    assert_eq!(names(&store), ["a"]);
    drop(held);
    assert_eq!(store.remove(&PullContext::new(), "a").unwrap().blobs, 3);
    assert!(!dir.path().join(".oci-puller/leases/1-held").exists());
}

#[test]
fn every_wait_for_a_lock_ends_with_the_context() {
    type Work = fn(&Store, &PullContext) -> Result<(), Error>;
    let import: Work = |store, cx| store.import(cx, &image("b", &[b"other"]).archive[..]).map(drop);
    let remove: Work = |store, cx| store.remove(cx, "a").map(drop);
    for (lock, work) in [("collect.lock", import), ("index.lock", remove), ("collect.lock", remove)] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        self::import(&store, &image("a", &[b"layer"])).unwrap();
        let other = File::options().write(true).open(dir.path().join(".oci-puller").join(lock)).unwrap();
        other.lock().unwrap();
        let began = Instant::now();
        let soon = PullContext::new().with_timeout(Duration::from_millis(100));
        assert_eq!(work(&store, &soon).unwrap_err().kind(), ErrorKind::Timeout, "{lock}");
        let token = CancelToken::new();
        let cancelled = std::thread::scope(|scope| {
            let working = scope.spawn(|| work(&store, &PullContext::new().with_cancel(&token)));
            token.cancel();
            working.join().unwrap()
        });
        assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled, "{lock}");
        assert!(began.elapsed() < Duration::from_secs(10), "{lock}");
    }
}

#[test]
fn a_lock_file_names_the_process_that_held_it_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    import(&store, &image("a", &[b"layer"])).unwrap();
    store.remove(&PullContext::new(), "a").unwrap();
    for lock in ["index.lock", "collect.lock"] {
        let text = fs::read_to_string(dir.path().join(".oci-puller").join(lock)).unwrap();
        let (pid, program) = text.split_once(' ').unwrap();
        assert_eq!(pid, std::process::id().to_string(), "{lock}");
        assert!(program.starts_with("store_sharing"), "{lock}: {text}");
    }
}

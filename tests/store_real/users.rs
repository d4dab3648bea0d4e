//! Users that may read a store and not write to it.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use oci_puller::store::PrunePolicy;
use oci_puller::{ErrorKind, Store};

use crate::worker::WORK;
use crate::{Outcome, check, check_all, cx, images, run};

/// The user `nobody`.
const OTHER: u32 = 65534;

/// Makes a store of two images that every user may read, and a command that does `work` with it as another user.
fn shared_store(dir: &Path, work: &str) -> Result<(PathBuf, Command), Failed> {
    let path = dir.join("store");
    let store = Store::open(&path)?;
    for image in images() {
        store.import(&cx(), &image.archive[..])?;
    }
    // The test itself may be where another user cannot start it.
    let program = dir.join("worker");
    fs::copy(std::env::current_exe()?, &program)?;
    for readable in [dir, &path, &program] {
        fs::set_permissions(readable, Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(program);
    command.uid(OTHER).gid(OTHER).env(WORK, format!("{work} {}", path.display())).current_dir("/");
    Ok((path, command))
}

pub(crate) fn a_reader_reads(dir: &Path) -> Outcome {
    let (path, mut reader) = shared_store(dir, "read")?;
    run(&mut reader)?;
    check_all(&path, &images())
}

/// Lists, exports and verifies; every change is refused.
pub(crate) fn read(dir: &str) -> Result<(), String> {
    let told = |error: oci_puller::Error| format!("{:?}: {error}", error.kind());
    let store = Store::open(dir).map_err(told)?;
    let listed = store.images().map_err(told)?.len();
    let report = store.verify(&cx()).map_err(told)?;
    if listed != 2 || !report.is_sound() {
        return Err(format!("{listed} images, {report:?}"));
    }
    for image in images() {
        check(&store, &image)?;
        store.export(&cx(), &image.name, io::sink()).map_err(told)?;
    }
    let name = &images()[0].name;
    let refused = [
        store.import(&cx(), &images()[0].archive[..]).map(drop),
        store.remove(&cx(), name).map(drop),
        store.pin(&cx(), name, true).map(drop),
    ];
    for outcome in refused {
        match outcome {
            Err(error) if error.kind() == ErrorKind::Store => {}
            other => return Err(format!("a change ended with {other:?}")),
        }
    }
    Ok(())
}

pub(crate) fn a_reader_stops_nothing(dir: &Path) -> Outcome {
    let (path, mut holder) = shared_store(dir, "hold")?;
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line)?;
    let held: usize = line.trim().parse().map_err(|_| format!("it said {line:?}"))?;
    let began = Instant::now();
    let store = Store::open(&path)?;
    let [first, second] = &images()[..] else { return Err("there are two".into()) };
    store.remove(&cx(), &first.name)?;
    store.import(&cx(), &first.archive[..])?;
    store.remove(&cx(), &second.name)?;
    store.prune(&cx(), &PrunePolicy::default().min_age(Duration::ZERO).thresholds(100, 100))?;
    let took = began.elapsed();
    // It ends with its standard input.
    drop(holder.stdin.take());
    let ended = holder.wait()?;
    // Whatever it could lock, it held: the blobs, `index.json` and `oci-layout`.
    if !ended.success() || held < 8 || took > Duration::from_secs(30) {
        return Err(format!("{ended}, {held} files held, {took:?}").into());
    }
    check_all(&path, std::slice::from_ref(first))
}

/// Locks every file that can be opened, says how many, and keeps them until standard input ends.
pub(crate) fn hold(dir: &str) -> Result<(), String> {
    let mut held = Vec::new();
    let mut ahead = vec![PathBuf::from(dir)];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten();
            ahead.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        if path.components().any(|part| part.as_os_str() == ".oci-puller") && File::open(&path).is_ok() {
            return Err(format!("{} can be opened", path.display()));
        }
        held.extend(File::open(&path).ok().filter(|file| file.try_lock().is_ok()));
    }
    println!("{}", held.len());
    io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
}

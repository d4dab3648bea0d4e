//! Many processes at one store.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use oci_puller::Store;

use crate::worker::start;
use crate::{Outcome, cx, is_thorough, run, tool};

pub(crate) fn many_processes(dir: &Path) -> Outcome {
    for count in [2, 4] {
        share(&dir.join(format!("shared-by-{count}")), count)?;
    }
    Ok(())
}

fn share(path: &Path, count: u64) -> Outcome {
    let spawn = |seed: u64| {
        let work = format!("random {} {seed}", path.display());
        start(&work).stderr(Stdio::piped()).spawn()
    };
    drop(Store::open(path)?);
    let mut workers: Vec<Child> = (0..count).map(spawn).collect::<Result<_, _>>()?;
    let until = Instant::now() + Duration::from_secs(if is_thorough() { 60 } else { 5 });
    let mut inspected = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
        inspected += inspect_all(path)?;
        let at = fastrand::usize(..workers.len());
        let mut killed = std::mem::replace(&mut workers[at], spawn(at as u64)?);
        end(&mut killed)?;
    }
    workers.iter_mut().try_for_each(end)?;
    let report = Store::open(path)?.verify(&cx())?;
    if !report.is_sound() || inspected == 0 {
        return Err(format!("{report:?}, {inspected} inspected").into());
    }
    inspect_all(path).map(drop)
}

/// Kills a worker, which must have been at work until now.
fn end(worker: &mut Child) -> Outcome {
    if worker.try_wait()?.is_some() {
        let mut told = String::new();
        worker.stderr.take().unwrap().read_to_string(&mut told)?;
        return Err(told.into());
    }
    worker.kill()?;
    worker.wait()?;
    Ok(())
}

/// Which `index.json` it is: each change makes another file.
fn index_version(path: &Path) -> Result<(u64, i64, i64), Failed> {
    use std::os::unix::fs::MetadataExt;
    let index = fs::metadata(path.join("index.json"))?;
    Ok((index.ino(), index.mtime(), index.mtime_nsec()))
}

/// Reads every image that stands in the index with skopeo: how many there were.
fn inspect_all(path: &Path) -> Result<usize, Failed> {
    let store = Store::open(path)?;
    let names: BTreeSet<_> = store.images()?.into_iter().flat_map(|image| image.names).collect();
    for name in &names {
        let before = index_version(path)?;
        let is_listed = store.find(name)?.is_some();
        let inspected = run(&mut tool(&format!("skopeo inspect --raw oci:{}:{name}", path.display())));
        // Unless the index was written anew just then: the image may have gone, and come again.
        if is_listed && index_version(path)? == before {
            inspected?;
        }
    }
    Ok(names.len())
}

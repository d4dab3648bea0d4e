//! Processes that are killed at a system call, and calls that fail.

use std::fs;
use std::path::Path;

use crate::worker::{start, start_under};
use crate::{Outcome, check_all, images, run, write_archives};

/// The system calls by which a store changes.
const CALLS: [&str; 10] = [
    "openat2",
    "mkdirat",
    "pwrite64",
    "fsync",
    "syncfs",
    "renameat",
    "unlinkat",
    "ftruncate",
    "fchmod",
    "flock",
];

pub(crate) fn killed_at_every_call(dir: &Path) -> Outcome {
    let archives = write_archives(dir, &images())?;
    let mut kills = 0;
    for call in CALLS {
        for nth in 1.. {
            let path = dir.join(format!("{call}-{nth}"));
            let work = format!("import {} {}", path.display(), archives.join(" "));
            let line =
                format!("strace -f -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={nth}");
            let output = start_under(&line, &work).output()?;
            let answered = String::from_utf8(output.stdout)?.lines().count();
            check_all(&path, &images()[..answered]).map_err(|error| format!("{call} {nth}: {error:?}"))?;
            // The next process goes on from there.
            run(&mut start(&work))?;
            check_all(&path, &images())?;
            fs::remove_dir_all(&path)?;
            if output.status.success() {
                break;
            }
            kills += 1;
        }
    }
    if kills > 50 { Ok(()) } else { Err(format!("only {kills} kills").into()) }
}

pub(crate) fn every_call_fails(dir: &Path) -> Outcome {
    let archives = write_archives(dir, &images())?;
    let faults = [
        ("fsync", "EIO"),
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("renameat", "EIO"),
        ("renameat", "ENOSPC"),
        ("openat2", "EIO"),
        ("openat2", "ENOSPC"),
        ("openat2", "EMFILE"),
    ];
    for (call, errno) in faults {
        for nth in 1.. {
            let path = dir.join(format!("{call}-{errno}-{nth}"));
            let work = format!("import {} {}", path.display(), archives.join(" "));
            let line = format!(
                "strace -f -qq -o /dev/null -e trace={call} -e inject={call}:error={errno}:when={nth}"
            );
            let output = start_under(&line, &work).output()?;
            let told = format!("{call} {errno} {nth}: {}", String::from_utf8_lossy(&output.stderr));
            let answered = String::from_utf8(output.stdout)?.lines().count();
            check_all(&path, &images()[..answered]).map_err(|error| format!("{told}: {error:?}"))?;
            run(&mut start(&work)).map_err(|error| format!("{told}: {error:?}"))?;
            check_all(&path, &images())?;
            fs::remove_dir_all(&path)?;
            if output.status.success() && nth > 60 {
                break;
            }
            let kind = if errno == "ENOSPC" { "DiskFull" } else { "Store" };
            if !output.status.success() && !told.contains(kind) && !told.contains("ResourceExhausted") {
                return Err(told.into());
            }
        }
    }
    Ok(())
}

pub(crate) fn few_open_files(dir: &Path) -> Outcome {
    let path = dir.join("store");
    let archives = write_archives(dir, &images())?;
    let work = format!("import {} {}", path.display(), archives.join(" "));
    // Enough for one thing after the other, and no more.
    run(&mut start_under("prlimit --nofile=20:20", &work))?;
    check_all(&path, &images())?;
    let output = start_under("prlimit --nofile=7:7", &work).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success()
        && !told.contains("ResourceExhausted")
        && !told.contains("Too many open files")
    {
        return Err(told.into_owned().into());
    }
    check_all(&path, &images())
}

//! Waits for the two things that give no event: another process's file lock, and a free file
//! descriptor. The only place that polls.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, Lock, OpenMode};
use crate::error::{Error, ErrorKind};
use crate::store::error::{is_out_of_files, refused};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long an operation waits for a file descriptor: this process itself may hold them all.
const OUT_OF_FILES: Duration = Duration::from_secs(30);
/// How long an operation waits for a lock of another process.
const LOCKED: Duration = Duration::from_secs(60);
/// The longest text that is read from a lock file, bytes.
const MAX_HOLDER: usize = 256;

/// The pauses between tries: 10 ms at first, each half as long again, 250 ms at most.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    spent: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Pauses { next: FIRST_PAUSE, spent: Duration::ZERO }
    }

    /// Returns whether to go on waiting for a file descriptor.
    pub(super) fn may_go_on(&self) -> bool {
        self.spent < OUT_OF_FILES
    }

    /// Sleeps until the next try.
    pub(super) fn wait(&mut self, cx: &PullContext) -> Result<(), Error> {
        cx.sleep(self.next)?;
        self.spent += self.next;
        self.next = (self.next * 3 / 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Sleeps until the next try for the lock of the file at `path`.
    ///
    /// # Errors
    /// `Store` after 60 s, and names the `holder`; `Cancelled`, `Timeout`.
    pub(super) fn wait_for_lock(
        &mut self,
        cx: &PullContext,
        path: &str,
        holder: impl FnOnce() -> Option<String>,
    ) -> Result<(), Error> {
        if self.spent < LOCKED {
            return self.wait(cx);
        }
        let holder = holder().unwrap_or_else(|| "another process".to_owned());
        let text =
            format!("{path} has been locked by {holder} for {} s: end it, or try later", LOCKED.as_secs());
        Err(Error::new(ErrorKind::Store, text).with_retryable(true))
    }

    /// Starts the time limit of [`wait_for_lock`](Self::wait_for_lock) anew: the holder is at work.
    pub(super) fn restart_limit(&mut self) {
        self.spent = Duration::ZERO;
    }
}

/// Locks the file at `path`, and waits up to 60 s for the process that holds it. Writes this process's
/// name into it, for the error of the next one that waits.
pub(super) fn lock(cx: &PullContext, file: &dyn DiskFile, lock: Lock, path: &str) -> Result<(), Error> {
    let mut pauses = Pauses::new();
    while !try_lock(file, lock).map_err(|error| refused(&error, format!("lock {path}")))? {
        pauses.wait_for_lock(cx, path, || holder(file))?;
    }
    Ok(())
}

/// Tries to lock the file. An exclusive holder writes its name into it.
pub(super) fn try_lock(file: &dyn DiskFile, lock: Lock) -> io::Result<bool> {
    let is_locked = file.try_lock(lock)?;
    if is_locked && lock == Lock::Exclusive {
        // A full disk may have no room for it, and the lock holds without.
        let _ = write_holder(file);
    }
    Ok(is_locked)
}

fn write_holder(file: &dyn DiskFile) -> io::Result<()> {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let program = std::env::current_exe().unwrap_or_default();
        let mut name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.retain(|c| !c.is_control());
        name.chars().take(MAX_HOLDER / 8).collect()
    });
    let text = format!("{} {}\n", std::process::id(), *NAME);
    let mut found = [0; MAX_HOLDER];
    let read = file.read_at(&mut found, 0)?;
    // Where the file has other names, or another owner, it may be a link to one that is in use.
    if found.get(..read) == Some(text.as_bytes()) || !file.metadata()?.is_ours {
        return Ok(());
    }
    file.write_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// Returns the process that the lock file at `path` names as its holder.
pub(super) fn holder_at(disk: &dyn Disk, path: &str) -> Option<String> {
    holder(&*disk.open(path, OpenMode::Read).ok()?)
}

fn holder(file: &dyn DiskFile) -> Option<String> {
    let mut text = [0; MAX_HOLDER];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = String::from_utf8_lossy(text.get(..read)?);
    let (pid, program) = text.lines().next()?.split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    Some(format!("process {pid} ({})", program.escape_debug()))
}

/// Repeats `attempt` while no file can be opened, for 30 s at most: that is no fault of the store, and
/// passes.
pub(super) fn for_files<T>(
    cx: &PullContext,
    doing: &str,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Result<T, Error> {
    let mut pauses = Pauses::new();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if is_out_of_files(&error) && pauses.may_go_on() => pauses.wait(cx)?,
            Err(error) => return Err(refused(&error, doing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::sim::SimDisk;

    #[test]
    fn the_error_after_60_s_names_the_lock_and_its_holder() {
        let cases = [
            ("12 updater\n", "process 12 (updater)"),
            ("12 up\u{1b}[2Jdater\n", "process 12 (up\\u{1b}[2Jdater)"),
            ("", "another process"),
            ("no number", "another process"),
        ];
        for (text, expected) in cases {
            let disk = SimDisk::new();
            let file = disk.open("lock", OpenMode::Update).unwrap();
            file.write_at(text.as_bytes(), 0).unwrap();
            let mut pauses = Pauses { next: FIRST_PAUSE, spent: LOCKED };
            let outcome = pauses.wait_for_lock(&PullContext::new(), "lock", || holder_at(&disk, "lock"));
            let error = outcome.unwrap_err();
            assert!(error.is_retryable());
            assert!(error.message().starts_with(&format!("lock has been locked by {expected}")), "{error}");
            pauses.restart_limit();
            assert!(pauses.wait_for_lock(&PullContext::new(), "lock", || None).is_ok());
        }
    }
}

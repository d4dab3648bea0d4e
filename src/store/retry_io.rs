//! Waiting for the two things that give no event: another process's file lock, and a free file
//! descriptor. The only place that polls.

use std::io;
use std::time::Duration;

use crate::context::PullContext;
use crate::durable::{DiskFile, Lock};
use crate::error::Error;
use crate::store::error::{is_out_of_files, refused};

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(250);
/// How long a full table of open files is waited out, for it may be this process that fills it.
const OUT_OF_FILES: Duration = Duration::from_secs(30);

/// The pauses between tries: 10 ms, and each half as long again, to 250 ms.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    spent: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Pauses { next: FIRST, spent: Duration::ZERO }
    }

    /// Whether the wait is not yet too long for something that ought to pass.
    pub(super) fn may_go_on(&self) -> bool {
        self.spent < OUT_OF_FILES
    }

    /// Sleeps until the next try.
    pub(super) fn wait(&mut self, cx: &PullContext) -> Result<(), Error> {
        cx.sleep(self.next)?;
        self.spent += self.next;
        self.next = (self.next * 3 / 2).min(LONGEST);
        Ok(())
    }
}

/// Locks the file, waiting as long as another process holds it.
pub(super) fn lock(cx: &PullContext, file: &dyn DiskFile, lock: Lock, what: &str) -> Result<(), Error> {
    let mut pauses = Pauses::new();
    while !file.try_lock(lock).map_err(|error| refused(&error, format!("lock {what}")))? {
        pauses.wait(cx)?;
    }
    Ok(())
}

/// Does `attempt`, again and again while no file can be opened, for 30 s at most: that is no fault of
/// the store, and passes.
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

//! Flushing a partial while its bytes arrive, so that power loss takes little of a long download.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::store::error::refused;
use crate::store::group_commit::GroupCommit;
use crate::store::settings::FlushInterval;

/// The flushes of one partial, one at a time.
#[derive(Debug)]
pub(super) struct PartialFlush {
    group_commit: Arc<GroupCommit>,
    path: String,
    interval: FlushInterval,
    state: Mutex<FlushState>,
}

#[derive(Debug)]
struct FlushState {
    /// Bytes that arrived since the last flush began.
    bytes: u64,
    since: Instant,
    /// Receives the outcome of the flush that runs.
    running: Option<Receiver<std::io::Result<()>>>,
    /// A flush has ended well.
    has_flushed: bool,
    /// A flush failed: the kernel may have dropped any of the file's pages.
    is_lost: bool,
}

impl PartialFlush {
    pub(super) fn new(group_commit: Arc<GroupCommit>, path: String, interval: FlushInterval) -> Self {
        let state =
            FlushState { bytes: 0, since: Instant::now(), running: None, has_flushed: false, is_lost: false };
        PartialFlush { group_commit, path, interval, state: Mutex::new(state) }
    }

    /// Returns whether the file must not be used any more.
    pub(super) fn is_lost(&self) -> bool {
        self.state.lock().is_lost
    }

    /// Counts bytes that were written, and begins a flush if one is due. `before` runs just before it begins.
    ///
    /// # Errors
    /// `Store`, `DiskFull` if a flush has failed.
    pub(super) fn count(
        &self,
        file: &Arc<dyn DiskFile>,
        bytes: usize,
        before: impl FnOnce(),
    ) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            state.bytes += bytes as u64;
            if let Some(outcome) = state.running.as_ref().and_then(|running| running.try_recv().ok()) {
                state.settle(outcome)?;
            }
            let is_due = state.bytes >= self.interval.bytes || state.since.elapsed() >= self.interval.time;
            if !is_due || state.running.is_some() {
                return Ok(());
            }
            (state.bytes, state.since) = (0, Instant::now());
        }
        before();
        // Without a thread, the next interval tries again.
        let running = self.group_commit.flush_partial(&self.path, file);
        self.state.lock().running = running;
        Ok(())
    }

    /// Waits for the flush that runs. If the file was ever flushed, flushes all of it.
    ///
    /// # Errors
    /// `Store`, `DiskFull` if a flush has failed; `Cancelled`, `Timeout`.
    pub(super) fn finish(&self, cx: &PullContext, file: &Arc<dyn DiskFile>) -> Result<(), Error> {
        self.wait(cx)?;
        if !self.state.lock().has_flushed {
            return Ok(());
        }
        let running = self.group_commit.flush_partial(&self.path, file);
        self.state.lock().running = running;
        self.wait(cx)
    }

    fn wait(&self, cx: &PullContext) -> Result<(), Error> {
        let Some(running) = self.state.lock().running.clone() else { return Ok(()) };
        let outcome = cx.wait_for(&running)?;
        let lost = || Err(std::io::Error::other("the flush thread panicked"));
        self.state.lock().settle(outcome.unwrap_or_else(lost))
    }
}

impl FlushState {
    fn settle(&mut self, outcome: std::io::Result<()>) -> Result<(), Error> {
        self.running = None;
        match outcome {
            Ok(()) => {
                self.has_flushed = true;
                Ok(())
            }
            Err(error) => {
                self.is_lost = true;
                let error = refused(&error, "flush a partial download");
                Err(if error.kind() == ErrorKind::DiskFull { error } else { error.with_retryable(false) })
            }
        }
    }
}

//! The shared state of the threads that fetch one image's blobs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::chunked::ChunkedDownload;
use super::ramp::{ConnectionRamp, ONE_THREAD};
use super::source::BlobSource;
use super::stats::TransferStats;
use crate::context::CancelToken;
use crate::error::{Error, Phase};
use crate::image::manifest::Descriptor;
use crate::registry::request::PullSession;
use crate::registry::settings::RegistrySettings;
use crate::store::Transaction;
use crate::sync::{Permit, Semaphore};

/// The blobs that one pull fetches, and the threads that fetch them. The pull's own thread begins; a thread
/// that takes a task starts another one if there is more to do. So a pull has one thread for each download,
/// and one for all blobs that it waits for another pull to fetch.
pub(super) struct DownloadPool<'a> {
    pub(super) session: &'a PullSession<'a>,
    stop: &'a CancelToken,
    transaction: &'a Transaction,
    config: &'a Descriptor,
    /// Bytes that the store lacked at the start.
    missing: u64,
    state: Mutex<PoolState<'a>>,
    ramp: Mutex<ConnectionRamp>,
    /// Threads that fetch blobs or chunks.
    fetching: AtomicUsize,
    /// Notified when a helper has left.
    helper_left: Condvar,
    /// The permit held by the one thread that waits for another pull's blob.
    may_wait: Semaphore,
    pub(super) stats: TransferStats,
}

struct PoolState<'a> {
    blobs: VecDeque<&'a Descriptor>,
    /// Downloads that helpers may join.
    chunked: Vec<Arc<ChunkedDownload<'a>>>,
    threads: usize,
    /// A thread could not be started.
    is_at_limit: bool,
    failed: Option<Error>,
}

/// The next task of a thread.
pub(super) enum Task<'a> {
    /// Fetches a blob; or, with the permit to wait, waits until another pull has fetched it or failed.
    Fetch(&'a Descriptor, Option<Permit>),
    /// Fetches chunks of a blob that another thread leads.
    Help(Arc<ChunkedDownload<'a>>),
}

impl<'a> DownloadPool<'a> {
    pub(super) fn new(
        session: &'a PullSession<'a>,
        stop: &'a CancelToken,
        transaction: &'a Transaction,
        config: &'a Descriptor,
        blobs: Vec<&'a Descriptor>,
        missing: u64,
    ) -> Self {
        let state = PoolState {
            blobs: blobs.into(),
            chunked: Vec::new(),
            threads: 1,
            is_at_limit: false,
            failed: None,
        };
        DownloadPool {
            session,
            stop,
            transaction,
            config,
            missing,
            state: Mutex::new(state),
            ramp: Mutex::new(ConnectionRamp::new()),
            fetching: AtomicUsize::new(0),
            helper_left: Condvar::new(),
            may_wait: Semaphore::new(1),
            stats: TransferStats::default(),
        }
    }

    /// Returns the first error, or what was transferred.
    pub(super) fn into_outcome(self) -> Result<TransferStats, Error> {
        match self.state.into_inner().failed {
            Some(error) => Err(error),
            None => Ok(self.stats),
        }
    }

    /// Returns what a thread does next. `None` ends the thread, which no longer counts.
    pub(super) fn next(&self) -> Option<Task<'a>> {
        let mut state = self.state.lock();
        let task = self.choose(&mut state);
        state.threads -= usize::from(task.is_none());
        task
    }

    /// Chooses a blob that no thread fetches, else one to help with, else one to wait for.
    fn choose(&self, state: &mut PoolState<'a>) -> Option<Task<'a>> {
        if state.failed.is_some() {
            return None;
        }
        if let Some(place) = self.first_free(state) {
            if state.threads > self.blobs_side_by_side() {
                return None;
            }
            return state.blobs.remove(place).map(|blob| Task::Fetch(blob, None));
        }
        if state.threads <= self.ramp.lock().limit()
            && let Some(download) = most_pending(state).filter(|_| self.has_free_download())
        {
            download.join();
            return Some(Task::Help(Arc::clone(download)));
        }
        let permit = self.may_wait.try_acquire()?;
        state.blobs.pop_front().map(|blob| Task::Fetch(blob, Some(permit)))
    }

    /// Returns the place of the first queued blob that no thread of this process fetches.
    fn first_free(&self, state: &PoolState<'a>) -> Option<usize> {
        let store = &self.session.service.store;
        state.blobs.iter().position(|blob| !store.is_being_fetched(&blob.digest))
    }

    /// Runs `spawn` with the new thread's number if one more thread has something to do.
    pub(super) fn spawn_if_useful(&self, spawn: impl FnOnce(usize) -> std::io::Result<()>) {
        let mut state = self.state.lock();
        if !self.wants_thread(&state) {
            return;
        }
        match spawn(state.threads) {
            Ok(()) => state.threads += 1,
            Err(error) => {
                state.is_at_limit = true;
                log::warn!("fewer blobs are fetched at a time: no thread could be started: {error}");
            }
        }
    }

    fn wants_thread(&self, state: &PoolState<'a>) -> bool {
        let may_help = || state.threads < self.ramp.lock().limit() && most_pending(state).is_some();
        let can_help = || may_help() && self.has_free_download();
        let can_fetch = || state.threads < self.blobs_side_by_side() && self.first_free(state).is_some();
        !state.is_at_limit && state.threads < self.useful_threads() && (can_fetch() || can_help())
    }

    /// Whether the first host may have a further download now, as far as all pulls together are concerned.
    fn has_free_download(&self) -> bool {
        let first = self.session.endpoints.first();
        first.is_none_or(|first| self.session.service.host_limits.has_free_download(&first.name))
    }

    /// Returns how many threads are of use. With a near host this machine bounds the pull: more threads
    /// than it can run would only take turns.
    fn useful_threads(&self) -> usize {
        let service = self.session.service;
        let RegistrySettings { downloads_per_pull, side_by_side, .. } = service.settings;
        let first = self.session.endpoints.first();
        let is_near = first.is_some_and(|first| service.host_limits.is_near(&first.name));
        match self.missing {
            0 => 1,
            ..=ONE_THREAD if is_near => 1,
            _ if is_near => downloads_per_pull.min(side_by_side),
            _ => downloads_per_pull,
        }
    }

    /// Returns how many blobs may be fetched side by side.
    fn blobs_side_by_side(&self) -> usize {
        self.ramp.lock().blobs(self.round_trip())
    }

    fn round_trip(&self) -> Option<Duration> {
        let first = self.session.endpoints.first()?;
        self.session.service.host_limits.round_trip(&first.name)
    }

    /// Counts bytes that arrived. Returns whether more connections are of use than before.
    pub(super) fn count_bytes(&self, bytes: usize) -> bool {
        let connections = self.fetching.load(Ordering::Relaxed);
        self.ramp.lock().count(Instant::now(), bytes as u64, connections, self.round_trip())
    }

    /// Counts this thread among those that fetch until the returned guard is dropped.
    pub(super) fn fetching(&self) -> Fetching<'_> {
        self.fetching.fetch_add(1, Ordering::Relaxed);
        Fetching(&self.fetching)
    }

    /// Returns whether as many threads as now are of use for chunks.
    pub(super) fn has_use_for_helper(&self) -> bool {
        self.state.lock().threads <= self.ramp.lock().limit()
    }

    pub(super) fn source(&self, blob: &'a Descriptor) -> BlobSource<'a> {
        let phase = if blob.digest == self.config.digest { Phase::Config } else { Phase::Layer };
        BlobSource { session: self.session, transaction: self.transaction, blob, phase }
    }

    /// Ends the other threads, too. The first failure counts: the others follow from it.
    pub(super) fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.stop.cancel();
    }

    /// Lets helpers join a download.
    pub(super) fn offer(&self, download: &Arc<ChunkedDownload<'a>>) {
        self.state.lock().chunked.push(Arc::clone(download));
    }

    /// Lets no helper join any more, and waits until all have left. Returns `None` if one still holds
    /// the download.
    pub(super) fn withdraw(&self, download: Arc<ChunkedDownload<'a>>) -> Option<ChunkedDownload<'a>> {
        let mut state = self.state.lock();
        state.chunked.retain(|other| !Arc::ptr_eq(other, &download));
        while download.has_helpers() {
            self.helper_left.wait(&mut state);
        }
        Arc::into_inner(download)
    }

    /// Counts a helper as gone.
    pub(super) fn leave(&self, download: Arc<ChunkedDownload<'a>>) {
        // Under the lock the leader sees the count only when it is the only holder again.
        let state = self.state.lock();
        download.leave();
        drop(download);
        drop(state);
        self.helper_left.notify_all();
    }
}

/// A thread that fetches a blob or its chunks.
pub(super) struct Fetching<'p>(&'p AtomicUsize);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the download with the most pending bytes that wants help.
fn most_pending<'s, 'a>(state: &'s PoolState<'a>) -> Option<&'s Arc<ChunkedDownload<'a>>> {
    state.chunked.iter().filter(|download| download.wants_help()).max_by_key(|download| download.pending())
}

//! Pruning again and again, in a thread of its own.

use std::fmt;
use std::time::Duration;

use super::gc::PrunePolicy;
use super::handle::Store;
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, ErrorKind};
use crate::sync::{LISTENING_TIME, ThreadGroup, until};

/// The stack of the thread, bytes.
const STACK_SIZE: usize = 256 * 1024;

/// Prunes a store until it is dropped; see [`Store::prune_every`].
#[must_use = "dropping it ends the loop"]
pub struct PruneLoop {
    stop: CancelToken,
    threads: ThreadGroup,
}

impl Store {
    /// Prunes in the thread `store-prune`: at once, and again `period` after each prune ended, also where it failed.
    /// A failure is logged as a warning, what was removed at level info.
    ///
    /// Dropping the loop cancels a prune that runs and joins the thread.
    ///
    /// # Errors
    /// [`ResourceExhausted`](ErrorKind::ResourceExhausted) if the thread cannot be started.
    pub fn prune_every(&self, period: Duration, policy: PrunePolicy) -> Result<PruneLoop, Error> {
        let pruned = PruneLoop { stop: CancelToken::new(), threads: ThreadGroup::new(STACK_SIZE) };
        let (store, stop) = (self.clone(), pruned.stop.clone());
        let cx = PullContext::new().with_cancel(&stop);
        let work = move || {
            until(stop.cancelled(), period, || match store.prune(&cx, &policy) {
                Ok(removed) => log::info!("pruned the store: {removed:?}"),
                Err(error) if error.kind() == ErrorKind::Cancelled => {}
                Err(error) => log::warn!("the store could not be pruned: {error}"),
            });
        };
        pruned.threads.spawn("store-prune".to_owned(), work).map_err(|error| {
            let text = format!("no thread could be started to prune the store: {error}");
            Error::new(ErrorKind::ResourceExhausted, text).with_source(error)
        })?;
        Ok(pruned)
    }
}

impl Drop for PruneLoop {
    fn drop(&mut self) {
        self.stop.cancel();
        self.threads.join(LISTENING_TIME);
    }
}

impl fmt::Debug for PruneLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PruneLoop").finish_non_exhaustive()
    }
}

//! Pulls in parallel, bounded by a counting channel of tokens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::desk::{Desk, Rules};
use super::queue::Pending;
use super::{DEFAULT_STACK_SIZE, ImagePuller, PullResult, PullerStats, Rejected};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::{ImageService, PullRequest};

/// The most tokens that a puller may be given.
const MAX_TOKENS: i32 = 4096;

/// How long a thread that has nothing to do waits for more before it ends.
const LINGERING: Duration = Duration::from_millis(20);

/// Pulls images side by side, no more of them at a time than it has tokens.
///
/// A request that finds no token waits in a queue, not on a thread: 10,000 requests at a limit of 4
/// are 10,000 entries and 4 threads. Requests start in the order asked. Threads end when nothing is
/// left for them to do.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct ParallelImagePuller<S: ImageService + 'static> {
    desk: Arc<Desk<S>>,
    limit: Option<usize>,
}

impl<S: ImageService + 'static> ParallelImagePuller<S> {
    /// A puller that runs at most `max_parallel_image_pulls` pulls at a time; `None`, or a number
    /// below 1, is no limit: a thread for each pull that runs.
    ///
    /// # Errors
    /// `InvalidConfig` if the limit is above 4,096.
    pub fn new(service: S, max_parallel_image_pulls: Option<i32>) -> Result<Self, Error> {
        Self::builder(service).max_parallel_image_pulls(max_parallel_image_pulls).build()
    }

    /// A puller with other settings than the defaults.
    pub fn builder(service: S) -> ParallelImagePullerBuilder<S> {
        ParallelImagePullerBuilder {
            service,
            max_parallel_image_pulls: None,
            max_queued: usize::MAX,
            stack_size: DEFAULT_STACK_SIZE,
        }
    }
}

/// The life of a `pull-N` thread: one request after the other, and the end when none is left.
fn pull_while_any<S: ImageService + 'static>(desk: &Arc<Desk<S>>, first: Option<Pending>) {
    let mut next = first;
    while let Some(pending) = next {
        desk.work(pending);
        next = desk.next();
    }
}

impl<S: ImageService + 'static> ImagePuller for ParallelImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        if let Err(refused) = self.desk.enter(Pending::new(cx, request, results)) {
            let (pending, reason) = *refused;
            self.desk.refuse(pending, reason.into_error());
        }
    }

    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        self.desk
            .enter(Pending::new(cx, request, results))
            .map(drop)
            .map_err(|refused| Rejected::new(*refused))
    }

    fn capacity(&self) -> Option<usize> {
        self.limit
    }

    fn stats(&self) -> PullerStats {
        self.desk.stats()
    }

    fn shutdown(&self, grace: Duration) {
        self.desk.shutdown(grace);
    }
}

impl<S: ImageService + 'static> Drop for ParallelImagePuller<S> {
    fn drop(&mut self) {
        self.desk.shutdown(Duration::ZERO);
    }
}

impl<S: ImageService + 'static> fmt::Debug for ParallelImagePuller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelImagePuller").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Builds a [`ParallelImagePuller`].
#[must_use]
pub struct ParallelImagePullerBuilder<S> {
    service: S,
    max_parallel_image_pulls: Option<i32>,
    max_queued: usize,
    stack_size: usize,
}

impl<S: ImageService + 'static> ParallelImagePullerBuilder<S> {
    /// How many pulls may run at a time, up to 4,096; `None`, or a number below 1, is no limit.
    /// Default: no limit.
    pub fn max_parallel_image_pulls(mut self, limit: Option<i32>) -> Self {
        self.max_parallel_image_pulls = limit;
        self
    }

    /// How many requests may wait for a token; one more is answered `ResourceExhausted`, or given
    /// back by [`try_pull_image`](ImagePuller::try_pull_image). Default: no limit.
    pub fn max_queued(mut self, requests: usize) -> Self {
        self.max_queued = requests;
        self
    }

    /// The stack of each thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// The puller.
    ///
    /// # Errors
    /// `InvalidConfig` if the limit is above 4,096.
    pub fn build(self) -> Result<ParallelImagePuller<S>, Error> {
        let limit = match self.max_parallel_image_pulls {
            Some(limit) if limit > MAX_TOKENS => {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("max_parallel_image_pulls is {limit}; at most {MAX_TOKENS} are possible"),
                ));
            }
            Some(limit) => usize::try_from(limit).ok().filter(|limit| *limit > 0),
            None => None,
        };
        Ok(ParallelImagePuller {
            desk: Desk::new(
                self.service,
                Rules {
                    limit,
                    max_queued: self.max_queued,
                    lingering: Some(LINGERING),
                    stack_size: self.stack_size,
                    name: |number| format!("pull-{number}"),
                    life: Box::new(pull_while_any),
                },
            ),
            limit,
        })
    }
}

impl<S> fmt::Debug for ParallelImagePullerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelImagePullerBuilder")
            .field("max_parallel_image_pulls", &self.max_parallel_image_pulls)
            .field("max_queued", &self.max_queued)
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

//! Pulls one image at a time, from a bounded queue.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};

use super::desk::{Desk, Rules, Worked};
use super::queue::Pending;
use super::until::until_by;
use super::{DEFAULT_STACK_SIZE, ImagePuller, PullResult, PullerStats, RejectReason, Rejected};
use crate::clock::{Clock, SystemClock};
use crate::context::PullContext;
use crate::error::Error;
use crate::service::{ImageService, PullRequest};

/// How many requests wait for the worker before those who ask have to wait themselves.
pub const MAX_IMAGE_PULL_REQUESTS: usize = 10;

/// How long the worker rests after the image service panicked.
const RESTART_PERIOD: Duration = Duration::from_secs(1);

/// Pulls images one at a time, in the order asked, on one long-lived thread.
///
/// Up to [`MAX_IMAGE_PULL_REQUESTS`] requests wait for it; one more makes
/// [`pull_image`](ImagePuller::pull_image) wait, until there is room, or its context ends, or the
/// puller does. If the service panics, the request is answered, and the worker goes on a second later.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct SerialImagePuller<S: ImageService + 'static> {
    desk: Arc<Desk<S>>,
}

impl<S: ImageService + 'static> SerialImagePuller<S> {
    /// A puller with the defaults. Its thread is started at the first request.
    ///
    /// # Errors
    /// None today.
    pub fn new(service: S) -> Result<Self, Error> {
        Self::builder(service).build()
    }

    /// A puller with other settings than the defaults.
    pub fn builder(service: S) -> SerialImagePullerBuilder<S> {
        SerialImagePullerBuilder { service, stack_size: DEFAULT_STACK_SIZE, clock: Arc::new(SystemClock) }
    }

    /// Enters a request that there is no room for, and waits until there is, or until it is answered.
    fn stand(&self, mut pending: Pending) {
        let (standing, let_go) = bounded(0);
        let waiting = pending.cx.clone();
        pending.standing = Some(standing);
        match self.desk.enter(pending) {
            Ok(number) => {
                select! {
                    recv(let_go) -> _ => {}
                    // The deadline's thread may be late, or missing.
                    recv(waiting.expired()) -> _ => if let Err(error) = waiting.check() {
                        self.desk.refuse_queued(number, error);
                    },
                }
            }
            Err(refused) => {
                let (pending, reason) = *refused;
                self.desk.refuse(pending, reason.into_error());
            }
        }
    }
}

/// Works off the queue until the puller ends; and after a panic of the service again, when a rest is
/// over.
fn pull_for_good<S: ImageService + 'static>(desk: &Arc<Desk<S>>, first: Option<Pending>, clock: &dyn Clock) {
    let mut first = first;
    until_by(clock, desk.closing(), RESTART_PERIOD, || {
        while let Some(pending) = first.take().or_else(|| desk.next()) {
            if desk.work(pending) == Worked::Panicked {
                return;
            }
        }
    });
}

impl<S: ImageService + 'static> ImagePuller for SerialImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        self.desk.wait_for_room();
        match self.desk.enter(Pending::new(cx, request, results)) {
            Ok(_) => {}
            Err(refused) => match *refused {
                (pending, RejectReason::Full) => self.stand(pending),
                (pending, reason) => self.desk.refuse(pending, reason.into_error()),
            },
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
        Some(1)
    }

    fn stats(&self) -> PullerStats {
        self.desk.stats()
    }

    fn shutdown(&self, grace: Duration) {
        self.desk.shutdown(grace);
    }
}

impl<S: ImageService + 'static> Drop for SerialImagePuller<S> {
    fn drop(&mut self) {
        self.desk.shutdown(Duration::ZERO);
    }
}

impl<S: ImageService + 'static> fmt::Debug for SerialImagePuller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialImagePuller").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Builds a [`SerialImagePuller`].
#[must_use]
pub struct SerialImagePullerBuilder<S> {
    service: S,
    stack_size: usize,
    clock: Arc<dyn Clock>,
}

impl<S: ImageService + 'static> SerialImagePullerBuilder<S> {
    /// The stack of the worker's thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// The clock by which the worker rests after a panic. Default: the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The puller.
    ///
    /// # Errors
    /// None today.
    pub fn build(self) -> Result<SerialImagePuller<S>, Error> {
        let clock = self.clock;
        let rules = Rules {
            limit: Some(1),
            max_queued: MAX_IMAGE_PULL_REQUESTS,
            lingering: None,
            stack_size: self.stack_size,
            name: |_| "pull-serial".into(),
            life: Box::new(move |desk, first| pull_for_good(desk, first, &*clock)),
        };
        Ok(SerialImagePuller { desk: Desk::new(self.service, rules) })
    }
}

impl<S> fmt::Debug for SerialImagePullerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialImagePullerBuilder")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}

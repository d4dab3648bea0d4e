//! The settings of a manager, and their checks.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::backoff::{BackOff, DelaySeries};
use super::events::EventSink;
use super::image_manager::ImageManager;
use super::in_flight::InFlight;
use super::inner::ManagerInner;
use super::jobs::Workers;
use super::records::Records;
use super::request::parse_reference;
use super::schedule::{PullLimits, Schedule};
use super::throttle::ThrottleMode;
use super::verification::{VerificationPolicy, VerificationRule};
use super::workers;
use crate::clock::{Clock, SystemClock};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::puller::ImagePuller;
use crate::service::{ImageService, ImageSpec};
use crate::sync::{ThreadGroup, Timer, TokenBucket};

/// The highest number of pulls that may run at a time.
const MAX_PARALLEL: usize = 4096;
/// The default of that number.
const DEFAULT_PARALLEL: usize = 4;
const MAX_RATE: f64 = 1e6;
const MAX_BURST: u32 = 1_000_000;
/// The longest delay that can be set.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl ImageManager {
    /// Returns a builder of a manager over `service`.
    pub fn builder(service: impl ImageService + 'static) -> ImageManagerBuilder {
        ImageManagerBuilder::new(Arc::new(service))
    }
}

/// Builds an [`ImageManager`].
#[must_use]
pub struct ImageManagerBuilder {
    service: Arc<dyn ImageService>,
    puller: Option<Arc<dyn ImagePuller>>,
    sink: Option<Arc<dyn EventSink>>,
    clock: Arc<dyn Clock>,
    qps: f64,
    burst: u32,
    throttle: ThrottleMode,
    back_off: DelaySeries,
    max_parallel: Option<usize>,
    max_per_registry: Option<usize>,
    aging: Duration,
    records: Option<PathBuf>,
    verification: Option<VerificationPolicy>,
}

impl ImageManagerBuilder {
    fn new(service: Arc<dyn ImageService>) -> Self {
        ImageManagerBuilder {
            service,
            puller: None,
            sink: None,
            clock: Arc::new(SystemClock),
            qps: 5.0,
            burst: 10,
            throttle: ThrottleMode::default(),
            back_off: DelaySeries {
                initial: Duration::from_secs(10),
                max: Duration::from_secs(300),
                jitter: 0.1,
            },
            max_parallel: None,
            max_per_registry: None,
            aging: Duration::from_secs(10),
            records: None,
            verification: None,
        }
    }

    /// Sets a puller over the same service. The caller keeps it: the manager does not shut it down.
    /// Default: none; the manager pulls on threads of its own.
    pub fn puller(mut self, puller: impl ImagePuller + 'static) -> Self {
        self.puller = Some(Arc::new(puller));
        self
    }

    /// Sets the sink of events. Default: none.
    pub fn events(mut self, sink: impl EventSink + 'static) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Sets the clock of back-off, throttle and age. Default: the system's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how many pulls may begin in a second, 0 to 1,000,000; 0 is no throttle. Default: 5, as kubelet's.
    pub fn qps(mut self, pulls: f64) -> Self {
        self.qps = pulls;
        self
    }

    /// Sets how many pulls may begin at once after a time without, 1 to 1,000,000. Default: 10, as kubelet's.
    pub fn burst(mut self, pulls: u32) -> Self {
        self.burst = pulls;
        self
    }

    /// Sets what happens to a request when the throttle has no token. Default:
    /// [`Refuse`](ThrottleMode::Refuse), as kubelet.
    pub fn throttle(mut self, mode: ThrottleMode) -> Self {
        self.throttle = mode;
        self
    }

    /// Sets how long an image that failed is not pulled again: `initial` at first, then twice as long with
    /// each failure up to `max`, which is at most a day. Default: 10 s and 300 s, as kubelet's.
    pub fn back_off(mut self, initial: Duration, max: Duration) -> Self {
        self.back_off.initial = initial;
        self.back_off.max = max;
        self
    }

    /// Sets the part of itself, 0 to 1, by which a delay grows at most by chance, so that many nodes do not
    /// come back at once. No delay exceeds the maximum. 0 gives kubelet's exact series. Default: 0.1.
    pub fn jitter(mut self, part: f64) -> Self {
        self.back_off.jitter = part;
        self
    }

    /// Sets how many pulls run at a time, 1 to 4,096, and no more than the puller can run. Default: as
    /// many as the puller can run; 4 without a puller.
    pub fn max_parallel(mut self, pulls: usize) -> Self {
        self.max_parallel = Some(pulls);
        self
    }

    /// Sets how many of them go to one registry, 1 to all of them. Default: all of them.
    pub fn max_per_registry(mut self, pulls: usize) -> Self {
        self.max_per_registry = Some(pulls);
        self
    }

    /// Sets how long a wait counts as much as one level of priority, 1 ms to a day. A request can only be
    /// overtaken by later ones of a higher priority, and only by those that come within that time for each
    /// level between the two. Default: 10 s.
    pub fn aging(mut self, wait: Duration) -> Self {
        self.aging = wait;
        self
    }

    /// Sets the folder of the records, which hold for each pulled image the hashes of the credentials that it was
    /// pulled with. It is created if needed, and belongs to one manager at a time; a second one is refused.
    /// Default: nothing is recorded, and every
    /// request may use the images that are there.
    pub fn records(mut self, folder: impl Into<PathBuf>) -> Self {
        self.records = Some(folder.into());
        self
    }

    /// Sets which images only those requests may use that could have pulled them. Needs
    /// [`records`](Self::records).
    /// Default: [`NeverVerifyPreloadedImages`](VerificationPolicy::NeverVerifyPreloadedImages) where
    /// there are records.
    pub fn verification_policy(mut self, policy: VerificationPolicy) -> Self {
        self.verification = Some(policy);
        self
    }

    /// Builds the manager, and starts its first thread.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) names the setting that is out of range or contradicts another, or
    /// the folder of the records that cannot be used; [`ResourceExhausted`](ErrorKind::ResourceExhausted) if no
    /// thread could be started.
    pub fn build(self) -> Result<ImageManager, Error> {
        let limits = self.limits()?;
        self.check_throttle()?;
        self.check_delays()?;
        let verification = self.verification()?;
        let records = self.records.as_deref().map(open_records).transpose()?;
        if let Some(records) = &records {
            adopt_leftovers(&*self.service, records);
        }
        let now = self.clock.now();
        let bucket = (self.qps > 0.0).then(|| TokenBucket::full(self.qps, self.burst, now));
        let schedule = Schedule::new(limits, self.aging, now);
        let threads = ThreadGroup::new(workers::STACK_SIZE);
        let inner = Arc::new(ManagerInner {
            service: self.service,
            puller: self.puller,
            clock: self.clock,
            sink: self.sink,
            throttle: self.throttle,
            verification,
            records,
            in_flight: Mutex::new(InFlight::new(schedule, bucket, BackOff::new(self.back_off))),
            pull_ended: Condvar::new(),
            timer: Timer::new("manager-timer", threads.clone()),
            threads,
            workers: Workers::new(),
        });
        let own = Arc::clone(&inner);
        inner
            .threads
            .spawn("manager-clock".to_owned(), move || own.run_clock())
            .map_err(workers::no_thread)?;
        Ok(ImageManager(inner))
    }

    fn limits(&self) -> Result<PullLimits, Error> {
        let possible = self.puller.as_ref().map_or(Some(MAX_PARALLEL), |puller| puller.capacity());
        let possible = possible.unwrap_or(MAX_PARALLEL).min(MAX_PARALLEL);
        let default = if self.puller.is_some() { possible } else { DEFAULT_PARALLEL };
        let in_all = self.max_parallel.unwrap_or(default);
        within("max_parallel", in_all, possible)?;
        let per_registry = self.max_per_registry.unwrap_or(in_all);
        within("max_per_registry", per_registry, in_all)?;
        Ok(PullLimits { in_all, per_registry })
    }

    fn check_throttle(&self) -> Result<(), Error> {
        if !(0.0..=MAX_RATE).contains(&self.qps) {
            return Err(invalid(format!("qps is {}; it is 0 to {MAX_RATE}", self.qps)));
        }
        if self.qps > 0.0 && !(1..=MAX_BURST).contains(&self.burst) {
            return Err(invalid(format!("burst is {}; with a qps it is 1 to {MAX_BURST}", self.burst)));
        }
        Ok(())
    }

    fn check_delays(&self) -> Result<(), Error> {
        let DelaySeries { initial, max, jitter } = self.back_off;
        if initial.is_zero() || initial > max || max > LONGEST {
            let range = "the first is above 0, the longest no shorter and a day at most";
            return Err(invalid(format!("back_off is {initial:?} to {max:?}; {range}")));
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(invalid(format!("jitter is {jitter}; it is 0 to 1")));
        }
        if !(Duration::from_millis(1)..=LONGEST).contains(&self.aging) {
            return Err(invalid(format!("aging is {:?}; it is 1 ms to a day", self.aging)));
        }
        Ok(())
    }

    fn verification(&self) -> Result<VerificationRule, Error> {
        let policy = self.verification.clone().unwrap_or_default();
        let verification = VerificationRule::new(&policy)?;
        match (&self.verification, &self.records) {
            (_, Some(_)) | (None | Some(VerificationPolicy::NeverVerify), None) => Ok(verification),
            (Some(_), None) => Err(invalid("verification_policy needs records to verify by".to_owned())),
        }
    }
}

fn within(field: &str, value: usize, most: usize) -> Result<(), Error> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(format!("{field} is {value}; here it is 1 to {most}")))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn open_records(folder: &Path) -> Result<Records, Error> {
    Records::open(folder).map_err(|error| {
        let folder = folder.display();
        invalid(format!("records: the folder {folder} cannot be used: {error}")).with_source(error)
    })
}

/// Records the images of pulls that were cut short: such a pull may have brought its image, and no record says
/// with which credentials.
fn adopt_leftovers(service: &dyn ImageService, records: &Records) {
    for (image, begun) in records.left_over() {
        let found = service.image_ref(&PullContext::new(), &ImageSpec::from(image.as_str()));
        if let (Ok(Some(image_ref)), Ok(reference)) = (found, parse_reference(&image))
            && let Err(error) = records.adopt(begun, &image_ref, &reference)
        {
            log::warn!("{image}: a pull that was cut short could not be recorded: {error}");
        }
    }
}

impl fmt::Debug for ImageManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageManagerBuilder")
            .field("qps", &self.qps)
            .field("burst", &self.burst)
            .field("throttle", &self.throttle)
            .field("back_off", &self.back_off)
            .field("max_parallel", &self.max_parallel)
            .field("max_per_registry", &self.max_per_registry)
            .field("aging", &self.aging)
            .field("records", &self.records)
            .field("verification_policy", &self.verification)
            .finish_non_exhaustive()
    }
}

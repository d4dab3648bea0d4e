//! Decides whether to pull, when to try again, and shares one pull among many requests, as kubelet's image
//! manager does: the settings, events and metrics of [`ImageManager`](crate::ImageManager).

// `ensure` shows the way of one request. `in_flight` is the state that it goes through, and `workers` has the
// threads. The types of the paved path stand at the root of the crate.

mod backoff;
mod builder;
mod credential_hash;
mod ensure;
mod events;
pub(crate) mod image_manager;
mod in_flight;
mod inner;
mod jobs;
mod metrics;
mod presence;
mod records;
pub(crate) mod request;
mod responder;
mod schedule;
mod shared_pull;
#[cfg(test)]
mod tests;
mod throttle;
mod verification;
mod workers;

pub use builder::ImageManagerBuilder;
pub use events::{Event, EventReason, EventSink};
pub use metrics::{Histogram, ManagerMetrics, RequestLabels};
pub use request::{ImageSource, PREPULL_PRIORITY};
pub use throttle::ThrottleMode;
pub use verification::VerificationPolicy;

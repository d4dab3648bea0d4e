//! Whether to pull, when to try again, and one pull for many requests: what kubelet's image manager does.
//!
//! [`ensure`] shows the way of one request. [`in_flight`] is the state that it goes through, and [`workers`]
//! has the threads.

mod backoff;
mod builder;
mod credential_hash;
mod ensure;
mod events;
mod image_manager;
mod in_flight;
mod inner;
mod jobs;
mod metrics;
mod presence;
mod records;
mod request;
mod responder;
mod schedule;
mod shared_pull;
#[cfg(test)]
mod tests;
mod token_bucket;
mod verification;
mod workers;

pub use builder::ImageManagerBuilder;
pub use events::{Event, EventReason, EventSink};
pub use image_manager::ImageManager;
pub use metrics::{Histogram, ManagerMetrics, RequestLabels};
pub use request::{
    EnsureRequest, EnsureResult, EnsuredImage, ImageSource, PREPULL_PRIORITY, PrepullRequest, PrepullSummary,
    PullPolicy,
};
pub use token_bucket::ThrottleMode;
pub use verification::VerificationPolicy;

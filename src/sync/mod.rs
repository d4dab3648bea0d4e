//! Concurrency building blocks. Each mechanism of the crate stands here once.
//!
//! The state of each mechanism is a plain value behind one short lock, apart from the channels and
//! condition variables that carry its wake-ups. No lock is held while a channel is sent to, a thread is
//! started or foreign code runs. The tests run each state under the model checker
//! [shuttle](https://docs.rs/shuttle).

mod agenda;
mod blocking_pool;
mod delivery;
mod fair_share;
mod job_queue;
mod panics;
mod rate_limit;
mod semaphore;
mod single_flight;
mod thread_group;
mod timer;
mod token_bucket;
mod until;
mod watched;

pub(crate) use blocking_pool::{BlockingPool, PoolUser};
pub(crate) use delivery::{Answer, deliver, offer_or_drop};
pub(crate) use fair_share::{FairShare, Share};
pub(crate) use panics::panic_text;
pub(crate) use rate_limit::{Charge, RateLimit};
pub(crate) use semaphore::{Permit, Semaphore};
pub(crate) use single_flight::{Follower, Joined, Leader, Outcome, SingleFlight};
pub(crate) use thread_group::{LISTENING_TIME, ThreadGroup};
pub(crate) use timer::{Alarm, Timer};
pub(crate) use token_bucket::TokenBucket;
pub use until::{until, until_by};
pub(crate) use watched::Watched;

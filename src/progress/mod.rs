//! Progress events of a pull, and their sum.

mod event;
mod rate;
mod state;

pub use event::{Progress, ProgressEvent};
pub use state::ProgressState;

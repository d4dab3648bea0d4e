//! Runs programs that supply credentials, with a time limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process::{Invocation, Printed, failed};
use super::shared::{self, Question};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::sync::{Outcome, PoolUser};

/// The settings of credential helpers.
#[derive(Debug)]
pub(crate) struct Helpers {
    /// The folder of the helpers; `None` for `$PATH`.
    pub(crate) directory: Option<PathBuf>,
    /// The time limit of one run, including its wait for a thread.
    pub(crate) timeout: Duration,
    _threads: PoolUser,
}

impl Default for Helpers {
    fn default() -> Self {
        Helpers { directory: None, timeout: Duration::from_secs(30), _threads: shared::use_threads() }
    }
}

impl Helpers {
    /// Runs a program, and returns its output. Callers that ask the same at the same time share one run.
    ///
    /// When the context or the time limit of the last caller ends, the program is killed with all that it
    /// started, and the answer does not wait for that.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` when the context ended. Any other is the program's own failure: `InvalidConfig`,
    /// `Timeout`, `ResourceExhausted`. None holds the output.
    pub(super) fn run(
        &self,
        cx: &PullContext,
        name: &str,
        invocation: Invocation,
        timeout: Duration,
    ) -> Result<Arc<Printed>, Error> {
        cx.check()?;
        let question = Question { name: name.to_owned(), invocation };
        let asker =
            shared::ask(&question).map_err(|e| failed(ErrorKind::ResourceExhausted, name, &e.to_string()))?;
        match limited(cx, timeout).wait_for(asker.outcome()) {
            Ok(Some(Outcome::Done(answer))) => answer,
            Ok(_) => Err(failed(ErrorKind::Panicked, name, "the thread that ran it panicked")),
            Err(_) => {
                cx.check()?;
                Err(failed(ErrorKind::Timeout, name, &format!("no answer within {timeout:?}")))
            }
        }
    }
}

/// Returns the context with the time limit as a further deadline.
fn limited(cx: &PullContext, timeout: Duration) -> PullContext {
    let limit = Instant::now().checked_add(timeout);
    match [cx.deadline(), limit].into_iter().flatten().min() {
        Some(deadline) => cx.clone().with_deadline(deadline),
        None => cx.clone(),
    }
}

/// Refuses a name that could lead out of the folder of the programs.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.chars().all(is_safe) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("{name:?} is not a valid name of a credential helper")))
}

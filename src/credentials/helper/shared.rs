//! Shares one run of a program among all callers that ask it the same at the same time.
//!
//! A hundred pulls from one registry need one answer, and four threads run programs. The run leads a single
//! flight on a thread of the pool; every caller follows it. When the last follower leaves, the run is abandoned
//! and the program is killed.

use std::io;
use std::sync::{Arc, LazyLock};

use super::process::{Control, Invocation, Printed, ProgramRun};
use crate::error::Error;
use crate::sync::{BlockingPool, Follower, Joined, Leader, PoolUser, SingleFlight};

static WORKERS: BlockingPool = BlockingPool::new("helper", 4);
static RUNS: LazyLock<SingleFlight<Question, RunOutcome>> = LazyLock::new(SingleFlight::new);

/// Keeps the threads that run programs, until dropped.
pub(super) fn use_threads() -> PoolUser {
    WORKERS.enter()
}

/// Identifies a run: the program's name for messages, and its invocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) invocation: Invocation,
}

/// The output of a program, if it ran.
pub(super) type RunOutcome = Result<Arc<Printed>, Error>;

/// A caller that waits for the outcome. It gets the lead if the run ended without one.
pub(super) type Asker = Follower<Question, RunOutcome>;

/// Joins the run that is in progress for `question`, or starts one.
///
/// # Errors
/// The system's error if no thread or pipe is available.
pub(super) fn ask(question: &Question) -> io::Result<Asker> {
    match RUNS.join(question) {
        Joined::Leader(leader) => start(leader, question.clone()),
        Joined::Follower(follower) => Ok(follower),
    }
}

fn start(leader: Leader<Question, RunOutcome>, question: Question) -> io::Result<Asker> {
    let (control, stop) = Control::new()?;
    let asker = leader.follow().ok_or_else(|| io::Error::other("the run was abandoned"))?;
    let abandoned = control.clone();
    leader.when_given_up(move || abandoned.abandon());
    let run = ProgramRun { invocation: question.invocation, control, stop };
    WORKERS.run(move || {
        if !run.control.is_abandoned() {
            leader.finish(run.run(&question.name).map(Arc::new));
        }
    })?;
    Ok(asker)
}

/// Returns when each thread has finished its current run.
#[cfg(test)]
pub(super) fn wait_for_all_threads() {
    let all = std::sync::Arc::new(std::sync::Barrier::new(5));
    for _ in 0..4 {
        let all = all.clone();
        let job = move || {
            all.wait();
        };
        WORKERS.run(job).unwrap();
    }
    all.wait();
}

//! One run of a helper for all that ask it the same thing at the same time.
//!
//! A hundred pulls from one registry want one answer, and there are four threads. The run leads a single
//! flight, on a thread of the pool; every asker follows it. When the last one leaves, the run is given up,
//! and the helper is killed.

use std::io;
use std::sync::{Arc, LazyLock};

use super::printed_by;
use super::process::{Control, Invocation, Printed, Run};
use crate::error::Error;
use crate::sync::{BlockingPool, Follower, Joined, Leader, PoolUser, SingleFlight};

static WORKERS: BlockingPool = BlockingPool::new("helper", 4);
static RUNS: LazyLock<SingleFlight<Question, Answer>> = LazyLock::new(SingleFlight::new);

/// Keeps the threads that run helpers, until dropped.
pub(super) fn use_threads() -> PoolUser {
    WORKERS.enter()
}

/// What is asked: the helper's name for messages, and its invocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) invocation: Invocation,
}

/// What a helper printed, if it ran.
pub(super) type Answer = Result<Arc<Printed>, Error>;

/// One that waits for the answer; given the lead if the run ended without one.
pub(super) type Asker = Follower<Question, Answer>;

/// Joins the run that is under way for `question`, or starts one.
///
/// # Errors
/// When there is no thread or pipe to be had.
pub(super) fn ask(question: &Question) -> io::Result<Asker> {
    match RUNS.join(question) {
        Joined::Leader(leader) => start(leader, question.clone()),
        Joined::Follower(follower) => Ok(follower),
    }
}

fn start(leader: Leader<Question, Answer>, question: Question) -> io::Result<Asker> {
    let (control, stop) = Control::new()?;
    let asker = leader.follow().ok_or_else(|| io::Error::other("the run was given up"))?;
    let given_up = control.clone();
    leader.when_given_up(move || given_up.abandon());
    let run = Run { invocation: question.invocation, control, stop };
    WORKERS.run(move || {
        if !run.control.is_abandoned() {
            leader.finish(printed_by(&run, &question.name).map(Arc::new));
        }
    })?;
    Ok(asker)
}

/// Returns when each of the threads has done what it had in hand.
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

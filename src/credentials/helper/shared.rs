//! One run of a helper for all who ask it the same thing at the same time.
//!
//! A hundred pulls from one registry want one answer, and there are four threads.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::process::{Control, Run};
use super::{Answer, answer_of};
use crate::sync::BlockingPool;

static WORKERS: BlockingPool = BlockingPool::new("helper", 4);
static RUNS: Mutex<Runs> = Mutex::new(Runs { next_id: 0, by_question: BTreeMap::new() });

/// What is asked: the helper's name, its program, and the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) server: String,
}

struct Runs {
    next_id: u64,
    by_question: BTreeMap<Question, Asked>,
}

/// A run that somebody waits for.
struct Asked {
    id: u64,
    control: Control,
    askers: BTreeMap<u64, Sender<Answer>>,
}

/// One who waits. When the last one leaves, the helper is killed.
pub(super) struct Asker {
    question: Question,
    id: u64,
    answer: Receiver<Answer>,
}

impl Asker {
    /// Joins the run that is under way for `question`, or starts one.
    ///
    /// # Errors
    /// When there is no thread or pipe to be had.
    pub(super) fn new(question: Question) -> io::Result<Self> {
        let mut runs = RUNS.lock();
        let id = runs.next_id;
        runs.next_id += 1;
        if !runs.by_question.contains_key(&question) {
            let control = start(question.clone(), id)?;
            runs.by_question.insert(question.clone(), Asked { id, control, askers: BTreeMap::new() });
        }
        let (sender, answer) = bounded(1);
        if let Some(asked) = runs.by_question.get_mut(&question) {
            asked.askers.insert(id, sender);
        }
        Ok(Asker { question, id, answer })
    }

    /// The answer; disconnected without one if the run panicked.
    pub(super) fn answer(&self) -> &Receiver<Answer> {
        &self.answer
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut runs = RUNS.lock();
        // A run that ended meanwhile is gone, and another's askers do not have this id.
        let Some(asked) = runs.by_question.get_mut(&self.question) else {
            return;
        };
        if asked.askers.remove(&self.id).is_some() && asked.askers.is_empty() {
            asked.control.abandon();
            runs.by_question.remove(&self.question);
        }
    }
}

/// Called with the lock held: the run cannot end before its first asker is entered.
fn start(question: Question, id: u64) -> io::Result<Control> {
    let (control, stop) = Control::new()?;
    let run = Run {
        program: question.program.clone(),
        server: question.server.clone(),
        control: control.clone(),
        stop,
    };
    // Made on the thread: a job that is dropped undone must not ask for the lock.
    WORKERS.run(move || Underway { question, id }.finish(&run))?;
    Ok(control)
}

/// Takes the run out of the list when it ends, however it does.
struct Underway {
    question: Question,
    id: u64,
}

impl Underway {
    fn finish(self, run: &Run) {
        if run.control.is_abandoned() {
            return;
        }
        let answer = answer_of(run, &self.question.name);
        for asker in self.leave() {
            // Each has room for one; one that is gone needs none.
            let _ = asker.try_send(answer.clone());
        }
    }

    fn leave(&self) -> Vec<Sender<Answer>> {
        let mut runs = RUNS.lock();
        match runs.by_question.entry(self.question.clone()) {
            Entry::Occupied(asked) if asked.get().id == self.id => {
                asked.remove().askers.into_values().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.leave();
    }
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

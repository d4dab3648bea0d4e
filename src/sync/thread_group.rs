//! Named threads with one owner, which joins them within a bound.
//!
//! # States
//!
//! [`Members`] is the state of each thread of the group:
//!
//! - *starting*: announced, so that a join waits for it; its handle is not stored yet;
//! - *running*: its handle is stored;
//! - *ended*: it has done its work, and waits to be joined;
//! - *left behind*: a join gave up on it. It is still counted as alive; no later join waits for it.
//!
//! A thread passes from starting to ended without running if it is faster than the thread that started
//! it: the handle that comes late is then stored as that of an ended thread.
//!
//! No wake-up is lost: each end changes the state under the lock and then wakes every join, and a join
//! looks at the state under the same lock before it sleeps. No deadlock: a thread of the group that joins
//! it waits neither for itself nor for another that joins it, too; no thread of the group waits for one
//! outside; and handles are joined outside the lock, only of threads that have ended.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::panics::panic_text;

/// How long work that was cancelled may take to end before its thread is left behind.
pub(crate) const LISTENING_TIME: Duration = Duration::from_millis(900);

/// Handles of ended threads that are kept before they are looked through.
const KEPT_HANDLES: usize = 8;

/// Threads that one owner starts and joins. A clone is the same group.
#[derive(Clone)]
pub(crate) struct ThreadGroup {
    shared: Arc<GroupShared>,
    /// The stack of each thread, bytes.
    stack_size: usize,
}

struct GroupShared {
    members: Mutex<Members<JoinHandle<()>>>,
    /// A thread has ended, or waits for the others.
    changed: Condvar,
}

impl ThreadGroup {
    pub(crate) fn new(stack_size: usize) -> Self {
        let shared = GroupShared { members: Mutex::new(Members::default()), changed: Condvar::new() };
        ThreadGroup { shared: Arc::new(shared), stack_size }
    }

    /// Starts a thread. A panic of `body` ends that thread only, and is logged.
    ///
    /// # Errors
    /// Whatever the operating system refused the thread with; `body` is dropped.
    pub(crate) fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let number = self.shared.members.lock().announce(name.clone());
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().name(name).stack_size(self.stack_size).spawn(move || {
            shared.members.lock().begin(number, thread::current().id());
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                let thread = thread::current();
                let name = thread.name().unwrap_or("a thread");
                log::error!("{name} ended by a panic: {}", panic_text(&*panic));
            }
            shared.members.lock().end(number);
            shared.changed.notify_all();
        });
        match started {
            Ok(handle) => {
                let mut members = self.shared.members.lock();
                members.store(number, handle);
                if members.ended.len() > KEPT_HANDLES + 2 * members.alive.len() {
                    members.ended.retain(|handle| !handle.is_finished());
                }
                Ok(())
            }
            Err(error) => {
                self.shared.members.lock().end(number);
                self.shared.changed.notify_all();
                Err(error)
            }
        }
    }

    /// Returns how many threads are alive, those left behind included.
    pub(crate) fn alive(&self) -> usize {
        self.shared.members.lock().alive.len()
    }

    /// Waits until every thread has ended, the caller's own left out; `None` is without a bound. Returns
    /// whether they have.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let me = thread::current().id();
        let mut members = self.shared.members.lock();
        let is_member = members.set_joining(me, true);
        self.shared.changed.notify_all();
        let have_ended = loop {
            if members.have_ended(is_member) {
                break true;
            }
            match deadline {
                Some(deadline) => {
                    if self.shared.changed.wait_until(&mut members, deadline).timed_out() {
                        break members.have_ended(is_member);
                    }
                }
                None => self.shared.changed.wait(&mut members),
            }
        };
        members.set_joining(me, false);
        have_ended
    }

    /// Waits for the threads as [`wait_until`](Self::wait_until) does, for at most `bound`, and joins
    /// them. A thread that has not ended then is left behind, and named in the log.
    pub(crate) fn join(&self, bound: Duration) {
        self.wait_until(Instant::now().checked_add(bound));
        let me = thread::current().id();
        let (ended, left_behind) = {
            let mut members = self.shared.members.lock();
            (std::mem::take(&mut members.ended), members.leave_behind(me))
        };
        for handle in ended {
            // The panic of a thread was caught on it.
            let _ = handle.join();
        }
        for name in left_behind {
            log::warn!("{name}: the work on it does not listen to its cancel; the thread is left behind");
        }
    }
}

impl fmt::Debug for ThreadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadGroup").field("alive", &self.alive()).finish_non_exhaustive()
    }
}

/// The state. `H` is the handle that joins a thread.
struct Members<H> {
    alive: BTreeMap<u64, Member<H>>,
    ended: Vec<H>,
    next_number: u64,
}

struct Member<H> {
    name: String,
    /// `None` until the thread runs.
    id: Option<ThreadId>,
    /// `None` until it is stored.
    handle: Option<H>,
    /// It waits for the others itself.
    is_joining: bool,
    is_left_behind: bool,
}

impl<H> Default for Members<H> {
    fn default() -> Self {
        Members { alive: BTreeMap::new(), ended: Vec::new(), next_number: 0 }
    }
}

impl<H> Members<H> {
    /// Counts a thread that is about to be started; returns its number.
    fn announce(&mut self, name: String) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let member = Member { name, id: None, handle: None, is_joining: false, is_left_behind: false };
        self.alive.insert(number, member);
        number
    }

    /// The thread runs.
    fn begin(&mut self, number: u64, id: ThreadId) {
        if let Some(member) = self.alive.get_mut(&number) {
            member.id = Some(id);
        }
    }

    /// Stores the handle that joins the thread.
    fn store(&mut self, number: u64, handle: H) {
        match self.alive.get_mut(&number) {
            Some(member) => member.handle = Some(handle),
            None => self.ended.push(handle),
        }
    }

    /// The thread has done its work, or could not be started.
    fn end(&mut self, number: u64) {
        let ended = self.alive.remove(&number).and_then(|member| member.handle);
        self.ended.extend(ended);
    }

    /// Notes that this thread, should it be a member, waits for the others; returns whether it is one.
    fn set_joining(&mut self, id: ThreadId, is_joining: bool) -> bool {
        let me = self.alive.values_mut().find(|member| member.id == Some(id));
        me.map(|member| member.is_joining = is_joining).is_some()
    }

    /// Returns whether a join has nothing left to wait for. A member's join waits for no member that
    /// itself joins, which includes the caller.
    fn have_ended(&self, is_member: bool) -> bool {
        self.alive.values().all(|member| member.is_left_behind || (is_member && member.is_joining))
    }

    /// Gives up on the threads that a join has waited for in vain; returns their names. Their handles are
    /// dropped.
    fn leave_behind(&mut self, me: ThreadId) -> Vec<String> {
        let is_member = self.alive.values().any(|member| member.id == Some(me));
        let mut names = Vec::new();
        for member in self.alive.values_mut() {
            let is_excused = is_member && (member.is_joining || member.id == Some(me));
            if !is_excused && !member.is_left_behind {
                member.is_left_behind = true;
                member.handle = None;
                names.push(member.name.clone());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);
    const STACK_SIZE: usize = 64 * 1024;

    #[test]
    fn threads_are_named_and_joined_a_panic_ends_only_its_own() {
        let group = ThreadGroup::new(STACK_SIZE);
        let (sender, names) = unbounded();
        for n in 0..20 {
            let sender = sender.clone();
            let body = move || {
                sender.send(thread::current().name().map(str::to_owned)).unwrap();
                assert_ne!(n % 5, 0, "a panic that is meant");
            };
            group.spawn(format!("member-{n}"), body).unwrap();
        }
        group.join(SOON);
        assert_eq!(group.alive(), 0);
        drop(sender);
        let mut names: Vec<String> = names.iter().flatten().collect();
        names.sort();
        let mut expected: Vec<String> = (0..20).map(|n| format!("member-{n}")).collect();
        expected.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_thread_that_does_not_end_is_left_behind_and_no_later_join_waits_for_it() {
        let group = ThreadGroup::new(STACK_SIZE);
        let (end, ends) = bounded::<()>(0);
        group.spawn("deaf".to_owned(), move || assert!(ends.recv().is_err())).unwrap();
        group.join(Duration::from_millis(5));
        assert_eq!(group.alive(), 1, "it is still counted");
        group.join(SOON * 100);
        drop(end);
        while group.alive() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn threads_of_the_group_may_join_it_and_wait_not_for_each_other() {
        let group = ThreadGroup::new(STACK_SIZE);
        for n in 0..3 {
            let own = group.clone();
            group.spawn(format!("joiner-{n}"), move || own.join(SOON * 100)).unwrap();
        }
        assert!(group.wait_until(Instant::now().checked_add(SOON)));
        group.join(SOON);
        assert_eq!(group.alive(), 0);
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_not_waited_for() {
        let group = ThreadGroup::new(1 << 50);
        assert!(group.spawn("huge".to_owned(), || {}).is_err());
        group.join(SOON * 100);
        assert_eq!(group.alive(), 0);
    }

    #[test]
    fn a_group_that_starts_many_threads_keeps_few_handles() {
        let group = ThreadGroup::new(STACK_SIZE);
        for n in 0..500 {
            group.spawn(format!("short-{n}"), || {}).unwrap();
            group.wait_until(None);
        }
        assert!(group.shared.members.lock().ended.len() < 50);
        group.join(SOON);
    }

    /// Threads that end before or after their handle is stored, and one that joins from within: the
    /// join always comes back, and finds every handle.
    #[test]
    fn model_no_interleaving_loses_a_thread_or_a_wake_up() {
        use shuttle::sync::{Arc, Condvar, Mutex};
        use shuttle::thread;

        type State = (Mutex<Members<u64>>, Condvar);

        fn wait(state: &State, me: ThreadId) {
            let mut members = state.0.lock().unwrap();
            let is_member = members.set_joining(me, true);
            state.1.notify_all();
            while !members.have_ended(is_member) {
                members = state.1.wait(members).unwrap();
            }
            members.set_joining(me, false);
        }

        // Shuttle's threads run on one of the system's: each needs an id of its own.
        let ids: Vec<ThreadId> =
            (0..4).map(|_| std::thread::spawn(|| std::thread::current().id()).join().unwrap()).collect();
        let model = move || {
            let state: Arc<State> = Arc::new((Mutex::new(Members::default()), Condvar::new()));
            let mut threads = Vec::new();
            for (n, id) in ids.iter().copied().enumerate().take(3) {
                let number = state.0.lock().unwrap().announce(String::new());
                let own = Arc::clone(&state);
                threads.push(thread::spawn(move || {
                    own.0.lock().unwrap().begin(number, id);
                    if n > 0 {
                        wait(&own, id);
                    }
                    own.0.lock().unwrap().end(number);
                    own.1.notify_all();
                }));
                state.0.lock().unwrap().store(number, number);
            }
            wait(&state, ids[3]);
            assert!(state.0.lock().unwrap().alive.is_empty());
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let mut members = state.0.lock().unwrap();
            members.ended.sort_unstable();
            assert_eq!((members.alive.len(), &members.ended[..]), (0, &[0, 1, 2][..]));
        };
        shuttle::check_random(model, 2_000);
    }
}

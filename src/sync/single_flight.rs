//! Single flight: for each key one leader works; those that ask for the same key meanwhile follow.
//!
//! # States
//!
//! [`Calls`] is the state. A key is either free or led; a key that is led has any number of followers.
//!
//! | step | free | led |
//! |---|---|---|
//! | join | becomes led; the caller leads | the caller follows |
//! | finish | | becomes free; each follower gets a clone of the value |
//! | the leader is dropped | | the first follower leads; without followers becomes free |
//! | a follower is dropped | | leaves; if it was the last one and the leader asked to be told, becomes free, and the leader's hook runs |
//!
//! So a follower gets the leader's value, or takes over from a leader that gave up or panicked. A leader
//! whose call was given up by its followers holds the number of a call that is gone: its steps change
//! nothing, also if the key is led again.
//!
//! No wake-up is lost: a follower has a channel of its own with room for one message, and gets exactly
//! one, for the step that sends it takes the follower out of the state. The lead is itself the message:
//! if the follower gives up at that moment, the lead is dropped with the channel, and passes to the next.
//!
//! Nothing deadlocks here: no value is cloned, no channel is sent to, no hook runs and no lead is dropped
//! under the lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crossbeam_channel::{Receiver, SendError, Sender, bounded};
use parking_lot::Mutex;

/// The calls by key. A clone is the same set.
pub(crate) struct SingleFlight<K: Hash + Eq + Clone, V>(Arc<Mutex<Keys<K, V>>>);

type Keys<K, V> = Calls<K, Sender<Outcome<K, V>>>;

/// The part of a caller in a call.
pub(crate) enum Joined<K: Hash + Eq + Clone, V> {
    /// There was no call: the caller does the work.
    Leader(Leader<K, V>),
    /// Another caller does the work.
    Follower(Follower<K, V>),
}

/// The result that a follower gets.
pub(crate) enum Outcome<K: Hash + Eq + Clone, V> {
    /// The leader's value.
    Done(V),
    /// The leader gave up: the follower does the work instead.
    Lead(Leader<K, V>),
}

/// The duty to work for a key. Dropping it without [`finish`](Self::finish) passes it on.
pub(crate) struct Leader<K: Hash + Eq + Clone, V> {
    /// `None` if the duty was handed on.
    calls: Option<SingleFlight<K, V>>,
    key: K,
    number: u64,
}

/// Waits for a leader, until dropped.
pub(crate) struct Follower<K: Hash + Eq + Clone, V> {
    calls: SingleFlight<K, V>,
    key: K,
    call: u64,
    number: u64,
    outcome: Receiver<Outcome<K, V>>,
}

impl<K: Hash + Eq + Clone, V> SingleFlight<K, V> {
    pub(crate) fn new() -> Self {
        SingleFlight(Arc::default())
    }

    /// Joins the call for `key`, or begins one.
    pub(crate) fn join(&self, key: &K) -> Joined<K, V> {
        let (sender, outcome) = bounded(1);
        let place = self.0.lock().join(key, sender);
        match place {
            CallRole::Leader { call } => {
                Joined::Leader(Leader { calls: Some(self.clone()), key: key.clone(), number: call })
            }
            CallRole::Follower { call, number } => {
                Joined::Follower(Follower { calls: self.clone(), key: key.clone(), call, number, outcome })
            }
        }
    }

    /// Returns whether a leader works for `key`.
    pub(crate) fn is_led(&self, key: &K) -> bool {
        self.0.lock().by_key.contains_key(key)
    }
}

impl<K: Hash + Eq + Clone, V> Leader<K, V> {
    /// Gives `value` to every follower, and ends the call.
    pub(crate) fn finish(mut self, value: V)
    where
        V: Clone,
    {
        let Some(calls) = self.calls.take() else { return };
        let (followers, hook) = calls.0.lock().finish(&self.key, self.number);
        drop(hook);
        for follower in followers {
            // A follower that is gone is ignored.
            let _ = follower.send(Outcome::Done(value.clone()));
        }
    }

    /// Follows the own call: for a caller that has its work done elsewhere, by the leader's new owner.
    /// `None` if the call was given up by its followers.
    pub(crate) fn follow(&self) -> Option<Follower<K, V>> {
        let calls = self.calls.as_ref()?;
        let (sender, outcome) = bounded(1);
        let number = calls.0.lock().follow(&self.key, self.number, sender)?;
        let (calls, key) = (calls.clone(), self.key.clone());
        Some(Follower { calls, key, call: self.number, number, outcome })
    }

    /// Runs `hook` when the last follower leaves before the call ends, on that follower's thread. The
    /// call is over then: the next caller begins another.
    pub(crate) fn when_given_up(&self, hook: impl FnOnce() + Send + 'static) {
        let Some(calls) = &self.calls else { return };
        let replaced = calls.0.lock().set_hook(&self.key, self.number, Box::new(hook));
        drop(replaced);
    }
}

impl<K: Hash + Eq + Clone, V> Follower<K, V> {
    /// Returns the channel that carries the outcome, as its only message.
    pub(crate) fn outcome(&self) -> &Receiver<Outcome<K, V>> {
        &self.outcome
    }
}

impl<K: Hash + Eq + Clone, V> Drop for Leader<K, V> {
    fn drop(&mut self) {
        let Some(calls) = self.calls.take() else { return };
        // A loop, not a recursion: any number of followers may have given up.
        loop {
            let (next, hook) = calls.0.lock().hand_over(&self.key, self.number);
            drop(hook);
            let Some(follower) = next else { return };
            let lead = Leader { calls: Some(calls.clone()), key: self.key.clone(), number: self.number };
            match follower.send(Outcome::Lead(lead)) {
                Ok(()) => return,
                Err(SendError(Outcome::Lead(mut unsent))) => unsent.calls = None,
                Err(SendError(Outcome::Done(_))) => return,
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V> Drop for Follower<K, V> {
    fn drop(&mut self) {
        let (sender, hook) = self.calls.0.lock().leave(&self.key, self.call, self.number);
        drop(sender);
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl<K: Hash + Eq + Clone, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        SingleFlight(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq + Clone, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("led", &self.0.lock().by_key.len()).finish()
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, V> fmt::Debug for Leader<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("key", &self.key).finish_non_exhaustive()
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// The state. `W` is the channel to a follower.
struct Calls<K, W> {
    by_key: HashMap<K, Call<W>>,
    next_number: u64,
}

struct Call<W> {
    number: u64,
    followers: BTreeMap<u64, W>,
    when_given_up: Option<Hook>,
}

/// How a caller joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallRole {
    Leader { call: u64 },
    Follower { call: u64, number: u64 },
}

impl<K, W> Default for Calls<K, W> {
    fn default() -> Self {
        Calls { by_key: HashMap::new(), next_number: 0 }
    }
}

impl<K: Hash + Eq + Clone, W> Calls<K, W> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Returns the call of that number, unless it is gone.
    fn get(&mut self, key: &K, call: u64) -> Option<&mut Call<W>> {
        self.by_key.get_mut(key).filter(|led| led.number == call)
    }

    /// Follows the call for `key`, or leads a new one.
    fn join(&mut self, key: &K, waiter: W) -> CallRole {
        let number = self.number();
        if let Some(led) = self.by_key.get_mut(key) {
            led.followers.insert(number, waiter);
            return CallRole::Follower { call: led.number, number };
        }
        let call = Call { number, followers: BTreeMap::new(), when_given_up: None };
        self.by_key.insert(key.clone(), call);
        CallRole::Leader { call: number }
    }

    /// Follows that call; returns the follower's number, or `None` if the call is gone.
    fn follow(&mut self, key: &K, call: u64, waiter: W) -> Option<u64> {
        let number = self.number();
        self.get(key, call)?.followers.insert(number, waiter);
        Some(number)
    }

    /// Returns the hook that this one replaces, or this one if the call is gone.
    fn set_hook(&mut self, key: &K, call: u64, hook: Hook) -> Option<Hook> {
        match self.get(key, call) {
            Some(led) => led.when_given_up.replace(hook),
            None => Some(hook),
        }
    }

    /// Ends the call; returns its followers, and its hook.
    fn finish(&mut self, key: &K, call: u64) -> (Vec<W>, Option<Hook>) {
        if self.get(key, call).is_none() {
            return (Vec::new(), None);
        }
        let ended = self.by_key.remove(key);
        ended.map_or((Vec::new(), None), |led| (led.followers.into_values().collect(), led.when_given_up))
    }

    /// The leader gives up. Returns the follower that leads from now on, and the hook, which was the
    /// old leader's. Without followers the call ends.
    fn hand_over(&mut self, key: &K, call: u64) -> (Option<W>, Option<Hook>) {
        let Some(led) = self.get(key, call) else { return (None, None) };
        let hook = led.when_given_up.take();
        let next = led.followers.pop_first();
        if next.is_none() {
            self.by_key.remove(key);
        }
        (next.map(|(_, waiter)| waiter), hook)
    }

    /// A follower gives up. Returns what it was told by, unless it was told before, and the hook if that
    /// ends the call.
    fn leave(&mut self, key: &K, call: u64, follower: u64) -> (Option<W>, Option<Hook>) {
        let Some(led) = self.get(key, call) else { return (None, None) };
        let waiter = led.followers.remove(&follower);
        if waiter.is_none() || !led.followers.is_empty() {
            return (waiter, None);
        }
        let hook = led.when_given_up.take();
        if hook.is_some() {
            self.by_key.remove(key);
        }
        (waiter, hook)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn leader<V>(calls: &SingleFlight<&'static str, V>) -> Leader<&'static str, V> {
        match calls.join(&"key") {
            Joined::Leader(leader) => leader,
            Joined::Follower(_) => panic!("somebody else leads"),
        }
    }

    fn follower<V>(calls: &SingleFlight<&'static str, V>) -> Follower<&'static str, V> {
        match calls.join(&"key") {
            Joined::Leader(_) => panic!("nobody leads"),
            Joined::Follower(follower) => follower,
        }
    }

    #[test]
    fn every_follower_gets_the_leader_s_value_and_the_next_caller_leads() {
        let calls = SingleFlight::new();
        let first = leader(&calls);
        let followers = [follower(&calls), follower(&calls)];
        first.finish(7);
        for follower in followers {
            assert!(matches!(follower.outcome().try_recv(), Ok(Outcome::Done(7))));
        }
        assert!(!calls.is_led(&"key"));
        leader(&calls);
    }

    #[test]
    fn a_leader_that_gives_up_is_followed_by_one_of_its_followers() {
        let calls = SingleFlight::<_, ()>::new();
        let first = leader(&calls);
        let [gone, second, third] = [follower(&calls), follower(&calls), follower(&calls)];
        drop(gone);
        drop(first);
        let Ok(Outcome::Lead(lead)) = second.outcome().try_recv() else { panic!("it leads now") };
        assert!(third.outcome().is_empty(), "one leads at a time");
        drop(lead);
        // Left in its channel, and dropped with it.
        drop(third);
        assert!(!calls.is_led(&"key"));
    }

    #[test]
    fn a_hundred_thousand_followers_may_give_up_at_once() {
        let calls = SingleFlight::<_, ()>::new();
        let first = leader(&calls);
        let followers: Vec<_> = (0..100_000).map(|_| follower(&calls)).collect();
        drop(first);
        drop(followers);
        assert!(!calls.is_led(&"key"));
    }

    #[test]
    fn work_that_nobody_waits_for_is_given_up_and_its_end_disturbs_no_later_one() {
        let calls = SingleFlight::new();
        let given_up = Arc::new(AtomicUsize::new(0));
        let first = leader(&calls);
        let count = Arc::clone(&given_up);
        first.when_given_up(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (own, other) = (first.follow().unwrap(), follower(&calls));
        drop(own);
        assert_eq!(given_up.load(Ordering::SeqCst), 0, "one still waits");
        drop(other);
        assert_eq!(given_up.load(Ordering::SeqCst), 1);

        let second = leader(&calls);
        let waits = follower(&calls);
        assert!(first.follow().is_none());
        first.finish(1);
        assert!(waits.outcome().is_empty(), "the first has nothing to tell the second's followers");
        second.finish(2);
        assert!(matches!(waits.outcome().try_recv(), Ok(Outcome::Done(2))));
        assert_eq!(given_up.load(Ordering::SeqCst), 1);
    }

    /// Callers of one key, of which some lead and give up, some follow and leave: one leads at a time,
    /// each that stays is told, and the key is free in the end.
    #[test]
    fn model_no_interleaving_loses_a_follower_or_doubles_a_leader() {
        use shuttle::sync::atomic::{AtomicBool, Ordering};
        use shuttle::sync::{Arc, Mutex, mpsc};
        use shuttle::thread;

        #[derive(Debug)]
        enum Told {
            Done,
            Lead,
        }
        type State = Mutex<Calls<(), mpsc::Sender<Told>>>;

        fn lead(state: &State, call: u64, is_led: &AtomicBool, gives_up: bool) {
            assert!(!is_led.swap(true, Ordering::SeqCst), "one leads at a time");
            thread::yield_now();
            assert!(is_led.swap(false, Ordering::SeqCst));
            if gives_up {
                // As when a lead is dropped: a follower that is gone passes it on.
                while let (Some(next), _) = {
                    let mut s = state.lock().unwrap();
                    s.hand_over(&(), call)
                } {
                    if next.send(Told::Lead).is_ok() {
                        return;
                    }
                }
            } else {
                let (followers, _) = state.lock().unwrap().finish(&(), call);
                followers.into_iter().for_each(|follower| drop(follower.send(Told::Done)));
            }
        }

        let model = || {
            let state: Arc<State> = Arc::default();
            let is_led = Arc::new(AtomicBool::new(false));
            let threads = (0..4).map(|n| {
                let (state, is_led) = (Arc::clone(&state), Arc::clone(&is_led));
                thread::spawn(move || {
                    let (sender, outcome) = mpsc::channel();
                    let place = state.lock().unwrap().join(&(), sender);
                    let (call, number) = match place {
                        CallRole::Leader { call } => return lead(&state, call, &is_led, n % 2 == 0),
                        CallRole::Follower { call, number } => (call, number),
                    };
                    let leaves = n == 3;
                    if leaves && state.lock().unwrap().leave(&(), call, number).0.is_some() {
                        return;
                    }
                    match outcome.recv().expect("a follower is told") {
                        Told::Done => {}
                        Told::Lead => lead(&state, call, &is_led, n % 2 == 0),
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            assert!(state.lock().unwrap().by_key.is_empty());
        };
        shuttle::check_random(model, 2_000);
    }
}

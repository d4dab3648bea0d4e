//! Single flight: for each key one leader works; those that ask for the same key meanwhile follow.
//!
//! # States
//!
//! [`Flights`] is the state. A key is either free or led; a key that is led has any number of followers.
//!
//! | step | free | led |
//! |---|---|---|
//! | join | becomes led; the caller leads | the caller follows |
//! | finish | | becomes free; each follower gets a clone of the value |
//! | the leader is dropped | | the first follower leads; without followers becomes free |
//! | a follower is dropped | | leaves; if it was the last one and the leader asked to be told, becomes free, and the leader's hook runs |
//!
//! So a follower gets the leader's value, or takes over from a leader that gave up or panicked. A leader
//! whose flight was given up by its followers holds the number of a flight that is gone: whatever it does
//! changes nothing, also if the key is led again.
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

/// The flights by key. A clone is the same set.
pub(crate) struct SingleFlight<K: Hash + Eq + Clone, V>(Arc<Mutex<Keys<K, V>>>);

type Keys<K, V> = Flights<K, Sender<Outcome<K, V>>>;

/// How a caller takes part in a flight.
pub(crate) enum Joined<K: Hash + Eq + Clone, V> {
    /// There was no flight: the caller is to work.
    Leader(Leader<K, V>),
    /// Another one works.
    Follower(Follower<K, V>),
}

/// What a follower gets.
pub(crate) enum Outcome<K: Hash + Eq + Clone, V> {
    /// The leader's value.
    Done(V),
    /// The leader gave up: the follower is to work instead.
    Lead(Leader<K, V>),
}

/// The duty to work for a key. Dropping it without [`finish`](Self::finish) passes it on.
pub(crate) struct Leader<K: Hash + Eq + Clone, V> {
    /// `None` if the duty was handed on.
    flights: Option<SingleFlight<K, V>>,
    key: K,
    number: u64,
}

/// Waits for a leader, until dropped.
pub(crate) struct Follower<K: Hash + Eq + Clone, V> {
    flights: SingleFlight<K, V>,
    key: K,
    flight: u64,
    number: u64,
    outcome: Receiver<Outcome<K, V>>,
}

impl<K: Hash + Eq + Clone, V> SingleFlight<K, V> {
    pub(crate) fn new() -> Self {
        SingleFlight(Arc::default())
    }

    /// Joins the flight for `key`, or begins one.
    pub(crate) fn join(&self, key: &K) -> Joined<K, V> {
        let (sender, outcome) = bounded(1);
        let place = self.0.lock().join(key, sender);
        match place {
            FlightRole::Leader { flight } => {
                Joined::Leader(Leader { flights: Some(self.clone()), key: key.clone(), number: flight })
            }
            FlightRole::Follower { flight, number } => Joined::Follower(Follower {
                flights: self.clone(),
                key: key.clone(),
                flight,
                number,
                outcome,
            }),
        }
    }

    /// Returns whether a leader works for `key`.
    pub(crate) fn is_led(&self, key: &K) -> bool {
        self.0.lock().by_key.contains_key(key)
    }
}

impl<K: Hash + Eq + Clone, V> Leader<K, V> {
    /// Gives `value` to every follower, and ends the flight.
    pub(crate) fn finish(mut self, value: V)
    where
        V: Clone,
    {
        let Some(flights) = self.flights.take() else { return };
        let (followers, hook) = flights.0.lock().finish(&self.key, self.number);
        drop(hook);
        for follower in followers {
            // One that is gone needs none.
            let _ = follower.send(Outcome::Done(value.clone()));
        }
    }

    /// Follows the own flight: for a caller that has its work done elsewhere, by the leader's new owner.
    /// `None` if the flight was given up by its followers.
    pub(crate) fn follow(&self) -> Option<Follower<K, V>> {
        let flights = self.flights.as_ref()?;
        let (sender, outcome) = bounded(1);
        let number = flights.0.lock().follow(&self.key, self.number, sender)?;
        let (flights, key) = (flights.clone(), self.key.clone());
        Some(Follower { flights, key, flight: self.number, number, outcome })
    }

    /// Runs `hook` when the last follower leaves before the flight ends, on that follower's thread. The
    /// flight is over then: whoever asks next begins another.
    pub(crate) fn when_given_up(&self, hook: impl FnOnce() + Send + 'static) {
        let Some(flights) = &self.flights else { return };
        let replaced = flights.0.lock().set_hook(&self.key, self.number, Box::new(hook));
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
        let Some(flights) = self.flights.take() else { return };
        // A loop, not a recursion: any number of followers may have given up.
        loop {
            let (next, hook) = flights.0.lock().hand_over(&self.key, self.number);
            drop(hook);
            let Some(follower) = next else { return };
            let lead = Leader { flights: Some(flights.clone()), key: self.key.clone(), number: self.number };
            match follower.send(Outcome::Lead(lead)) {
                Ok(()) => return,
                Err(SendError(Outcome::Lead(mut unsent))) => unsent.flights = None,
                Err(SendError(Outcome::Done(_))) => return,
            }
        }
    }
}

impl<K: Hash + Eq + Clone, V> Drop for Follower<K, V> {
    fn drop(&mut self) {
        let (sender, hook) = self.flights.0.lock().leave(&self.key, self.flight, self.number);
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

/// The state. `W` is how a follower is told.
struct Flights<K, W> {
    by_key: HashMap<K, Flight<W>>,
    next_number: u64,
}

struct Flight<W> {
    number: u64,
    followers: BTreeMap<u64, W>,
    when_given_up: Option<Hook>,
}

/// How a caller joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlightRole {
    Leader { flight: u64 },
    Follower { flight: u64, number: u64 },
}

impl<K, W> Default for Flights<K, W> {
    fn default() -> Self {
        Flights { by_key: HashMap::new(), next_number: 0 }
    }
}

impl<K: Hash + Eq + Clone, W> Flights<K, W> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Returns the flight of that number, unless it is gone.
    fn get(&mut self, key: &K, flight: u64) -> Option<&mut Flight<W>> {
        self.by_key.get_mut(key).filter(|led| led.number == flight)
    }

    /// Follows the flight for `key`, or leads a new one.
    fn join(&mut self, key: &K, waiter: W) -> FlightRole {
        let number = self.number();
        if let Some(led) = self.by_key.get_mut(key) {
            led.followers.insert(number, waiter);
            return FlightRole::Follower { flight: led.number, number };
        }
        let flight = Flight { number, followers: BTreeMap::new(), when_given_up: None };
        self.by_key.insert(key.clone(), flight);
        FlightRole::Leader { flight: number }
    }

    /// Follows that flight; returns the follower's number, or `None` if the flight is gone.
    fn follow(&mut self, key: &K, flight: u64, waiter: W) -> Option<u64> {
        let number = self.number();
        self.get(key, flight)?.followers.insert(number, waiter);
        Some(number)
    }

    /// Returns the hook that this one replaces, or this one if the flight is gone.
    fn set_hook(&mut self, key: &K, flight: u64, hook: Hook) -> Option<Hook> {
        match self.get(key, flight) {
            Some(led) => led.when_given_up.replace(hook),
            None => Some(hook),
        }
    }

    /// Ends the flight; returns its followers, and its hook.
    fn finish(&mut self, key: &K, flight: u64) -> (Vec<W>, Option<Hook>) {
        if self.get(key, flight).is_none() {
            return (Vec::new(), None);
        }
        let ended = self.by_key.remove(key);
        ended.map_or((Vec::new(), None), |led| (led.followers.into_values().collect(), led.when_given_up))
    }

    /// The leader gives up. Returns the follower that leads from now on, and the hook, which was the
    /// old leader's. Without followers the flight ends.
    fn hand_over(&mut self, key: &K, flight: u64) -> (Option<W>, Option<Hook>) {
        let Some(led) = self.get(key, flight) else { return (None, None) };
        let hook = led.when_given_up.take();
        let next = led.followers.pop_first();
        if next.is_none() {
            self.by_key.remove(key);
        }
        (next.map(|(_, waiter)| waiter), hook)
    }

    /// A follower gives up. Returns what it was told by, unless it was told before, and the hook if that
    /// ends the flight.
    fn leave(&mut self, key: &K, flight: u64, follower: u64) -> (Option<W>, Option<Hook>) {
        let Some(led) = self.get(key, flight) else { return (None, None) };
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

    fn leader<V>(flights: &SingleFlight<&'static str, V>) -> Leader<&'static str, V> {
        match flights.join(&"key") {
            Joined::Leader(leader) => leader,
            Joined::Follower(_) => panic!("somebody else leads"),
        }
    }

    fn follower<V>(flights: &SingleFlight<&'static str, V>) -> Follower<&'static str, V> {
        match flights.join(&"key") {
            Joined::Leader(_) => panic!("nobody leads"),
            Joined::Follower(follower) => follower,
        }
    }

    #[test]
    fn every_follower_gets_the_leader_s_value_and_the_next_caller_leads() {
        let flights = SingleFlight::new();
        let first = leader(&flights);
        let followers = [follower(&flights), follower(&flights)];
        first.finish(7);
        for follower in followers {
            assert!(matches!(follower.outcome().try_recv(), Ok(Outcome::Done(7))));
        }
        assert!(!flights.is_led(&"key"));
        leader(&flights);
    }

    #[test]
    fn a_leader_that_gives_up_is_followed_by_one_of_its_followers() {
        let flights = SingleFlight::<_, ()>::new();
        let first = leader(&flights);
        let [gone, second, third] = [follower(&flights), follower(&flights), follower(&flights)];
        drop(gone);
        drop(first);
        let Ok(Outcome::Lead(lead)) = second.outcome().try_recv() else { panic!("it leads now") };
        assert!(third.outcome().is_empty(), "one leads at a time");
        drop(lead);
        // Left in its channel, and dropped with it.
        drop(third);
        assert!(!flights.is_led(&"key"));
    }

    #[test]
    fn a_hundred_thousand_followers_may_give_up_at_once() {
        let flights = SingleFlight::<_, ()>::new();
        let first = leader(&flights);
        let followers: Vec<_> = (0..100_000).map(|_| follower(&flights)).collect();
        drop(first);
        drop(followers);
        assert!(!flights.is_led(&"key"));
    }

    #[test]
    fn work_that_nobody_waits_for_is_given_up_and_its_end_disturbs_no_later_one() {
        let flights = SingleFlight::new();
        let given_up = Arc::new(AtomicUsize::new(0));
        let first = leader(&flights);
        let count = Arc::clone(&given_up);
        first.when_given_up(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (own, other) = (first.follow().unwrap(), follower(&flights));
        drop(own);
        assert_eq!(given_up.load(Ordering::SeqCst), 0, "one still waits");
        drop(other);
        assert_eq!(given_up.load(Ordering::SeqCst), 1);

        let second = leader(&flights);
        let waits = follower(&flights);
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
        type State = Mutex<Flights<(), mpsc::Sender<Told>>>;

        fn lead(state: &State, flight: u64, is_led: &AtomicBool, gives_up: bool) {
            assert!(!is_led.swap(true, Ordering::SeqCst), "one leads at a time");
            thread::yield_now();
            assert!(is_led.swap(false, Ordering::SeqCst));
            if gives_up {
                // As when a lead is dropped: a follower that is gone passes it on.
                while let (Some(next), _) = {
                    let mut s = state.lock().unwrap();
                    s.hand_over(&(), flight)
                } {
                    if next.send(Told::Lead).is_ok() {
                        return;
                    }
                }
            } else {
                let (followers, _) = state.lock().unwrap().finish(&(), flight);
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
                    let (flight, number) = match place {
                        FlightRole::Leader { flight } => return lead(&state, flight, &is_led, n % 2 == 0),
                        FlightRole::Follower { flight, number } => (flight, number),
                    };
                    let leaves = n == 3;
                    if leaves && state.lock().unwrap().leave(&(), flight, number).0.is_some() {
                        return;
                    }
                    match outcome.recv().expect("a follower is told") {
                        Told::Done => {}
                        Told::Lead => lead(&state, flight, &is_led, n % 2 == 0),
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            assert!(state.lock().unwrap().by_key.is_empty());
        };
        shuttle::check_random(model, 2_000);
    }
}

//! Permits that several parties share: no party can take so many that a new one finds none.
//!
//! # States
//!
//! [`Shares`] is the state: the number of free permits, how many each party holds, and a queue of waiters
//! for each party. A party may take a further permit only while it holds fewer than are free: of 32 the
//! first party gets 16, the second 8, then 4, 2 and 1, and a sixth still finds one.
//!
//! | step | the party may take one, and has no waiter | otherwise |
//! |---|---|---|
//! | acquire | takes one | enters the party's queue |
//! | release | frees the permit; then, as long as a party with waiters may take one: the party that holds the fewest gives it to its first waiter | |
//! | leave | nothing | removes the waiter, if it is still in the queue |
//!
//! No wake-up is lost: the permit itself is the message, in a channel of the waiter's own. If the waiter
//! gives up at that moment, the permit is dropped with the channel, and its drop releases it.
//!
//! Nothing deadlocks here: no channel is sent to, and no permit is dropped, under the lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// Hands out permits to parties, which are known by their names. A clone is the same set of permits.
#[derive(Clone)]
pub(crate) struct FairShare(Arc<Mutex<Shares<Sender<Share>>>>);

/// A permit of a party, until dropped.
pub(crate) struct Share {
    owner: FairShare,
    party: Arc<str>,
}

/// A place in a party's queue, until dropped.
pub(crate) struct ShareWaiter {
    owner: FairShare,
    party: Arc<str>,
    number: u64,
    granted: Receiver<Share>,
}

impl FairShare {
    pub(crate) fn new(permits: usize) -> Self {
        FairShare(Arc::new(Mutex::new(Shares::new(permits))))
    }

    /// Enters the queue of `party`. The permit arrives in [`ShareWaiter::granted`].
    pub(crate) fn acquire(&self, party: &str) -> ShareWaiter {
        let (sender, granted) = bounded(1);
        let party: Arc<str> = party.into();
        let (number, waiter) = self.0.lock().acquire(&party, sender);
        if let Some(waiter) = waiter {
            self.give(Arc::clone(&party), &waiter);
        }
        ShareWaiter { owner: self.clone(), party, number, granted }
    }

    /// Returns whether `party` would get a permit now.
    pub(crate) fn has_free(&self, party: &str) -> bool {
        self.0.lock().may_take(party)
    }

    /// A waiter that has given up drops the permit, which releases it.
    fn give(&self, party: Arc<str>, waiter: &Sender<Share>) {
        let _ = waiter.send(Share { owner: self.clone(), party });
    }
}

impl ShareWaiter {
    /// Returns the channel that carries the permit, as its only message, once it is granted.
    pub(crate) fn granted(&self) -> &Receiver<Share> {
        &self.granted
    }
}

impl Drop for ShareWaiter {
    fn drop(&mut self) {
        let sender = self.owner.0.lock().leave(&self.party, self.number);
        drop(sender);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let granted = self.owner.0.lock().release(&self.party);
        for (party, waiter) in granted {
            self.owner.give(party, &waiter);
        }
    }
}

impl fmt::Debug for FairShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairShare").field("free", &self.0.lock().free).finish_non_exhaustive()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("party", &self.party).finish_non_exhaustive()
    }
}

/// The state. `W` is the channel to a waiter.
struct Shares<W> {
    free: usize,
    /// Parties that hold a permit or wait for one.
    parties: HashMap<Arc<str>, Party<W>>,
    next_number: u64,
}

struct Party<W> {
    held: usize,
    waiters: BTreeMap<u64, W>,
}

impl<W> Default for Party<W> {
    fn default() -> Self {
        Party { held: 0, waiters: BTreeMap::new() }
    }
}

impl<W> Shares<W> {
    fn new(free: usize) -> Self {
        Shares { free, parties: HashMap::new(), next_number: 0 }
    }

    fn may_take(&self, party: &str) -> bool {
        self.parties.get(party).map_or(0, |party| party.held) < self.free
    }

    /// Returns the number to leave the queue by, and the waiter itself if the permit is the party's now.
    fn acquire(&mut self, name: &Arc<str>, waiter: W) -> (u64, Option<W>) {
        let number = self.next_number;
        self.next_number += 1;
        let may_take = self.may_take(name);
        let party = self.parties.entry(Arc::clone(name)).or_default();
        if may_take && party.waiters.is_empty() {
            party.held += 1;
            self.free -= 1;
            return (number, Some(waiter));
        }
        party.waiters.insert(number, waiter);
        (number, None)
    }

    fn leave(&mut self, name: &Arc<str>, number: u64) -> Option<W> {
        let party = self.parties.get_mut(name)?;
        let waiter = party.waiters.remove(&number);
        self.forget_if_idle(name);
        waiter
    }

    /// Gives a permit back. Returns the waiters that have one now, with their parties.
    fn release(&mut self, name: &Arc<str>) -> Vec<(Arc<str>, W)> {
        self.free += 1;
        if let Some(party) = self.parties.get_mut(name) {
            party.held = party.held.saturating_sub(1);
        }
        let mut granted = Vec::new();
        while let Some(next) = self.grant() {
            granted.push(next);
        }
        self.forget_if_idle(name);
        granted
    }

    /// Grants a permit to the party with waiters that holds the fewest; of equal ones to the longest waiter.
    fn grant(&mut self) -> Option<(Arc<str>, W)> {
        let free = self.free;
        let may_take = self.parties.iter_mut().filter(|(_, party)| party.held < free);
        let first = |party: &Party<W>| party.waiters.keys().next().copied();
        let (name, party) = may_take
            .filter(|(_, party)| !party.waiters.is_empty())
            .min_by_key(|(_, party)| (party.held, first(party)))?;
        let (_, waiter) = party.waiters.pop_first()?;
        party.held += 1;
        self.free -= 1;
        Some((Arc::clone(name), waiter))
    }

    fn forget_if_idle(&mut self, name: &Arc<str>) {
        if self.parties.get(name).is_some_and(|party| party.held == 0 && party.waiters.is_empty()) {
            self.parties.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take_all(share: &FairShare, party: &str) -> Vec<Share> {
        std::iter::from_fn(|| share.acquire(party).granted().try_recv().ok()).collect()
    }

    #[test]
    fn a_party_takes_half_of_what_is_left_and_a_sixth_still_finds_one() {
        let share = FairShare::new(32);
        let held: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|party| take_all(&share, party)).into();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [16, 8, 4, 2, 1, 1]);
        assert!(take_all(&share, "g").is_empty());
        drop(held);
        assert_eq!(take_all(&share, "g").len(), 16);
    }

    #[test]
    fn a_permit_that_is_released_goes_to_the_party_that_holds_the_fewest() {
        let share = FairShare::new(2);
        let first = take_all(&share, "a");
        let (again, other) = (share.acquire("a"), share.acquire("b"));
        let held = other.granted().try_recv().unwrap();
        assert!(again.granted().try_recv().is_err());
        drop(held);
        assert!(again.granted().try_recv().is_err(), "it holds as many as are free");
        drop(first);
        assert!(again.granted().try_recv().is_ok());
    }

    #[test]
    fn a_waiter_that_gives_up_costs_no_permit() {
        let share = FairShare::new(1);
        let held = take_all(&share, "a");
        let (gone, next) = (share.acquire("a"), share.acquire("a"));
        drop(gone);
        drop(held);
        drop(next.granted().try_recv().unwrap());
        let granted_and_dropped = share.acquire("b");
        drop(granted_and_dropped);
        assert!(share.has_free("b"));
        assert!(share.0.lock().parties.is_empty());
    }

    proptest! {
        #[test]
        fn every_permit_comes_back_and_none_is_granted_twice(
            permits in 1_usize..8,
            steps in proptest::collection::vec((0_usize..3, "[a-c]"), 0..60),
        ) {
            let share = FairShare::new(permits);
            let (mut waiters, mut held) = (Vec::new(), Vec::new());
            for (step, party) in steps {
                match step {
                    0 => waiters.push(share.acquire(&party)),
                    1 => drop(waiters.pop()),
                    _ => drop(held.pop()),
                }
                held.extend(waiters.iter().filter_map(|waiter: &ShareWaiter| waiter.granted().try_recv().ok()));
                prop_assert!(held.len() <= permits);
                prop_assert_eq!(share.0.lock().free + held.len(), permits);
            }
            drop((waiters, held));
            prop_assert_eq!(share.0.lock().free, permits);
            prop_assert!(share.0.lock().parties.is_empty());
        }
    }
}

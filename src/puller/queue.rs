//! The requests that wait, in the order asked.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::PullResult;
use crate::context::{CancelHook, PullContext};
use crate::service::PullRequest;

/// A request, and all that is needed to answer it. Whoever holds it owes the one result.
pub(super) struct Pending {
    pub(super) cx: PullContext,
    pub(super) request: PullRequest,
    pub(super) results: Sender<PullResult>,
    pub(super) asked_at: Instant,
    /// Takes the request out of the queue on a cancel; gone with the request.
    pub(super) hook: Option<CancelHook>,
}

impl Pending {
    pub(super) fn new(cx: PullContext, request: PullRequest, results: Sender<PullResult>) -> Box<Self> {
        Box::new(Pending { cx, request, results, asked_at: Instant::now(), hook: None })
    }
}

/// First in, first out; and whoever removes a request by its number, be it worker, canceller, timer
/// or shutdown, is the only one who does.
#[derive(Default)]
pub(super) struct Queue {
    /// Sorted by number. A request that was taken from the middle leaves a gap behind.
    entries: VecDeque<(u64, Option<Box<Pending>>)>,
    next_number: u64,
    waiting: usize,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Appends, and tells the number by which the request can be taken.
    pub(super) fn push(&mut self, pending: Box<Pending>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting += 1;
        if let Some(deadline) = pending.cx.deadline() {
            self.deadlines.insert((deadline, number));
        }
        self.entries.push_back((number, Some(pending)));
        number
    }

    /// Takes the one that has waited longest.
    pub(super) fn take_first(&mut self) -> Option<Box<Pending>> {
        while let Some((number, entry)) = self.entries.pop_front() {
            if let Some(pending) = entry {
                self.forget(number, &pending);
                return Some(pending);
            }
        }
        None
    }

    /// Takes the one with this number, if it still waits.
    pub(super) fn take(&mut self, number: u64) -> Option<Box<Pending>> {
        if self.entries.front().is_some_and(|(first, _)| *first == number) {
            return self.take_first();
        }
        let pending = self.slot(number)?.take()?;
        self.forget(number, &pending);
        self.close_gaps();
        Some(pending)
    }

    /// Gives a waiting request its hook; hands the hook back if the request does not wait any more.
    pub(super) fn attach(&mut self, number: u64, hook: CancelHook) -> Result<(), CancelHook> {
        match self.slot(number) {
            Some(Some(pending)) => {
                pending.hook = Some(hook);
                Ok(())
            }
            _ => Err(hook),
        }
    }

    /// Takes all whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Pending> {
        let mut expired = Vec::new();
        while let Some(&(deadline, number)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            expired.extend(self.take(number).map(|pending| *pending));
        }
        expired
    }

    /// Takes all.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        self.waiting = 0;
        self.deadlines.clear();
        std::mem::take(&mut self.entries)
            .into_iter()
            .filter_map(|(_, entry)| entry.map(|pending| *pending))
            .collect()
    }

    /// The deadline that passes first.
    pub(super) fn nearest_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    fn slot(&mut self, number: u64) -> Option<&mut Option<Box<Pending>>> {
        let at = self.entries.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        self.entries.get_mut(at).map(|(_, entry)| entry)
    }

    fn forget(&mut self, number: u64, pending: &Pending) {
        self.waiting -= 1;
        if let Some(deadline) = pending.cx.deadline() {
            self.deadlines.remove(&(deadline, number));
        }
    }

    /// Keeps the gaps fewer than the requests, so that those who ask and cancel behind a pull that
    /// hangs do not make the queue grow.
    fn close_gaps(&mut self) {
        const WORTH_IT: usize = 64;
        if self.entries.len() > WORTH_IT && self.entries.len() > 2 * self.waiting {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
    }
}

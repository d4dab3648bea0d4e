//! Tries the hosts in turn, in rounds with a delay between them.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::hosts::Host;
use super::request::{HostEndpoint, HostTurn, PullSession};
use crate::error::{Attempt, Error, ErrorKind, Phase};
use crate::progress::ProgressEvent;

/// A round that advanced a transfer by at least this many bytes does not count as failed.
const REAL_PROGRESS: u64 = 1024 * 1024;

/// Maximum number of attempts that an error lists.
const MAX_LISTED: usize = 64;

/// What is attempted at each host.
pub(super) struct HostAttempts<'a> {
    phase: Phase,
    /// Selects the hosts.
    may: fn(&Host) -> bool,
    /// The offset in bytes that a transfer has reached, for one that continues where it broke. Bytes that
    /// were discarded and came again do not count.
    reached: Option<&'a Cell<u64>>,
}

impl<'a> HostAttempts<'a> {
    /// Attempts at the hosts that `may` selects.
    pub(super) fn new(phase: Phase, may: fn(&Host) -> bool) -> Self {
        HostAttempts { phase, may, reached: None }
    }

    /// Starts the rounds anew whenever the transfer has advanced.
    pub(super) fn advancing(self, reached: &'a Cell<u64>) -> Self {
        HostAttempts { reached: Some(reached), ..self }
    }

    fn reached(&self) -> u64 {
        self.reached.map_or(0, Cell::get)
    }
}

/// Tries at each host until one succeeds; hosts that failed lately come last. When all have failed, waits and
/// begins again, unless the error of the last host in the configured order is final: that host is the registry
/// itself, and its error decides.
///
/// # Errors
/// The error of that host, with each attempt. An error that no host caused ends the rounds at once.
pub(super) fn over_hosts<T>(
    session: &PullSession<'_>,
    host_attempts: &HostAttempts<'_>,
    mut attempt: impl FnMut(HostTurn<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let retry = &session.service.settings.retry;
    let mut attempts = Vec::new();
    let mut tried = Vec::new();
    let mut failed_rounds = 0;
    let outcome = loop {
        let reached_before = host_attempts.reached();
        let is_last = failed_rounds + 1 >= retry.tries;
        let mut attempt = |place: usize, turn: HostTurn<'_>| {
            if tried.contains(&place) {
                session.count_retry(&turn.endpoint.name);
            } else {
                tried.push(place);
            }
            attempt(turn)
        };
        let error = match one_round(session, host_attempts, is_last, &mut attempt, &mut attempts) {
            ControlFlow::Break(outcome) => break outcome,
            ControlFlow::Continue(error) => error,
        };
        if host_attempts.reached() - reached_before >= REAL_PROGRESS {
            failed_rounds = 0;
            continue;
        }
        failed_rounds += 1;
        if !may_pass(&error) || failed_rounds >= retry.tries {
            break Err(error);
        }
        if let Err(ended) = wait(session, &error, retry.delay_after(failed_rounds)) {
            break Err(ended);
        }
    };
    outcome.map_err(|error| error.with_phase(host_attempts.phase).with_attempts(attempts))
}

/// Tries at each host once; in the last round each may take its whole time. `attempt` also gets the host's place in
/// the configured order. Continues with the error that
/// decides, or breaks with the outcome.
fn one_round<T>(
    session: &PullSession<'_>,
    host_attempts: &HostAttempts<'_>,
    is_last: bool,
    attempt: &mut impl FnMut(usize, HostTurn<'_>) -> Result<T, Error>,
    attempts: &mut Vec<Attempt>,
) -> ControlFlow<Result<T, Error>, Error> {
    let mut deciding: Option<(usize, Error)> = None;
    let mut hosts = in_order(session, host_attempts.may).into_iter();
    while let Some((place, endpoint)) = hosts.next() {
        let turn = HostTurn { endpoint, others_left: !is_last && hosts.len() > 0 };
        let outcome = match leave_alone(session, endpoint).filter(|_| deciding.is_some()) {
            Some(closed) => Err(closed),
            None => attempt(place, turn),
        };
        let error = match outcome {
            Ok(value) => {
                session.service.host_limits.release(&endpoint.name);
                return ControlFlow::Break(Ok(value));
            }
            Err(error) => error.with_phase(host_attempts.phase),
        };
        if let Err(ended) = session.cx.check() {
            return ControlFlow::Break(Err(ended.with_host(&endpoint.name)));
        }
        if !is_of_host(error.kind()) {
            return ControlFlow::Break(Err(error));
        }
        note_failure(session, endpoint, &error, attempts);
        if deciding.as_ref().is_none_or(|(decided_by, _)| *decided_by < place) {
            deciding = Some((place, error));
        }
    }
    match deciding {
        Some((_, error)) => ControlFlow::Continue(error),
        None => {
            let message = "none of the hosts may be asked for this";
            ControlFlow::Break(Err(Error::new(ErrorKind::InvalidConfig, message)))
        }
    }
}

/// Returns an error for a host that asked to be tried later. It is skipped while there are other hosts.
fn leave_alone(session: &PullSession<'_>, endpoint: &HostEndpoint) -> Option<Error> {
    let delay = session.service.host_limits.closed_for(&endpoint.name)?;
    let error = Error::new(ErrorKind::RateLimited, "the host asked to be tried later");
    Some(error.with_host(&endpoint.name).with_retry_after(delay))
}

fn note_failure(
    session: &PullSession<'_>,
    endpoint: &HostEndpoint,
    error: &Error,
    attempts: &mut Vec<Attempt>,
) {
    log::debug!("{}: {error}", session.reference);
    if means_trouble(error.kind()) {
        session.service.host_limits.quarantine(&endpoint.name);
    }
    if means_refusal(error.kind()) {
        endpoint.has_failed.store(true, Ordering::Relaxed);
    }
    if attempts.len() < MAX_LISTED {
        let host = error.host().unwrap_or(&endpoint.name).to_owned();
        attempts.push(Attempt::new(host, error.clone()));
    }
}

/// Waits before the next round; longer if the host that decides asked for more.
fn wait(session: &PullSession<'_>, error: &Error, delay: Duration) -> Result<(), Error> {
    let host = error.host().unwrap_or_default();
    let delay = session.service.host_limits.closed_for(host).map_or(delay, |closed| closed.max(delay));
    session.cx.report(&ProgressEvent::Waiting { host: host.to_owned(), reason: error.cause(), delay });
    session.cx.sleep(delay).map_err(|ended| ended.with_host(host))
}

/// Returns the hosts that may be asked, each with its place in the configured order.
fn in_order<'r>(session: &'r PullSession<'_>, may: fn(&Host) -> bool) -> Vec<(usize, &'r HostEndpoint)> {
    let endpoints = session.endpoints.iter().enumerate();
    let mut endpoints: Vec<_> = endpoints.filter(|(_, endpoint)| may(&endpoint.host)).collect();
    let host_limits = &session.service.host_limits;
    if endpoints.len() > 1 {
        endpoints.sort_by_cached_key(|(_, endpoint)| {
            let is_in_doubt =
                host_limits.is_quarantined(&endpoint.name) || endpoint.has_failed.load(Ordering::Relaxed);
            (host_limits.closed_for(&endpoint.name), is_in_doubt)
        });
    }
    endpoints
}

/// Returns whether another host may succeed.
fn is_of_host(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | DigestMismatch | SizeMismatch) || means_refusal(kind) || means_trouble(kind)
}

/// Returns whether every pull should ask this host last for a while.
fn means_trouble(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, RateLimited | HostNotFound | ConnectionFailed | Tls | Unavailable | Timeout)
}

/// Returns whether this pull should ask this host last from now on.
fn means_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, Unauthorized | Denied | Protocol | InvalidManifest | Unsupported)
}

/// Returns whether the same hosts may succeed later. Wrong bytes were fetched anew already.
fn may_pass(error: &Error) -> bool {
    error.is_retryable() && error.kind() != ErrorKind::DigestMismatch
}

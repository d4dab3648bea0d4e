//! Trying the hosts in turn, and all of them again after a while.

use std::cell::Cell;

use super::ask::{Endpoint, Repository};
use super::hosts::Host;
use crate::error::{Attempt, Error, ErrorKind, Phase};
use crate::progress::ProgressEvent;

/// A round that brought so many bytes forward is no failed one.
const REAL_PROGRESS: u64 = 1024 * 1024;

/// No more attempts than this are listed in an error.
const MAX_LISTED: usize = 64;

/// What is tried at each host.
pub(super) struct Trial<'a> {
    pub(super) phase: Phase,
    /// Which hosts may be asked.
    pub(super) may: fn(&Host) -> bool,
    /// How far it has come, bytes, for what goes on where it broke. What was thrown away and came again
    /// is no progress.
    pub(super) reached: &'a Cell<u64>,
}

/// Tries at each host, those that failed lately last, until one succeeds. When all have failed, waits
/// and begins again, unless the failure of the last host in the configured order cannot change: it is
/// the registry itself, and its word counts.
///
/// # Errors
/// That host's, with each attempt; what is no host's fault ends it at once.
pub(super) fn over_hosts<T>(
    repository: &Repository<'_>,
    trial: &Trial<'_>,
    mut attempt: impl FnMut(&Endpoint) -> Result<T, Error>,
) -> Result<T, Error> {
    let governor = &repository.service.governor;
    let patience = &repository.service.settings.patience;
    let mut attempts = Vec::new();
    let mut failed_rounds = 0;
    loop {
        let reached_before = trial.reached.get();
        let mut deciding: Option<(usize, Error)> = None;
        for (place, endpoint) in in_order(repository, trial.may) {
            let error = match attempt(endpoint) {
                Ok(value) => {
                    governor.trust(&endpoint.name);
                    return Ok(value);
                }
                Err(error) => error.with_phase(trial.phase),
            };
            repository
                .cx
                .check()
                .map_err(|ended| ended.with_phase(trial.phase).with_attempts(attempts.clone()))?;
            if !is_of_host(error.kind()) {
                return Err(error);
            }
            if means_trouble(error.kind()) {
                governor.distrust(&endpoint.name);
            }
            log::debug!("{}: {error}", repository.reference);
            if attempts.len() < MAX_LISTED {
                attempts.push(Attempt::new(&endpoint.name, error.clone()));
            }
            if deciding.as_ref().is_none_or(|(decided_by, _)| *decided_by < place) {
                deciding = Some((place, error));
            }
        }
        let Some((_, error)) = deciding else {
            return Err(
                Error::new(ErrorKind::InvalidConfig, "no host may be asked for this").with_phase(trial.phase)
            );
        };
        if trial.reached.get() - reached_before >= REAL_PROGRESS {
            failed_rounds = 0;
            continue;
        }
        failed_rounds += 1;
        if !error.is_retryable() || failed_rounds >= patience.tries {
            return Err(error.with_attempts(attempts));
        }
        let delay = patience.delay_after(failed_rounds);
        let host = error.host().unwrap_or_default();
        let reason = format!("{}: {}", error.kind(), error.message());
        repository.cx.report(&ProgressEvent::Waiting { host, reason: &reason, delay });
        repository
            .cx
            .sleep(delay)
            .map_err(|ended| ended.with_phase(trial.phase).with_attempts(attempts.clone()))?;
    }
}

/// The hosts that may be asked, each with its place in the configured order.
fn in_order<'r>(repository: &'r Repository<'_>, may: fn(&Host) -> bool) -> Vec<(usize, &'r Endpoint)> {
    let endpoints = repository.endpoints.iter().enumerate();
    let mut endpoints: Vec<_> = endpoints.filter(|(_, endpoint)| may(&endpoint.host)).collect();
    if endpoints.len() > 1 {
        endpoints.sort_by_key(|(_, endpoint)| repository.service.governor.is_distrusted(&endpoint.name));
    }
    endpoints
}

/// Whether another host may do better.
fn is_of_host(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | Unauthorized | Denied | Protocol | DigestMismatch | SizeMismatch)
        || means_trouble(kind)
}

/// Whether the host is better left alone for a while.
fn means_trouble(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, RateLimited | HostNotFound | ConnectionFailed | Tls | Unavailable | Timeout)
}

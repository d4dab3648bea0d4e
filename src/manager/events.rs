//! Events, with kubelet's reasons and messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;

/// Receives the manager's events, which kubelet records on the pod.
///
/// Called from several threads of callers, manager and puller at once, and never under a lock. A pull waits for
/// each call, so a call should return soon. A panic in it is caught and logged.
pub trait EventSink: Send + Sync {
    /// Receives one event.
    fn event(&self, event: &Event);
}

impl<S: EventSink + ?Sized> EventSink for Arc<S> {
    fn event(&self, event: &Event) {
        (**self).event(event);
    }
}

/// One event of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The request's owner.
    pub owner: String,
    /// The image, as typed.
    pub image: String,
    /// What happened.
    pub reason: EventReason,
    /// The event as a sentence, which names the image.
    pub message: String,
}

/// What happened.
///
/// The names are those of
/// [kubelet's events](https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/events/event.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventReason {
    /// The pull has begun.
    Pulling,
    /// The image was pulled, or was there already.
    Pulled,
    /// The pull failed.
    Failed,
    /// The image failed before, and is not pulled again yet.
    BackOff,
    /// The name is invalid, or the service could not tell whether the image is there.
    InspectFailed,
    /// The image is absent, or may not be used, and the policy is `Never`.
    ErrImageNeverPull,
}

impl EventReason {
    /// Returns the reason as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventReason::Pulling => "Pulling",
            EventReason::Pulled => "Pulled",
            EventReason::Failed => "Failed",
            EventReason::BackOff => "BackOff",
            EventReason::InspectFailed => "InspectFailed",
            EventReason::ErrImageNeverPull => "ErrImageNeverPull",
        }
    }

    /// Returns whether Kubernetes gives it the type `Warning`; the others have the type `Normal`.
    pub fn is_warning(self) -> bool {
        matches!(self, EventReason::Failed | EventReason::InspectFailed | EventReason::ErrImageNeverPull)
    }
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(super) fn pulling(image: &str) -> String {
    format!("Pulling image {image:?}")
}

pub(super) fn pulled(image: &str, pull: Duration, wait: Duration, size: Option<u64>) -> String {
    let (alone, in_all) = (GoDuration(pull), GoDuration(pull + wait));
    let size = size.unwrap_or(0);
    format!(
        "Successfully pulled image {image:?} in {alone} ({in_all} including waiting). Image size: {size} bytes."
    )
}

pub(super) fn already_present(image: &str) -> String {
    format!("Container image {image:?} already present on machine")
}

pub(super) fn failed(image: &str, error: &Error) -> String {
    format!("Failed to pull image {image:?}: {error}")
}

pub(super) fn back_off(image: &str) -> String {
    format!("Back-off pulling image {image:?}")
}

pub(super) fn invalid_name(image: &str, error: &Error) -> String {
    format!("Failed to apply default image tag {image:?}: {error}")
}

pub(super) fn not_inspected(image: &str, error: &Error) -> String {
    format!("Failed to inspect image {image:?}: {error}")
}

pub(super) fn absent_and_never(image: &str) -> String {
    format!("Container image {image:?} is not present with pull policy of Never")
}

pub(super) fn refused_and_never(image: &str, refusal: &Error) -> String {
    format!("Container image {image:?} is present with pull policy of Never but may not be used: {refusal}")
}

pub(super) fn not_authorised_and_never(image: &str) -> String {
    format!(
        "Container image {image:?} is present with pull policy of Never but does not have the proper auth \
         (image secret) that was used to pull the image"
    )
}

/// A duration as [Go writes it](https://pkg.go.dev/time#Duration.String), cut to milliseconds.
pub(super) struct GoDuration(pub(super) Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        } else if millis < 1000 {
            return write!(f, "{millis}ms");
        }
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let (seconds, rest) = (millis / 1000 % 60, millis % 1000);
        let fraction = format!("{rest:03}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{seconds}s"),
            digits => write!(f, "{seconds}.{digits}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        let table = [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1250, "1.25s"),
            (1001, "1.001s"),
            (60_000, "1m0s"),
            (61_500, "1m1.5s"),
            (3_600_000, "1h0m0s"),
            (3_723_004, "1h2m3.004s"),
        ];
        for (millis, text) in table {
            assert_eq!(GoDuration(Duration::from_millis(millis)).to_string(), text);
        }
        assert_eq!(GoDuration(Duration::from_micros(1999)).to_string(), "1ms", "cut, not rounded");
    }

    #[test]
    fn a_pull_tells_its_time_without_and_with_the_wait() {
        let (pull, wait) = (Duration::from_millis(1250), Duration::from_secs(2));
        assert_eq!(
            pulled("alpine", pull, wait, Some(42)),
            "Successfully pulled image \"alpine\" in 1.25s (3.25s including waiting). Image size: 42 bytes."
        );
    }
}

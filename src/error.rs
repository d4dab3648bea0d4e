//! The error of this crate: kind, image, host, cause and remedy.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::image::quoted;

/// What kind of thing went wrong; what a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The image name is not one that the reference grammar allows.
    InvalidReference,
    /// A setting, a limit, a credentials or a hosts file is wrong.
    InvalidConfig,
    /// No host has the image, or one of its parts.
    NotFound,
    /// The registry wants credentials, and none that were tried are good (401).
    Unauthorized,
    /// The registry, or the caller's own check, refuses this image (403).
    Denied,
    /// The registry asks for fewer requests (429).
    RateLimited,
    /// The host's name does not resolve.
    HostNotFound,
    /// The connection was refused, reset or cut.
    ConnectionFailed,
    /// The TLS handshake failed: certificate, name or protocol.
    Tls,
    /// The registry is there and cannot serve now (5xx).
    Unavailable,
    /// The deadline passed, or the other side was silent for too long.
    Timeout,
    /// The other side answered with something HTTP or the distribution spec does not allow.
    Protocol,
    /// The bytes do not hash to their digest.
    DigestMismatch,
    /// The bytes are fewer or more than their descriptor says.
    SizeMismatch,
    /// A manifest, index or config that breaks its specification or a limit.
    InvalidManifest,
    /// A layer that breaks a rule of tar or of the image specification.
    InvalidLayer,
    /// The image has nothing for this platform.
    NoMatchingPlatform,
    /// Valid, but not supported: schema 1 manifests, unknown digest algorithms.
    Unsupported,
    /// The store on disk failed or is damaged.
    Store,
    /// The disk is full.
    DiskFull,
    /// The image is absent and the policy is never to pull.
    NeverPull,
    /// The image failed recently and is not tried again yet.
    BackOff,
    /// The caller, or the last of several callers, cancelled the pull.
    Cancelled,
    /// The puller was shut down before this pull began.
    ShutDown,
    /// The image service, or code that the caller supplied, panicked.
    Panicked,
    /// No thread, file or queue slot was available.
    ResourceExhausted,
}

impl ErrorKind {
    /// Returns whether a retry of the same request may succeed.
    fn is_transient(self) -> bool {
        use ErrorKind::*;
        matches!(
            self,
            RateLimited
                | HostNotFound
                | ConnectionFailed
                | Unavailable
                | Timeout
                | Protocol
                | DigestMismatch
                | SizeMismatch
                | DiskFull
                | BackOff
                | Panicked
                | ResourceExhausted
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind::*;
        f.write_str(match self {
            InvalidReference => "invalid reference",
            InvalidConfig => "invalid configuration",
            NotFound => "not found",
            Unauthorized => "unauthorized",
            Denied => "denied",
            RateLimited => "rate limited",
            HostNotFound => "host not found",
            ConnectionFailed => "connection failed",
            Tls => "TLS failed",
            Unavailable => "unavailable",
            Timeout => "timed out",
            Protocol => "protocol error",
            DigestMismatch => "digest mismatch",
            SizeMismatch => "size mismatch",
            InvalidManifest => "invalid manifest",
            InvalidLayer => "invalid layer",
            NoMatchingPlatform => "no matching platform",
            Unsupported => "unsupported",
            Store => "store failed",
            DiskFull => "disk full",
            NeverPull => "image absent, and the policy is never to pull",
            BackOff => "backing off",
            Cancelled => "cancelled",
            ShutDown => "shut down",
            Panicked => "panicked",
            ResourceExhausted => "resource exhausted",
        })
    }
}

/// The phase of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a token or the worker.
    Queued,
    /// Looking up credentials.
    Credentials,
    /// Asking for a bearer token.
    Token,
    /// Fetching a manifest or an index.
    Manifest,
    /// Fetching the image's config.
    Config,
    /// Fetching a layer.
    Layer,
    /// Writing to the store.
    Store,
    /// Unpacking layers.
    Unpack,
    /// Listing tags.
    Tags,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Queued => "queue",
            Phase::Credentials => "credentials",
            Phase::Token => "token",
            Phase::Manifest => "manifest",
            Phase::Config => "config",
            Phase::Layer => "layer",
            Phase::Store => "store",
            Phase::Unpack => "unpack",
            Phase::Tags => "tags",
        })
    }
}

/// A host that was tried, and its error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The host, with its port where it is not the scheme's own.
    pub host: String,
    /// The host's error.
    pub error: Error,
}

impl Attempt {
    /// Creates an attempt at `host` that ended with `error`.
    pub fn new(host: impl Into<String>, error: Error) -> Self {
        Attempt { host: host.into(), error }
    }
}

/// The error of a pull, or of another call of this crate.
///
/// Its `Display` is one line that names the image, the phase, the host and the cause, as far as each is known,
/// and the other hosts that were tried. [`advice`](Self::advice) is the remedy. It holds no secret. Cloning is
/// cheap: one failure answers many callers.
#[derive(Clone)]
pub struct Error(Arc<Facts>);

#[derive(Clone)]
struct Facts {
    kind: ErrorKind,
    message: String,
    image: Option<String>,
    host: Option<String>,
    phase: Option<Phase>,
    retryable: Option<bool>,
    retry_after: Option<Duration>,
    attempts: Vec<Attempt>,
    advice: Option<&'static str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind`; `message` names the cause and holds no secret.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Facts {
            kind,
            message: message.into(),
            image: None,
            host: None,
            phase: None,
            retryable: None,
            retry_after: None,
            attempts: Vec::new(),
            advice: None,
            source: None,
        }))
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the same pull, tried again later, may succeed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable.unwrap_or_else(|| self.0.kind.is_transient())
    }

    /// Returns how long the registry asked to wait (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns each host that was tried, in order, with its error.
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// Returns the requested image, if it is known.
    pub fn image(&self) -> Option<&str> {
        self.0.image.as_deref()
    }

    /// Returns the host that failed.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// Returns the phase of the pull in which it failed.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// Returns the cause, without the image and the host.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns a remedy, as far as one is known for this kind of error at the place where it happened.
    ///
    /// It is one sentence without a capital and a full stop, to be written behind the error.
    pub fn advice(&self) -> Option<&'static str> {
        use ErrorKind::*;
        if self.0.advice.is_some() {
            return self.0.advice;
        }
        match self.kind() {
            InvalidReference => Some("write it as [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case"),
            NoMatchingPlatform => Some("ask for one of the platforms that the image has"),
            DiskFull => Some("free space on this disk"),
            Timeout if self.host().is_none() => Some("allow more time"),
            // The other remedies are about a host.
            kind if self.host().is_some() => self.advice_about_host(kind),
            _ => None,
        }
    }

    fn advice_about_host(&self, kind: ErrorKind) -> Option<&'static str> {
        use ErrorKind::*;
        Some(match kind {
            NotFound if matches!(self.phase(), Some(Phase::Config | Phase::Layer)) => {
                "a part of the image is missing there; push the image again"
            }
            NotFound if self.phase() == Some(Phase::Tags) => "check the name of the repository",
            NotFound => "check the name and the tag, and that the image was pushed",
            Unauthorized => "give credentials for this host, or check those given",
            Denied => "check that this account may pull the image",
            RateLimited => "wait, pull with an account, or use a mirror",
            HostNotFound => "check the host's name and this machine's DNS",
            // A proxy that refuses is running.
            ConnectionFailed if self.is_retryable() => {
                "check that the host runs and can be reached from here"
            }
            Tls => {
                "check the host's certificate; add its CA, or allow plain HTTP for this host if that is meant"
            }
            Unavailable => "try again later, or use a mirror",
            Timeout => "check the network, or allow more time",
            DigestMismatch | SizeMismatch => {
                "the bytes were damaged on the way or at the source; nothing was stored"
            }
            _ => return None,
        })
    }

    /// Returns the last error of each other host that was tried, for the end of the message.
    fn other_hosts(&self) -> impl Iterator<Item = &Attempt> {
        /// Maximum number of hosts that are listed.
        const MAX_HOSTS: usize = 4;
        let attempts = self.attempts();
        let is_last =
            |place: usize, host: &str| attempts.iter().skip(place + 1).all(|later| later.host != host);
        let others = attempts.iter().enumerate().filter(move |(place, attempt)| {
            self.host() != Some(&attempt.host) && is_last(*place, &attempt.host)
        });
        others.map(|(_, attempt)| attempt).take(MAX_HOSTS)
    }

    /// Returns kind and message, without the image, the phase and the host.
    pub(crate) fn cause(&self) -> String {
        format!("{}: {}", self.kind(), self.message())
    }

    /// Replaces the message; kind, image, host and the rest stay.
    #[must_use]
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.facts().message = message.into();
        self
    }

    /// Sets the image, unless it is set already.
    #[must_use]
    pub fn with_image(mut self, image: impl Into<String>) -> Self {
        if self.0.image.is_none() {
            self.facts().image = Some(image.into());
        }
        self
    }

    /// Sets the host, unless it is set already.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        if self.0.host.is_none() {
            self.facts().host = Some(host.into());
        }
        self
    }

    /// Sets the phase, unless it is set already.
    #[must_use]
    pub fn with_phase(mut self, phase: Phase) -> Self {
        if self.0.phase.is_none() {
            self.facts().phase = Some(phase);
        }
        self
    }

    /// Sets whether to retry. Default: by the kind.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.facts().retryable = Some(retryable);
        self
    }

    /// Sets how long the registry asked to wait.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.facts().retry_after = Some(delay);
        self
    }

    /// Sets the hosts that were tried.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.facts().attempts = attempts;
        self
    }

    /// Sets the remedy, where kind, phase and host do not tell it.
    #[must_use]
    pub(crate) fn with_advice(mut self, advice: &'static str) -> Self {
        self.facts().advice = Some(advice);
        self
    }

    /// Returns the message without a beginning that repeats the image or the host.
    fn message_beside_names(&self) -> &str {
        let image = self.image().map(quoted);
        let names = [image.as_deref(), self.host()];
        let repeated = |name: &str| self.message().strip_prefix(name)?.strip_prefix(": ");
        names.into_iter().flatten().find_map(repeated).unwrap_or(self.message())
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.facts().source = Some(Arc::new(source));
        self
    }

    fn facts(&mut self) -> &mut Facts {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &*self.0;
        if let Some(image) = &facts.image {
            write!(f, "{image}: ")?;
        }
        match (facts.phase, &facts.host) {
            (Some(phase), Some(host)) => write!(f, "{phase} from {host}: ")?,
            (Some(phase), None) => write!(f, "{phase}: ")?,
            (None, Some(host)) => write!(f, "{host}: ")?,
            (None, None) => {}
        }
        write!(f, "{}", facts.kind)?;
        if !facts.message.is_empty() {
            write!(f, ": {}", self.message_beside_names())?;
        }
        if let Some(delay) = facts.retry_after {
            write!(f, "; asked to wait {} s", delay.as_secs())?;
        }
        for other in self.other_hosts() {
            write!(f, "; also tried {}: {}", other.host, other.error.cause())?;
        }
        Ok(())
    }
}

/// The same line as `Display`, which is what a `main` that returns the error prints. `{:#?}` has the fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &self.to_string())
            .field("attempts", &self.0.attempts)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_prints_each_part_of_an_error_once() {
        let attempt =
            |host| Attempt::new(host, Error::new(ErrorKind::Unavailable, "status 503").with_host(host));
        let error = Error::new(ErrorKind::Unavailable, "status 503")
            .with_image("app")
            .with_host("b.example.com")
            .with_attempts(vec![attempt("a.example.com"), attempt("b.example.com")])
            .with_source(std::io::Error::other("status 503"));
        let printed = format!("{error:?}");
        assert_eq!(printed, error.to_string());
        for part in ["app", "a.example.com", "b.example.com"] {
            assert_eq!(printed.matches(part).count(), 1, "{printed}");
        }
        assert!(format!("{error:#?}").contains("kind: Unavailable"));
    }

    #[test]
    fn advice_is_for_the_place_where_the_error_happened() {
        let local = |kind| Error::new(kind, "x");
        let at_host = |kind| local(kind).with_host("r.io");
        for (error, expected) in [
            (local(ErrorKind::InvalidReference), Some("write it as")),
            (local(ErrorKind::DiskFull), Some("free space")),
            (local(ErrorKind::Timeout), Some("allow more time")),
            (local(ErrorKind::NotFound), None),
            (local(ErrorKind::Denied), None),
            (local(ErrorKind::DigestMismatch), None),
            (local(ErrorKind::ConnectionFailed), None),
            (at_host(ErrorKind::NotFound), Some("check the name and the tag")),
            (at_host(ErrorKind::NotFound).with_phase(Phase::Layer), Some("a part of the image is missing")),
            (at_host(ErrorKind::Timeout), Some("check the network")),
            (at_host(ErrorKind::ConnectionFailed), Some("check that the host runs")),
            (at_host(ErrorKind::ConnectionFailed).with_retryable(false), None),
            (at_host(ErrorKind::Protocol), None),
        ] {
            let advice = error.advice();
            assert_eq!(advice.is_some(), expected.is_some(), "{error}: {advice:?}");
            assert!(
                advice.unwrap_or_default().starts_with(expected.unwrap_or_default()),
                "{error}: {advice:?}"
            );
            assert!(advice.is_none_or(|advice| !error.to_string().contains(advice)), "{error}");
        }
    }

    #[test]
    fn the_other_hosts_that_were_tried_are_named_with_their_last_error() {
        let attempt = |host: &str, kind, message: &str| Attempt::new(host, Error::new(kind, message));
        let error = Error::new(ErrorKind::NotFound, "status 404").with_host("r.io").with_attempts(vec![
            attempt("m.io", ErrorKind::Timeout, "first"),
            attempt("r.io", ErrorKind::NotFound, "status 404"),
            attempt("m.io", ErrorKind::Tls, "expired"),
        ]);
        let expected = "r.io: not found: status 404; also tried m.io: TLS failed: expired";
        assert_eq!(error.to_string(), expected);
    }
}

//! The table: what can go wrong, with what, and what comes of it. The compiler sees a cell that is
//! missing.

use std::time::{Duration, SystemTime};

use oci_puller::ErrorKind;
use oci_puller::testing::{Action, Stage};

use super::world::{SLOW_NAME, TRIES};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    Manifest,
    Token,
    Config,
    Layer,
}

impl Thing {
    pub(crate) const ALL: [Thing; 4] = [Thing::Manifest, Thing::Token, Thing::Config, Thing::Layer];
}

macro_rules! troubles {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Trouble { $($(#[$doc])* $name,)* }

        impl Trouble {
            pub(crate) const ALL: &[Trouble] = &[$(Trouble::$name,)*];
        }
    };
}

troubles! {
    /// Nobody listens where it is served.
    Refused,
    ResetInHeaders,
    ResetMidBody,
    CutWithRightLength,
    CutWithWrongLength,
    CutWithoutLength,
    Stall,
    Drip,
    Corrupt,
    WrongLength,
    Status401,
    Status403,
    Status404,
    Status408,
    Status416,
    Status429InSeconds,
    Status429UntilDate,
    Status500,
    Status502,
    Status503,
    RedirectLoop,
    RedirectToPlainHttp,
    RedirectElsewhere,
    CertificateExpired,
    CertificateSelfSigned,
    CertificateForAnotherName,
    SlowDns,
    WrongDigestHeader,
    WrongMediaType,
    MislabelledEncoding,
}

/// What is to come of it, and how often the host that has the trouble is asked for the thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) kind: Option<ErrorKind>,
    pub(crate) requests: usize,
}

/// One thing with one trouble. With a mirror that has the trouble, the pull always succeeds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) always: Expected,
    pub(crate) once: Expected,
    pub(crate) at_mirror: usize,
}

const fn fails(kind: ErrorKind, requests: usize) -> Expected {
    Expected { kind: Some(kind), requests }
}

const fn succeeds(requests: usize) -> Expected {
    Expected { kind: None, requests }
}

/// Nobody notices.
const HARMLESS: Cell = Cell { always: succeeds(1), once: succeeds(1), at_mirror: 1 };

/// It may be over in a moment: tried again, as often as the builder allows.
const fn passes(kind: ErrorKind) -> Cell {
    Cell { always: fails(kind, TRIES), once: succeeds(2), at_mirror: 1 }
}

/// It will be no other in a moment: the next host, or the end.
const fn is_final(kind: ErrorKind) -> Cell {
    Cell { always: fails(kind, 1), once: fails(kind, 1), at_mirror: 1 }
}

/// Tried once more at the same host, at once; then the next one.
const fn has_a_second_chance(kind: ErrorKind) -> Cell {
    Cell { always: fails(kind, 2), once: succeeds(2), at_mirror: 2 }
}

/// The credential is refused, and so is an anonymous request.
const fn refuses_both(kind: ErrorKind) -> Cell {
    Cell { always: fails(kind, 2), once: fails(kind, 2), at_mirror: 2 }
}

/// Five redirects are followed.
const LOOP: Cell = Cell { always: fails(ErrorKind::Protocol, 11), once: succeeds(2), at_mirror: 11 };

impl Trouble {
    /// Manifest, token, config and layer.
    pub(crate) fn row(self) -> [Cell; 4] {
        use ErrorKind::*;
        use Trouble::*;
        let all = |cell: Cell| [cell; 4];
        match self {
            Refused => all(passes(ConnectionFailed)),
            ResetInHeaders => all(passes(ConnectionFailed)),
            ResetMidBody => all(passes(ConnectionFailed)),
            CutWithRightLength => all(passes(ConnectionFailed)),
            CutWithWrongLength => {
                let lie = is_final(SizeMismatch);
                [passes(ConnectionFailed), passes(ConnectionFailed), lie, lie]
            }
            CutWithoutLength => {
                [is_final(InvalidManifest), passes(Protocol), passes(SizeMismatch), passes(SizeMismatch)]
            }
            Stall => all(passes(Timeout)),
            Drip => all(passes(Timeout)),
            Corrupt => {
                let wrong_hash = has_a_second_chance(DigestMismatch);
                [is_final(InvalidManifest), passes(Protocol), wrong_hash, wrong_hash]
            }
            WrongLength => {
                [is_final(InvalidManifest), passes(Protocol), is_final(SizeMismatch), is_final(SizeMismatch)]
            }
            Status401 => {
                // A token that was good before is renewed once.
                let renewed = has_a_second_chance(Unauthorized);
                [is_final(Unauthorized), refuses_both(Unauthorized), renewed, renewed]
            }
            Status403 => {
                let renewed = has_a_second_chance(Denied);
                [is_final(Denied), refuses_both(Denied), renewed, renewed]
            }
            Status404 => [is_final(NotFound), is_final(Protocol), is_final(NotFound), is_final(NotFound)],
            Status408 => all(passes(Timeout)),
            Status416 => all(is_final(Protocol)),
            Status429InSeconds => all(passes(RateLimited)),
            Status429UntilDate => all(passes(RateLimited)),
            Status500 => all(passes(Unavailable)),
            Status502 => all(passes(Unavailable)),
            Status503 => all(passes(Unavailable)),
            RedirectLoop => all(LOOP),
            RedirectToPlainHttp => all(is_final(Protocol)),
            RedirectElsewhere => all(HARMLESS),
            CertificateExpired => all(is_final(Tls)),
            CertificateSelfSigned => all(is_final(Tls)),
            CertificateForAnotherName => all(is_final(Tls)),
            SlowDns => all(passes(Timeout)),
            WrongDigestHeader => all(HARMLESS),
            WrongMediaType => [is_final(InvalidManifest), HARMLESS, HARMLESS, HARMLESS],
            MislabelledEncoding => all(HARMLESS),
        }
    }

    /// What the registry is told to do. `elsewhere` is the URL of the other host of this trouble.
    pub(crate) fn actions(self, elsewhere: &str) -> Vec<Action> {
        use Trouble::*;
        let set = Action::header;
        let there = || Action::Redirect(format!("{elsewhere}{{path}}"));
        match self {
            Refused
            | RedirectToPlainHttp
            | RedirectElsewhere
            | CertificateExpired
            | CertificateSelfSigned
            | CertificateForAnotherName => vec![there()],
            SlowDns => vec![Action::Redirect(format!("https://{SLOW_NAME}{{path}}"))],
            ResetInHeaders => vec![Action::Reset(Stage::InHead)],
            ResetMidBody => vec![Action::Reset(Stage::Body(10))],
            CutWithRightLength => vec![Action::Cut(10)],
            CutWithWrongLength => vec![Action::Cut(10), set("Content-Length", "99999")],
            CutWithoutLength => vec![Action::Cut(10), Action::NoHeader("Content-Length".into())],
            Stall => vec![Action::Hold(Stage::Body(10))],
            Drip => vec![Action::Drip { bytes: 1, every: Duration::from_millis(50) }],
            Corrupt => vec![Action::Corrupt(0)],
            WrongLength => vec![Action::Longer(2)],
            Status401 => vec![Action::Status(401)],
            Status403 => vec![Action::Status(403)],
            Status404 => vec![Action::Status(404)],
            Status408 => vec![Action::Status(408)],
            Status416 => vec![Action::Status(416)],
            Status429InSeconds => vec![Action::Status(429), set("Retry-After", "3600")],
            Status429UntilDate => {
                let date = SystemTime::now() + Duration::from_secs(3600);
                vec![Action::Status(429), set("Retry-After", &httpdate::fmt_http_date(date))]
            }
            Status500 => vec![Action::Status(500)],
            Status502 => vec![Action::Status(502)],
            Status503 => vec![Action::Status(503)],
            RedirectLoop => vec![Action::Redirect("{path}".into())],
            WrongDigestHeader => {
                let another = oci_puller::image::Digest::sha256(b"another");
                vec![set("Docker-Content-Digest", another.as_str())]
            }
            WrongMediaType => vec![set("Content-Type", "text/html")],
            MislabelledEncoding => vec![set("Content-Encoding", "gzip")],
        }
    }
}

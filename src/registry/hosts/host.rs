//! A host, with its settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::location::Location;
use crate::credentials::Secret;

/// A host that serves a registry's images, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) location: Location,
    pub(crate) capabilities: Capabilities,
    /// Sent to this host only.
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) tls: TlsSettings,
    /// How long a connection may take; `None` is the service's own limit.
    pub(crate) dial_timeout: Option<Duration>,
    /// The host is no mirror: its URLs have no `ns=` query with the registry's name.
    pub(crate) is_registry_itself: bool,
}

/// The requests that a host may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Manifests by digest, and blobs.
    pub(crate) pull: bool,
    /// Manifests by tag.
    pub(crate) resolve: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Capabilities { pull: true, resolve: true };
}

/// The certificates for a host: the trusted ones, and the client's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TlsSettings {
    /// PEM files of certificate authorities, besides the usual ones.
    pub(crate) ca: Vec<PathBuf>,
    /// PEM files of a certificate and of its key; without a key, the first file holds both.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Accepts any certificate.
    pub(crate) skip_verify: bool,
}

impl Host {
    pub(super) fn new(location: Location) -> Self {
        Host {
            location,
            capabilities: Capabilities::ALL,
            headers: Vec::new(),
            tls: TlsSettings::default(),
            dial_timeout: None,
            is_registry_itself: false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.location.authority())
    }
}

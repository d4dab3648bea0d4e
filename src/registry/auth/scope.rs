//! The scope of a token, and the token servers that may be asked for it.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::registry::address::{AddressClass, AddressRule, UrlRefusal};
use crate::registry::host_limits::HostLimits;
use crate::registry::http::{Http, Uri};
use crate::registry::url_policy::UrlPolicy;

/// The scope of a token: a repository at a host.
#[derive(Clone, Copy)]
pub(crate) struct TokenScope<'a> {
    pub(crate) http: &'a Http,
    /// For token servers on other hosts.
    pub(crate) token_server: &'a Http,
    /// How long a token server may take to answer.
    pub(crate) response_timeout: Duration,
    pub(crate) host_limits: &'a HostLimits,
    /// The root of the host's API.
    pub(crate) root: &'a Uri,
    /// The address that the host answered from.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) repository: &'a str,
    /// `HOST` and `HOST:PORT` that the registry may name at any address.
    pub(crate) allowed_hosts: &'a [String],
    /// The hosts that a token server may be on, besides the registry's own; `None` for any.
    pub(crate) allowed_realms: Option<&'a [String]>,
}

impl TokenScope<'_> {
    pub(super) fn usual_scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    /// Returns the rules for the URLs of token servers.
    pub(super) fn url_policy(&self) -> UrlPolicy<'_> {
        UrlPolicy::new(self.root, self.peer).allowing(self.allowed_hosts)
    }

    /// Checks that a realm is a URL that may be asked.
    ///
    /// # Errors
    /// `Protocol`, `InvalidConfig`.
    pub(super) fn may_ask(&self, realm: &str) -> Result<(Uri, AddressRule), Error> {
        let realm: Uri = realm.parse().map_err(|_| {
            Error::new(ErrorKind::Protocol, "the token server's URL cannot be read").with_retryable(false)
        })?;
        let named = |error: Error| error.with_host(authority(&realm));
        let addresses = self.url_policy().check(&realm).map_err(|refusal| named(refused_url(refusal)))?;
        if let Some(allowed) = self.allowed_realms
            && !is_same_host(&realm, self.root)
            && !allowed.iter().any(|host| names(host, &realm))
        {
            let message = "the registry names a token server on a host that the settings do not list";
            return Err(named(Error::new(ErrorKind::InvalidConfig, message)));
        }
        Ok((realm, addresses))
    }

    /// Checks that a credential may be sent to a realm: on the registry's own host as to the registry itself; on another
    /// host only by HTTPS, unless both are at loopback addresses.
    pub(super) fn may_show_credential(&self, realm: &Uri) -> Result<(), Error> {
        let is_loopback =
            |uri: &Uri| uri.host().and_then(AddressClass::of_host) == Some(AddressClass::Loopback);
        if realm.scheme_str() == Some("https")
            || is_same_host(realm, self.root)
            || (is_loopback(realm) && is_loopback(self.root))
        {
            return Ok(());
        }
        let message = "credentials are sent to a token server on another host by HTTPS only";
        Err(Error::new(ErrorKind::Unauthorized, message))
    }
}

pub(super) fn authority(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

fn is_same_host(one: &Uri, other: &Uri) -> bool {
    one.host().zip(other.host()).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// Returns whether `HOST` or `HOST:PORT` is the host of `url`.
fn names(host: &str, url: &Uri) -> bool {
    [Some(authority(url)), url.host()].into_iter().flatten().any(|known| known.eq_ignore_ascii_case(host))
}

/// Returns the error of a URL that is not used, which a retry does not change.
pub(super) fn refused_url(refusal: UrlRefusal) -> Error {
    Error::new(ErrorKind::Protocol, refusal.to_string()).with_retryable(false)
}

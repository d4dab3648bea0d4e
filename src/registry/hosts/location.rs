//! The location of a registry's API: scheme, host with port, and path.

use std::fmt;
use std::net::Ipv4Addr;

use crate::registry::http::uri::{Authority, PathAndQuery};

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> &'static str {
        match self {
            Scheme::Http => "80",
            Scheme::Https => "443",
        }
    }
}

/// The root of a registry's API; prints as its URL, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    scheme: Scheme,
    authority: String,
    /// Empty, or begins with a slash and ends without one; most often `/v2`.
    path: String,
}

impl Location {
    /// Returns the location of a registry with this name in a reference.
    pub(crate) fn of_registry(scheme: Scheme, domain: &str) -> Self {
        Location { scheme, authority: domain.to_owned(), path: "/v2".to_owned() }
    }

    /// Parses `[SCHEME://]HOST[:PORT][/PATH]`. Appends `/v2` to the path, unless it ends so or `override_path` is
    /// set.
    ///
    /// # Errors
    /// The reason why it is not a location.
    pub(crate) fn parse(
        url: &str,
        override_path: bool,
        default_scheme: impl Fn(&str) -> Scheme,
    ) -> Result<Self, &'static str> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err("only http:// and https:// are supported"),
            None => (None, url),
        };
        let without_query = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) =
            without_query.split_at(without_query.find('/').unwrap_or(without_query.len()));
        check_authority(authority)?;
        let mut path = clean(path);
        if !override_path && !path.ends_with("/v2") {
            path.push_str("/v2");
        }
        if !path.is_empty() && PathAndQuery::try_from(path.as_str()).is_err() {
            return Err("the path has characters that are not allowed in a URL");
        }
        let scheme = scheme.unwrap_or_else(|| default_scheme(authority));
        Ok(Location { scheme, authority: authority.to_owned(), path })
    }

    /// Returns `HOST[:PORT]`, as it was written.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Replaces the authority `old` by `new`.
    /// Replaces the authority `old` by `new`.
    pub(super) fn with_authority_instead_of(mut self, old: &str, new: &str) -> Self {
        if self.authority == old {
            self.authority = new.to_owned();
        }
        self
    }

    /// Returns whether both are the same server; a port that is left out is the default of the scheme.
    pub(super) fn is_same_server(&self, other: &Location) -> bool {
        self.authority.eq_ignore_ascii_case(&other.authority) || self.host_and_port() == other.host_and_port()
    }

    fn host_and_port(&self) -> (String, &str) {
        let (host, port) = split_port(&self.authority);
        (host.to_ascii_lowercase(), port.unwrap_or(self.scheme.default_port()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.path)
    }
}

fn check_authority(authority: &str) -> Result<(), &'static str> {
    if authority.contains('@') {
        return Err("it must not hold a user or a password");
    }
    let parsed: Authority = authority.parse().map_err(|_| "it names no host")?;
    match split_port(authority) {
        _ if parsed.host().is_empty() => Err("it names no host"),
        (_, Some(_)) if parsed.port_u16().is_none() => Err("the port is not a number up to 65535"),
        _ => Ok(()),
    }
}

/// Removes empty segments, `.`, `..` and the slash at the end.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept.iter().flat_map(|name| ["/", name]).collect()
}

/// Returns the host, and the port if there is one.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Returns whether a host without port is `localhost` or a loopback address.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<Ipv4Addr>().is_ok_and(|v4| v4.is_loopback())
}

//! Where a registry's API is: scheme, host with port, and path.

use std::fmt;
use std::net::Ipv4Addr;

use ureq::http::uri::{Authority, PathAndQuery};

/// How a host is spoken to.
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
    /// A registry's own place, by its name in a reference.
    pub(crate) fn of_registry(scheme: Scheme, domain: &str) -> Self {
        Location { scheme, authority: domain.to_owned(), path: "/v2".to_owned() }
    }

    /// Reads `[SCHEME://]HOST[:PORT][/PATH]`. `/v2` is put behind the path unless it ends so, or
    /// unless `override_path` says that it is all there is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(
        url: &str,
        override_path: bool,
        default_scheme: impl Fn(&str) -> Scheme,
    ) -> Result<Self, &'static str> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err("only http:// and https:// are known"),
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
            return Err("the path has characters that no URL has");
        }
        let scheme = scheme.unwrap_or_else(|| default_scheme(authority));
        Ok(Location { scheme, authority: authority.to_owned(), path })
    }

    /// `HOST[:PORT]`, as it was written.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn with_authority_instead_of(mut self, old: &str, new: &str) -> Self {
        if self.authority == old {
            self.authority = new.to_owned();
        }
        self
    }

    /// Whether both are one server: by the same name, or by names that differ in what is left out.
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
    let parsed: Authority = authority.parse().map_err(|_| "a host is wanted")?;
    match split_port(authority) {
        _ if parsed.host().is_empty() => Err("a host is wanted"),
        (_, Some(_)) if parsed.port_u16().is_none() => Err("the port is not a number up to 65535"),
        _ => Ok(()),
    }
}

/// Without empty names, `.` and `..`; without a slash at the end.
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

/// The host, and the port if one is written.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether the host, without port, is this machine by its very name.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<Ipv4Addr>().is_ok_and(|v4| v4.is_loopback())
}

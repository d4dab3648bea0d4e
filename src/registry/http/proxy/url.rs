//! A proxy, by its URL.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::http::uri::Authority;

use crate::credentials::Secret;
use crate::error::{Error, ErrorKind};

/// An HTTP proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Whether it is reached by TLS.
    is_secure: bool,
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Secret>,
}

impl Proxy {
    /// Parses `[http[s]://][USER[:PASSWORD]@]HOST[:PORT]`, where user and password may be percent-encoded. No error
    /// holds the URL, which may have a password.
    pub(super) fn parse(variable: &str, url: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::new(ErrorKind::InvalidConfig, format!("{variable}: {why}"));
        let (is_secure, rest) = match url.split_once("://") {
            None => (false, url),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                let why = format!("a proxy of the scheme {scheme:?} cannot be used; http and https can");
                return Err(invalid(&why));
            }
            Some(_) => return Err(invalid("the proxy's URL cannot be read")),
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let parsed: Authority =
            authority.parse().map_err(|_| invalid("the proxy's URL names no host, or cannot be read"))?;
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = match parsed.port_u16() {
            Some(0) => return Err(invalid("the proxy's port is 0")),
            Some(port) => port,
            None if has_port => return Err(invalid("the proxy's port is not a number up to 65535")),
            None if is_secure => 443,
            None => 80,
        };
        if parsed.host().is_empty() {
            return Err(invalid("the proxy's URL names no host"));
        }
        let authorization = user
            .map(|user| basic(user).ok_or_else(|| invalid("the proxy's user or password cannot be read")))
            .transpose()?;
        Ok(Proxy { is_secure, host: parsed.host().to_owned(), port, authorization })
    }

    pub(in crate::registry::http) fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(in crate::registry::http) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(in crate::registry::http) fn authorization(&self) -> Option<&Secret> {
        self.authorization.as_ref()
    }

    /// Adds that the proxy failed, and its name.
    pub(in crate::registry::http) fn named(&self, error: Error) -> Error {
        let own = self.to_string();
        let message = error.message();
        let message = message.strip_prefix(&own).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message);
        let message = format!("the proxy {own}: {message}");
        let named = Error::new(error.kind(), message).with_retryable(error.is_retryable());
        let named = named.with_host(self.to_string()).with_advice(ADVICE);
        match std::error::Error::source(&error) {
            Some(_) => named.with_source(error),
            None => named,
        }
    }
}

/// The remedy for a proxy that fails.
const ADVICE: &str = "check the proxy that HTTPS_PROXY or HTTP_PROXY names; NO_PROXY excepts hosts";

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Returns the header's value for `USER[:PASSWORD]`, percent-decoded.
fn basic(user: &str) -> Option<Secret> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let pair = zeroize::Zeroizing::new([percent_decoded(name)?, percent_decoded(password)?].join(&b':'));
    Some(Secret::from(format!("Basic {}", BASE64_STANDARD.encode(&*pair))))
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_with_their_credentials() {
        for (url, is_secure, name, pair) in [
            ("p", false, "p:80", None),
            ("p:3128", false, "p:3128", None),
            ("http://p:3128/", false, "p:3128", None),
            ("HTTPS://p", true, "p:443", None),
            ("https://p:8443/path?query", true, "p:8443", None),
            ("http://[::1]:3128", false, "[::1]:3128", None),
            ("http://ann:secret@p:3128", false, "p:3128", Some("ann:secret")),
            ("ann:secret@p:3128", false, "p:3128", Some("ann:secret")),
            ("http://ann@p", false, "p:80", Some("ann:")),
            ("http://DOM%5cann:p%40ss%3aw%25@p", false, "p:80", Some("DOM\\ann:p@ss:w%")),
            ("http://ann:a@b@p:1", false, "p:1", Some("ann:a@b")),
        ] {
            let proxy = Proxy::parse("X", url).unwrap();
            assert_eq!((proxy.is_secure, proxy.to_string().as_str()), (is_secure, name), "{url}");
            let expected = pair.map(|pair| format!("Basic {}", BASE64_STANDARD.encode(pair)));
            assert_eq!(proxy.authorization().map(|value| value.expose().to_owned()), expected, "{url}");
        }
    }
}

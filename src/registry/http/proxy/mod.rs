//! Which proxy a request goes through, by the rules of Go's
//! [`httpproxy`](https://pkg.go.dev/golang.org/x/net/http/httpproxy), which other clients of registries
//! follow.

mod exceptions;
mod tunnel;

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::http::uri::Authority;

use self::exceptions::Exceptions;
pub(super) use self::tunnel::refusal;
use crate::credentials::Secret;
use crate::error::{Error, ErrorKind};
use crate::registry::address::is_localhost;

#[cfg(fuzzing)]
pub(crate) use self::exceptions::fuzz as fuzz_exceptions;

/// Which proxy requests go through, as the builder was told.
#[derive(Clone, Default)]
pub(crate) enum ProxyChoice {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    None,
    /// This proxy, but for the hosts that are excepted in the form of `NO_PROXY`.
    Url {
        url: String,
        no_proxy: String,
    },
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyChoice::Environment => "Environment",
            ProxyChoice::None => "None",
            // The URL may hold a password.
            ProxyChoice::Url { .. } => "Url(…)",
        })
    }
}

/// The proxies of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    for_https: Option<Proxy>,
    for_http: Option<Proxy>,
    exceptions: Exceptions,
    /// This machine itself is never asked through a proxy.
    excepts_loopback: bool,
}

impl Proxies {
    /// Reads the environment, or the builder's URL.
    ///
    /// # Errors
    /// `InvalidConfig` for a proxy that cannot be used, with the name of its variable.
    pub(crate) fn new(choice: &ProxyChoice) -> Result<Self, Error> {
        match choice {
            ProxyChoice::Environment => Proxies::from_variables(|name| std::env::var_os(name)),
            ProxyChoice::None => Ok(Proxies::default()),
            ProxyChoice::Url { url, no_proxy } => {
                let proxy = Proxy::parse("the proxy", url)?;
                Ok(Proxies {
                    for_https: Some(proxy.clone()),
                    for_http: Some(proxy),
                    exceptions: Exceptions::parse(no_proxy),
                    excepts_loopback: false,
                })
            }
        }
    }

    fn from_variables(get: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, Error> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|&name| {
                let value = get(name)?.to_string_lossy().trim().to_owned();
                (!value.is_empty()).then_some((name, value))
            })
        };
        let all = first(&["ALL_PROXY", "all_proxy"]);
        // A CGI program finds a header `Proxy` of its caller in HTTP_PROXY: https://httpoxy.org.
        let http = match get("REQUEST_METHOD") {
            None => first(&["HTTP_PROXY", "http_proxy"]),
            Some(_) => first(&["http_proxy"]),
        };
        let proxy = |found: Option<(&'static str, String)>| {
            found.or_else(|| all.clone()).map(|(name, url)| Proxy::parse(name, &url)).transpose()
        };
        let no_proxy = first(&["NO_PROXY", "no_proxy"]).map(|(_, value)| value);
        Ok(Proxies {
            for_https: proxy(first(&["HTTPS_PROXY", "https_proxy"]))?,
            for_http: proxy(http)?,
            exceptions: Exceptions::parse(&no_proxy.unwrap_or_default()),
            excepts_loopback: true,
        })
    }

    /// Returns the proxy for a URL's host; `None` if it is asked directly. No name is looked up for it.
    pub(super) fn for_url(&self, is_https: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if is_https { self.for_https.as_ref() } else { self.for_http.as_ref() }?;
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address = exceptions::address(&host);
        let is_loopback = is_localhost(&host) || address.is_some_and(|address| address.is_loopback());
        if (self.excepts_loopback && is_loopback) || self.exceptions.contain(&host, address, port) {
            return None;
        }
        Some(proxy)
    }
}

/// An HTTP proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Reached by TLS.
    is_secure: bool,
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Secret>,
}

impl Proxy {
    /// Reads `[http[s]://][USER[:PASSWORD]@]HOST[:PORT]`, where user and password may be
    /// percent-encoded. The URL is not repeated in an error, for it may hold a password.
    fn parse(variable: &str, url: &str) -> Result<Self, Error> {
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

    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(super) fn authorization(&self) -> Option<&Secret> {
        self.authorization.as_ref()
    }

    /// Says that it is the proxy that failed.
    pub(super) fn named(&self, error: Error) -> Error {
        let message = format!("the proxy {self}: {}", error.message());
        let named = Error::new(error.kind(), message).with_retryable(error.is_retryable());
        let named = named.with_host(self.to_string());
        match std::error::Error::source(&error) {
            Some(_) => named.with_source(error),
            None => named,
        }
    }
}

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

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, Error> {
        Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    fn chosen(proxies: &Proxies, url: &str) -> Option<String> {
        let url: ureq::http::Uri = url.parse().unwrap();
        let port = crate::registry::http::connect::port_of(&url);
        let proxy = proxies.for_url(url.scheme_str() == Some("https"), url.host().unwrap(), port);
        proxy.map(ToString::to_string)
    }

    #[test]
    fn each_scheme_has_its_variable_and_all_proxy_is_for_what_is_left() {
        for (variables, https, http) in [
            (&[][..], None, None),
            (&[("HTTPS_PROXY", "s:1")], Some("s:1"), None),
            (&[("https_proxy", "s:1")], Some("s:1"), None),
            (&[("HTTP_PROXY", "p:1")], None, Some("p:1")),
            (&[("http_proxy", "p:1")], None, Some("p:1")),
            (&[("HTTPS_PROXY", "s:1"), ("https_proxy", "t:1")], Some("s:1"), None),
            (&[("HTTPS_PROXY", " "), ("https_proxy", "t:1")], Some("t:1"), None),
            (&[("ALL_PROXY", "a:1")], Some("a:1"), Some("a:1")),
            (&[("all_proxy", "a:1"), ("HTTP_PROXY", "p:1")], Some("a:1"), Some("p:1")),
            (&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")], None, None),
            (&[("http_proxy", "p:1"), ("REQUEST_METHOD", "GET")], None, Some("p:1")),
            // A variable that is not consulted may hold anything.
            (
                &[("ALL_PROXY", "socks5://x"), ("HTTP_PROXY", "p:1"), ("HTTPS_PROXY", "s:1")],
                Some("s:1"),
                Some("p:1"),
            ),
        ] {
            let proxies = proxies(variables).unwrap();
            assert_eq!(chosen(&proxies, "https://r.io").as_deref(), https, "{variables:?}");
            assert_eq!(chosen(&proxies, "http://r.io").as_deref(), http, "{variables:?}");
        }
    }

    #[test]
    fn this_machine_is_asked_directly_whatever_the_environment_says() {
        let proxies = proxies(&[("ALL_PROXY", "http://p:1")]).unwrap();
        for url in [
            "http://localhost:5000",
            "https://LOCALHOST",
            "https://localhost.",
            "https://a.localhost",
            "http://127.0.0.1:30020",
            "http://127.9.9.9",
            "https://[::1]:5000",
            "https://[::ffff:127.0.0.1]",
        ] {
            assert_eq!(chosen(&proxies, url), None, "{url}");
        }
        assert_eq!(chosen(&proxies, "http://10.0.0.1").as_deref(), Some("p:1"));
        assert_eq!(chosen(&proxies, "https://notlocalhost").as_deref(), Some("p:1"));
    }

    #[test]
    fn the_builders_proxy_is_for_every_host_that_it_does_not_except() {
        let proxies = |no_proxy: &str| {
            let (url, no_proxy) = ("http://p:1".to_owned(), no_proxy.to_owned());
            Proxies::new(&ProxyChoice::Url { url, no_proxy }).unwrap()
        };
        for url in ["http://localhost:5000", "https://127.0.0.1", "https://r.io"] {
            assert_eq!(chosen(&proxies(""), url).as_deref(), Some("p:1"), "{url}");
            assert_eq!(chosen(&proxies("localhost, 127.0.0.0/8, r.io"), url), None, "{url}");
        }
    }

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

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_with_its_variable_and_without_its_password() {
        for value in [
            "socks5://ann:marker@p:1080",
            "socks5h://p:1080",
            "ftp://p",
            "http://",
            "http://ann:marker@",
            "http://ann:marker@p:99999",
            "http://ann:marker@p:port",
            "http://p:0",
            "http://ann:marker%@p",
            "http://ann:marker%zz@p",
            "://nonsense::",
            "::nonsense::",
            "p q",
        ] {
            for variable in ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"] {
                let error = proxies(&[(variable, value)]).expect_err(value);
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{value}: {error}");
                let text = error.to_string();
                assert!(text.contains(variable) && !text.contains("marker"), "{value}: {text}");
            }
        }
    }
}

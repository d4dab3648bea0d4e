//! Chooses the proxy of a request.

use std::fmt;

use super::exceptions::{self, Exceptions};
use super::url::Proxy;
use crate::error::Error;
use crate::registry::address::is_localhost;

/// The builder's choice of a proxy.
#[derive(Clone, Default)]
pub(crate) enum ProxyChoice {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    #[default]
    Environment,
    None,
    /// This proxy, except for the hosts in `no_proxy`, in the syntax of `NO_PROXY`.
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
    /// Whether loopback hosts are asked without the proxy.
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

    /// Returns the proxy for a URL's host; `None` if it is asked directly. Resolves no name.
    pub(in crate::registry::http) fn for_url(&self, is_https: bool, host: &str, port: u16) -> Option<&Proxy> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

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
    fn each_scheme_has_its_variable_and_all_proxy_is_the_fallback() {
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
    fn loopback_hosts_are_asked_without_the_proxy_of_the_environment() {
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
    fn the_builders_proxy_is_for_every_host_except_those_listed() {
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

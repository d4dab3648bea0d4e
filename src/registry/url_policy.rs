//! The rules for URLs that servers name: token servers, targets of redirects, URLs of layers.
//!
//! A URL of a server must not make this machine send requests to its own network or to a cloud's metadata service. Its
//! host is checked here as it is written, in every spelling that the system's resolver accepts. A name is checked
//! with the returned [`AddressRule`]: if this machine resolves the name, each address is checked before the
//! connection is made.

use std::net::IpAddr;

use super::address::{AddressClass, AddressRule, UrlRefusal, written_address};
use super::http::Uri;
use super::http::uri::Scheme;

/// Maximum number of redirects of one request.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// The rules for the URLs that one registry or mirror names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UrlPolicy<'a> {
    /// The root of its API.
    registry: &'a Uri,
    /// The class of its address.
    class: AddressClass,
    /// `HOST` and `HOST:PORT` that may be named wherever they are.
    allowed: &'a [String],
}

impl<'a> UrlPolicy<'a> {
    /// Returns the rules for the registry at `registry`, a URL of the user. `peer` is the address that it answered from;
    /// unknown behind a proxy.
    pub(crate) fn new(registry: &'a Uri, peer: Option<IpAddr>) -> Self {
        let written = registry.host().and_then(AddressClass::of_host);
        let class = written.or(peer.map(AddressClass::of)).unwrap_or(AddressClass::Public);
        UrlPolicy { registry, class, allowed: &[] }
    }

    /// Allows these hosts, each `HOST` or `HOST:PORT` in lower case, wherever they are.
    pub(crate) fn allowing(self, allowed: &'a [String]) -> Self {
        UrlPolicy { allowed, ..self }
    }

    /// Returns the rules for the URLs of layers, which the author of the image has written, and not the registry.
    pub(crate) fn for_foreign_layers(self) -> Self {
        UrlPolicy { class: AddressClass::Public, ..self }
    }

    /// Checks the URL of a token server or of a layer.
    ///
    /// # Errors
    /// The reason why it is not used.
    pub(crate) fn check(&self, url: &Uri) -> Result<AddressRule, UrlRefusal> {
        self.check_from(self.registry, url)
    }

    /// Returns the target of a redirect: the `Location` of the response of `from`.
    ///
    /// # Errors
    /// The reason why it is not followed.
    pub(crate) fn next_hop(
        &self,
        from: &Uri,
        location: Option<&[u8]>,
    ) -> Result<(Uri, AddressRule), UrlRefusal> {
        let to = location
            .and_then(|location| resolve(from, location))
            .ok_or(UrlRefusal("a redirect has no target: its Location is not a URL"))?;
        let rule = self.check_from(from, &to)?;
        Ok((to, rule))
    }

    fn check_from(&self, from: &Uri, url: &Uri) -> Result<AddressRule, UrlRefusal> {
        check_form(url)?;
        if is_plain(url) && !is_plain(from) {
            return Err(UrlRefusal("a URL of a host that is asked by HTTPS must not be plain HTTP"));
        }
        if same_origin(url, self.registry) {
            return Ok(AddressRule::Any);
        }
        let host = url.host().unwrap_or_default();
        let name = host.to_ascii_lowercase();
        let with_port = host_and_port(url);
        if self.allowed.iter().any(|allowed| *allowed == name || *allowed == with_port) {
            return Ok(AddressRule::Any);
        }
        let written = written_address(host);
        if written.is_some() && written == self.registry.host().and_then(written_address) {
            return Ok(AddressRule::Any);
        }
        match AddressClass::of_host(host) {
            Some(class) if !self.class.may_name(class) => Err(UrlRefusal(
                "a server may not name an address inside this network or machine; allow_redirects_to \
                     (--allow-redirects-to) makes an exception",
            )),
            _ => Ok(AddressRule::NamedBy(self.class)),
        }
    }
}

/// Returns whether a status redirects the same request to another URL.
pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns the URL of the next page of a list. It is at the origin of `base`, whatever scheme and port the link has,
/// since registries behind a proxy name their inner ones. `None` for another host. Keeps a query parameter `ns` of
/// `base`.
pub(crate) fn next_page(base: &Uri, link: &str) -> Option<Uri> {
    let to = resolve(base, link.as_bytes())?;
    let is_same_host = to.host().zip(base.host()).is_some_and(|(to, from)| to.eq_ignore_ascii_case(from));
    let mut path = to.path_and_query().filter(|_| is_same_host)?.as_str().to_owned();
    let is_namespace = |param: &&str| param.starts_with("ns=");
    let query = |uri: &Uri| uri.query().map(ToOwned::to_owned).unwrap_or_default();
    if let Some(namespace) = query(base).split('&').find(is_namespace)
        && !query(&to).split('&').any(|param| is_namespace(&param))
    {
        path.push(if to.query().is_some() { '&' } else { '?' });
        path.push_str(namespace);
    }
    let (scheme, authority) = (base.scheme()?.clone(), base.authority()?.clone());
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
}

/// Returns whether both have the same scheme, host and port.
pub(crate) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// Returns `HOST:PORT` of a URL, in lower case.
pub(crate) fn host_and_port(url: &Uri) -> String {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    format!("{host}:{}", port(url).unwrap_or_default())
}

/// Resolves a `Location` by [RFC 3986, section 5](https://www.rfc-editor.org/rfc/rfc3986#section-5).
/// Percent-encodes bytes behind the host that are not allowed in a URL, like blanks, quotes and UTF-8. `None` if it is
/// not a URL.
fn resolve(base: &Uri, location: &[u8]) -> Option<Uri> {
    let (scheme, authority) = (base.scheme()?, base.authority()?);
    let location = location.trim_ascii();
    let location = location.split(|&byte| byte == b'#').next().filter(|location| !location.is_empty())?;
    let start = location.split(|byte| b"/?".contains(byte)).next()?;
    let (origin, target) = if start.contains(&b':') {
        let target = location.windows(3).position(|bytes| bytes == b"://")? + 3;
        split_target(location, target)?
    } else if location.starts_with(b"//") {
        let (authority, target) = split_target(location, 2)?;
        (format!("{scheme}:{authority}"), target)
    } else {
        (format!("{scheme}://{authority}"), location)
    };
    let target = encoded(target)?;
    let target = match target.bytes().next() {
        None => "/".to_owned(),
        Some(b'/') => target,
        // A query alone replaces the query of the base; behind another host it follows a slash.
        Some(b'?') if location.first() == Some(&b'?') => format!("{}{target}", base.path()),
        Some(b'?') => format!("/{target}"),
        Some(_) => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            without_dots(&format!("{folder}/{target}"))
        }
    };
    format!("{origin}{target}").parse().ok()
}

/// Splits `location` into scheme and authority, which begins at `at`, and the rest.
fn split_target(location: &[u8], at: usize) -> Option<(String, &[u8])> {
    let length = location.get(at..)?.iter().position(|byte| b"/?".contains(byte));
    let (origin, target) = location.split_at(length.map_or(location.len(), |length| at + length));
    Some((std::str::from_utf8(origin).ok().filter(|origin| origin.is_ascii())?.to_owned(), target))
}

/// Percent-encodes bytes that are not allowed in a URL. A `%` stays, so that a signed URL is not changed. `None` if
/// there are control characters.
fn encoded(target: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(target.len());
    for &byte in target {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(byte.into()),
            _ if b"-._~!$&'()*+,;=:@/?%[]|".contains(&byte) => text.push(byte.into()),
            0..=0x1f | 0x7f => return None,
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(text)
}

/// Removes the `.` and `..` of a relative path, up to its query.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.trim_start_matches('/').split('/') {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

fn check_form(url: &Uri) -> Result<(), UrlRefusal> {
    if url.scheme() != Some(&Scheme::HTTP) && url.scheme() != Some(&Scheme::HTTPS) {
        return Err(UrlRefusal("only HTTP and HTTPS URLs are used"));
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err(UrlRefusal("a URL must not hold a user or a password"))
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err(UrlRefusal("a URL must name a host")),
    }
}

fn is_plain(url: &Uri) -> bool {
    url.scheme() != Some(&Scheme::HTTPS)
}

fn port(url: &Uri) -> Option<u16> {
    url.port_u16().or_else(|| Some(if is_plain(url) { 80 } else { 443 }))
}

/// For a fuzz target: an accepted target must be a URL that can be asked.
#[cfg(fuzzing)]
pub(super) fn fuzz_location(location: &[u8]) {
    let base = Uri::from_static("https://r.io/v2/app/blobs/x");
    if let Ok((url, _)) = UrlPolicy::new(&base, None).next_hop(&base, Some(location)) {
        assert!(url.host().is_some_and(|host| !host.is_empty()));
        assert!(url.scheme() == Some(&Scheme::HTTPS));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_server_is_asked_over_https_and_inside_a_network_only_from_there() {
        let cases = [
            ("https://auth.example.com/token", "https://r.io", true),
            ("https://8.8.8.8/token", "https://r.io", true),
            ("https://2130706434.example.com/token", "https://r.io", true),
            ("http://auth.example.com/token", "https://r.io", false),
            ("http://auth.example.com/token", "http://r.io", true),
            ("https://10.0.0.1/token", "https://r.io", false),
            ("https://10.0.0.1/token", "https://10.0.0.1:5000", true),
            ("https://10.0.0.1/token", "https://10.0.0.2", true),
            ("https://10.0.0.1/token", "https://localhost:5000", true),
            ("https://127.0.0.1/token", "https://10.0.0.2", false),
            ("http://127.0.0.1:2222/token", "http://127.0.0.1:1111", true),
            ("http://127.0.0.1:2222/token", "http://localhost:1111", true),
            ("http://localhost:2222/token", "http://127.0.0.1:1111", true),
            ("https://localhost/token", "https://r.io", false),
            ("https://localhost./token", "https://r.io", false),
            ("https://a.localhost/token", "https://r.io", false),
            ("https://localhost/token", "https://192.168.0.1", false),
            ("https://169.254.169.254/auth", "https://r.io", false),
            ("https://169.254.169.254./auth", "https://r.io", false),
            ("https://169.254.169.254/auth", "https://localhost:5000", false),
            ("https://169.254.169.254/auth", "https://169.254.1.1", false),
            ("https://169.254.1.1:8443/auth", "https://169.254.1.1", true),
            ("https://100.100.100.200/auth", "https://r.io", false),
            ("https://2130706433/auth", "https://r.io", false),
            ("https://0x7f.1/auth", "https://r.io", false),
            ("https://0177.0.0.1/auth", "https://r.io", false),
            ("https://127.1/auth", "https://r.io", false),
            ("https://0/auth", "https://r.io", false),
            ("https://0xa9fea9fe/auth", "https://r.io", false),
            ("https://[::1]/auth", "https://r.io", false),
            ("https://[::1]/auth", "https://[::1]:5000", true),
            ("https://[::]:8443/auth", "https://r.io", false),
            ("https://[fe80::1]/auth", "https://r.io", false),
            ("https://[fd00::1]/auth", "https://r.io", false),
            ("https://[fec0::1]/auth", "https://r.io", false),
            ("https://192.0.0.170/auth", "https://r.io", false),
            ("https://198.18.0.1/auth", "https://r.io", false),
            ("https://[64:ff9b:1::1]/auth", "https://r.io", false),
            ("https://[::ffff:10.0.0.1]/auth", "https://r.io", false),
            ("https://[::ffff:10.0.0.1]/auth", "https://10.0.0.1", true),
            ("https://[::ffff:8.8.8.8]/auth", "https://r.io", true),
            ("https://[64:ff9b::a00:1]/auth", "https://r.io", false),
            ("https://[2002:a00:1::]/auth", "https://r.io", false),
            ("https://[2606:4700::1]/auth", "https://r.io", true),
            ("https://user:pw@auth.example.com/token", "https://r.io", false),
            ("ftp://auth.example.com/token", "https://r.io", false),
            ("/token", "https://r.io", false),
        ];
        for (realm, registry, allowed) in cases {
            let answer = UrlPolicy::new(&uri(registry), None).check(&uri(realm));
            assert_eq!(answer.is_ok(), allowed, "{realm} for {registry}: {answer:?}");
        }
    }

    #[test]
    fn a_registry_is_inside_if_its_name_leads_there() {
        for (peer, url, allowed) in [
            (None, "https://10.0.0.1/token", false),
            (Some("8.8.8.8"), "https://10.0.0.1/token", false),
            (Some("10.0.0.9"), "https://10.0.0.1/token", true),
            (Some("10.0.0.9"), "https://127.0.0.1/token", false),
            (Some("127.0.0.1"), "https://127.0.0.1/token", true),
            (Some("fd00::1"), "https://10.0.0.1/token", true),
            (Some("169.254.0.9"), "https://169.254.169.254/token", false),
        ] {
            let peer = peer.map(|peer| peer.parse().unwrap());
            let answer = UrlPolicy::new(&uri("https://r.io"), peer).check(&uri(url));
            assert_eq!(answer.is_ok(), allowed, "{url} for a registry at {peer:?}: {answer:?}");
        }
    }

    #[test]
    fn a_host_that_is_allowed_may_be_anywhere_but_not_without_tls() {
        let allowed = ["10.0.0.1".to_owned(), "127.0.0.1:9000".to_owned(), "cdn.io".to_owned()];
        for (url, rule) in [
            ("https://10.0.0.1/x", Some(AddressRule::Any)),
            ("https://10.0.0.1:8443/x", Some(AddressRule::Any)),
            ("https://10.0.0.2/x", None),
            ("https://127.0.0.1:9000/x", Some(AddressRule::Any)),
            ("https://127.0.0.1/x", None),
            ("https://CDN.io/x", Some(AddressRule::Any)),
            ("https://a.cdn.io/x", Some(AddressRule::NamedBy(AddressClass::Public))),
            ("http://10.0.0.1/x", None),
        ] {
            let answer = UrlPolicy::new(&uri("https://r.io"), None).allowing(&allowed).check(&uri(url));
            assert_eq!(answer.ok(), rule, "{url}: {answer:?}");
        }
    }

    #[test]
    fn a_layers_own_url_leads_inside_only_to_the_registrys_own_address() {
        for (url, registry, allowed) in [
            ("https://cdn.example.com/layer", "https://r.io", true),
            ("http://cdn.example.com/layer", "https://r.io", false),
            ("http://cdn.example.com/layer", "http://r.io", true),
            ("https://127.0.0.1/layer", "https://r.io", false),
            ("https://10.0.0.2/layer", "https://10.0.0.1", false),
            ("https://10.0.0.1/layer", "https://10.0.0.1:5000", true),
            ("http://169.254.169.254/layer", "http://localhost:5000", false),
            ("ftp://cdn.example.com/layer", "https://r.io", false),
        ] {
            let answer = UrlPolicy::new(&uri(registry), None).for_foreign_layers().check(&uri(url));
            assert_eq!(answer.is_ok(), allowed, "{url} for {registry}: {answer:?}");
        }
    }

    #[test]
    fn a_redirect_leads_neither_to_plain_http_nor_inside() {
        for (registry, from, to, expected) in [
            (
                "https://r.io",
                "https://r.io/x",
                "https://cdn.io/x",
                Some(AddressRule::NamedBy(AddressClass::Public)),
            ),
            (
                "http://r.io",
                "http://r.io/x",
                "https://cdn.io/x",
                Some(AddressRule::NamedBy(AddressClass::Public)),
            ),
            (
                "http://r.io",
                "http://r.io/x",
                "http://cdn.io/x",
                Some(AddressRule::NamedBy(AddressClass::Public)),
            ),
            ("http://r.io", "https://cdn.io/x", "http://cdn.io/x", None),
            ("https://r.io", "https://r.io/x", "http://r.io/x", None),
            ("https://r.io", "https://r.io/x", "ftp://cdn.io/x", None),
            ("https://r.io", "https://r.io/x", "https://169.254.169.254/x", None),
            ("https://r.io", "https://cdn.io/x", "https://127.0.0.1/x", None),
            ("https://r.io", "https://cdn.io/x", "https://r.io/x", Some(AddressRule::Any)),
            (
                "https://10.0.0.1",
                "https://cdn.io/x",
                "https://10.0.0.2/x",
                Some(AddressRule::NamedBy(AddressClass::Private)),
            ),
            ("https://10.0.0.1", "https://10.0.0.1/x", "https://10.0.0.1:9000/x", Some(AddressRule::Any)),
        ] {
            let answer = UrlPolicy::new(&uri(registry), None).next_hop(&uri(from), Some(to.as_bytes()));
            assert_eq!(answer.clone().ok().map(|(_, rule)| rule), expected, "{from} to {to}: {answer:?}");
        }
    }

    #[test]
    fn the_next_page_is_at_the_same_host() {
        let base = uri("https://r.io:5000/v2/app/referrers/sha256:ab?ns=docker.io");
        for (link, page) in [
            ("/v2/app/x?last=1", Some("https://r.io:5000/v2/app/x?last=1&ns=docker.io")),
            ("?last=1&ns=a", Some("https://r.io:5000/v2/app/referrers/sha256:ab?last=1&ns=a")),
            ("http://R.io/v2/app/x", Some("https://r.io:5000/v2/app/x?ns=docker.io")),
            ("https://evil.io/v2/app/x", None),
            ("//evil.io/x", None),
            ("https://", None),
        ] {
            assert_eq!(next_page(&base, link), page.map(uri), "{link}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (one, other, same) in [
            ("https://r.io/a", "https://R.io:443/b", true),
            ("http://r.io", "http://r.io:80", true),
            ("http://r.io", "https://r.io", false),
            ("https://r.io", "https://r.io:5000", false),
            ("https://r.io", "https://a.r.io", false),
        ] {
            assert_eq!(same_origin(&uri(one), &uri(other)), same, "{one} and {other}");
        }
    }

    #[test]
    fn a_location_is_completed() {
        let base = uri("https://r.io:5000/v2/app/blobs/sha256:ab?x=1");
        for (location, whole) in [
            ("https://cdn.io/x?sig=a/b:c", Some("https://cdn.io/x?sig=a/b:c")),
            ("https://cdn.io", Some("https://cdn.io/")),
            ("https://cdn.io?x=1", Some("https://cdn.io/?x=1")),
            ("https://cdn.io/x#part", Some("https://cdn.io/x")),
            (" https://cdn.io/x ", Some("https://cdn.io/x")),
            ("//cdn.io/x", Some("https://cdn.io/x")),
            ("/x/y?z", Some("https://r.io:5000/x/y?z")),
            ("x/y?z=../..", Some("https://r.io:5000/v2/app/blobs/x/y?z=../..")),
            ("../x", Some("https://r.io:5000/v2/app/x")),
            ("../../../../../x", Some("https://r.io:5000/x")),
            ("?page=2", Some("https://r.io:5000/v2/app/blobs/sha256:ab?page=2")),
            ("/a b", Some("https://r.io:5000/a%20b")),
            ("https://cdn.io/a b?q=\"x\"<y>", Some("https://cdn.io/a%20b?q=%22x%22%3Cy%3E")),
            ("https://cdn.io/\u{e4}?\u{1F980}", Some("https://cdn.io/%C3%A4?%F0%9F%A6%80")),
            ("/a%20b%2Fc%", Some("https://r.io:5000/a%20b%2Fc%")),
            ("/{x}\\^`", Some("https://r.io:5000/%7Bx%7D%5C%5E%60")),
            ("https://", None),
            ("ht tp://x", None),
            ("https://b\u{fc}cher.example/x", None),
            ("https://good.io\\@evil.io/x", None),
            ("/a\u{1}b", None),
            ("", None),
            ("mailto:x", None),
        ] {
            assert_eq!(resolve(&base, location.as_bytes()), whole.map(uri), "{location}");
        }
    }

    proptest! {
        #[test]
        fn no_url_panics(url in any::<Vec<u8>>(), host in r"[0-9a-fx.:\[\]%]{1,20}") {
            let base = uri("https://r.io/v2/");
            for text in [url, format!("https://{host}/").into_bytes()] {
                let _ = UrlPolicy::new(&base, None).next_hop(&base, Some(&text));
            }
        }

        #[test]
        fn whatever_stands_behind_the_host_the_host_stays(path in any::<Vec<u8>>()) {
            let base = uri("https://r.io/v2/");
            let location = [b"https://cdn.io/", &*path].concat();
            if let Some(url) = resolve(&base, &location) {
                prop_assert_eq!(url.host(), Some("cdn.io"));
            }
        }
    }
}

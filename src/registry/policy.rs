//! Where a registry may send us: to a token server, along a redirect, to a layer's own URL.
//!
//! A URL that a server wrote must not make this machine ask its own network, or a cloud's metadata
//! service, in the server's name. An address is looked at in every spelling that the system's
//! resolver takes; what a name resolves to is its operator's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::http::Uri;
use super::http::uri::{PathAndQuery, Scheme};

/// Why a URL is not used; printed after the URL's host.
pub(crate) type Refusal = &'static str;

/// Whether `realm` may be asked for tokens for `registry`: over HTTPS unless the registry itself is
/// plain HTTP, and at a private address only if the registry is named by that same address.
///
/// # Errors
/// Why not.
pub(crate) fn may_ask_for_token(realm: &Uri, registry: &Uri) -> Result<(), Refusal> {
    may_be_asked_for(registry, realm)
}

/// Whether a descriptor's own URL may be fetched; the same rules as for a token server.
///
/// # Errors
/// Why not.
pub(crate) fn may_fetch_foreign(url: &Uri, registry: &Uri) -> Result<(), Refusal> {
    may_be_asked_for(registry, url)
}

/// Whether a redirect may be followed: never from HTTPS to HTTP.
///
/// # Errors
/// Why not.
fn may_redirect(from: &Uri, to: &Uri) -> Result<(), Refusal> {
    check_url(to)?;
    check_scheme(from, to)
}

/// Whether the status sends us elsewhere, with the same question.
pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect's `Location` leads.
///
/// # Errors
/// Why not.
pub(crate) fn next_hop(from: &Uri, location: Option<&str>) -> Result<Uri, Refusal> {
    let to = location.and_then(|location| resolve(from, location)).ok_or("a redirect leads nowhere")?;
    may_redirect(from, &to)?;
    Ok(to)
}

/// Returns where the link to the next page of a list leads: always to the origin of `base`, whatever scheme
/// and port the link names, for registries behind a proxy name their inner ones. `None` for another host.
/// A query parameter `ns` of `base` is kept.
pub(crate) fn next_page(base: &Uri, link: &str) -> Option<Uri> {
    let to = resolve(base, link)?;
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

/// Whether both have the same scheme, host and port: what belongs to one may be shown to the other.
pub(crate) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// Makes a `Location` whole, by [RFC 3986, section 5](https://www.rfc-editor.org/rfc/rfc3986#section-5);
/// `None` for one that is no URL.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme()?, base.authority()?);
    let has_scheme = location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':'));
    if has_scheme {
        return location.parse().ok();
    }
    if location.starts_with("//") {
        return format!("{scheme}:{location}").parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with('?') {
        format!("{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        without_dots(&format!("{folder}/{location}"))
    };
    let path: PathAndQuery = path.parse().ok()?;
    Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query(path).build().ok()
}

/// Takes out the `.` and `..` of a relative path, up to its query.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
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

fn may_be_asked_for(registry: &Uri, url: &Uri) -> Result<(), Refusal> {
    check_url(url)?;
    check_scheme(registry, url)?;
    check_address(registry, url)
}

fn check_url(url: &Uri) -> Result<(), Refusal> {
    if url.scheme() != Some(&Scheme::HTTP) && url.scheme() != Some(&Scheme::HTTPS) {
        return Err("only HTTP and HTTPS URLs are used");
    }
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err("a URL must not hold a user or a password")
        }
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err("a URL must name a host"),
    }
}

fn check_scheme(from: &Uri, to: &Uri) -> Result<(), Refusal> {
    if is_plain(to) && !is_plain(from) {
        return Err("what was asked over HTTPS does not lead to plain HTTP");
    }
    Ok(())
}

fn is_plain(url: &Uri) -> bool {
    url.scheme() != Some(&Scheme::HTTPS)
}

fn port(url: &Uri) -> Option<u16> {
    url.port_u16().or_else(|| Some(if is_plain(url) { 80 } else { 443 }))
}

fn check_address(registry: &Uri, url: &Uri) -> Result<(), Refusal> {
    match written_address(url) {
        Some(address) if is_internal(address) && Some(address) != written_address(registry) => {
            Err("a private address is only asked for a registry at that address")
        }
        _ => Ok(()),
    }
}

/// The address that the URL's host is, if it is one and no name.
fn written_address(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => {
            let without_zone = v6.split('%').next()?;
            Some(IpAddr::V6(without_zone.parse().ok()?).to_canonical())
        }
        None => address_v4(host.strip_suffix('.').unwrap_or(host)).map(IpAddr::V4),
    }
}

/// An IPv4 address as `inet_aton` takes it: one to four numbers, decimal, octal or hexadecimal, of
/// which the last fills all bytes that are left.
fn address_v4(host: &str) -> Option<Ipv4Addr> {
    let numbers = host.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (&last, leading) = numbers.split_last()?;
    let left = 4usize.checked_sub(leading.len()).filter(|&left| left > 0)?;
    let last_fits = left == 4 || u64::from(last) < 1 << (8 * left);
    if !last_fits || leading.iter().any(|&byte| byte > 255) {
        return None;
    }
    let high = leading.iter().fold(0u32, |high, &byte| high << 8 | byte);
    let high = if left == 4 { 0 } else { high << (8 * left) };
    Some(Ipv4Addr::from(high | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    is_number.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Whether it is not an address of the public internet.
fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_internal_v4(v4),
        IpAddr::V6(v6) => is_internal_v6(v6),
    }
}

fn is_internal_v4(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    a == 0 || v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared || a >= 224
}

fn is_internal_v6(v6: Ipv6Addr) -> bool {
    v6.is_loopback()
        || v6.is_unspecified()
        || v6.is_unique_local()
        || v6.is_unicast_link_local()
        || v6.is_multicast()
        || embedded_v4(v6).is_some_and(is_internal_v4)
}

/// The IPv4 address inside an IPv4-compatible, NAT64 or 6to4 address.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
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
    fn a_token_server_is_asked_over_https_and_not_inside_our_network() {
        let cases = [
            ("https://auth.example.com/token", "https://r.io", true),
            ("https://8.8.8.8/token", "https://r.io", true),
            ("https://2130706434.example.com/token", "https://r.io", true),
            ("http://auth.example.com/token", "https://r.io", false),
            ("http://auth.example.com/token", "http://r.io", true),
            ("https://10.0.0.1/token", "https://r.io", false),
            ("https://10.0.0.1/token", "https://10.0.0.1:5000", true),
            ("https://10.0.0.1/token", "https://10.0.0.2", false),
            ("http://127.0.0.1:2222/token", "http://127.0.0.1:1111", true),
            ("http://127.0.0.1:2222/token", "http://localhost:1111", false),
            ("https://169.254.169.254/auth", "https://r.io", false),
            ("https://169.254.169.254./auth", "https://r.io", false),
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
            let answer = may_ask_for_token(&uri(realm), &uri(registry));
            assert_eq!(answer.is_ok(), allowed, "{realm} for {registry}: {answer:?}");
        }
    }

    #[test]
    fn a_layers_own_url_follows_the_same_rules() {
        let registry = uri("https://r.io");
        assert!(may_fetch_foreign(&uri("https://cdn.example.com/layer"), &registry).is_ok());
        assert!(may_fetch_foreign(&uri("http://cdn.example.com/layer"), &registry).is_err());
        assert!(may_fetch_foreign(&uri("http://cdn.example.com/layer"), &uri("http://r.io")).is_ok());
        assert!(may_fetch_foreign(&uri("https://127.0.0.1/layer"), &registry).is_err());
        assert!(may_fetch_foreign(&uri("ftp://cdn.example.com/layer"), &registry).is_err());
    }

    #[test]
    fn a_redirect_never_leads_from_https_to_http() {
        for (from, to, allowed) in [
            ("https://r.io", "https://cdn.io/x", true),
            ("http://r.io", "https://cdn.io/x", true),
            ("http://r.io", "http://cdn.io/x", true),
            ("https://r.io", "http://r.io/x", false),
            ("https://r.io", "ftp://cdn.io/x", false),
        ] {
            assert_eq!(may_redirect(&uri(from), &uri(to)).is_ok(), allowed, "{from} to {to}");
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
    fn a_location_is_made_whole() {
        let base = uri("https://r.io:5000/v2/app/blobs/sha256:ab?x=1");
        for (location, whole) in [
            ("https://cdn.io/x?sig=a/b:c", Some("https://cdn.io/x?sig=a/b:c")),
            ("//cdn.io/x", Some("https://cdn.io/x")),
            ("/x/y?z", Some("https://r.io:5000/x/y?z")),
            ("x/y?z=../..", Some("https://r.io:5000/v2/app/blobs/x/y?z=../..")),
            ("../x", Some("https://r.io:5000/v2/app/x")),
            ("../../../../../x", Some("https://r.io:5000/x")),
            ("?page=2", Some("https://r.io:5000/v2/app/blobs/sha256:ab?page=2")),
            ("https://", None),
            ("ht tp://x", None),
            ("/a b", None),
        ] {
            assert_eq!(resolve(&base, location), whole.map(uri), "{location}");
        }
    }

    proptest! {
        #[test]
        fn every_spelling_of_an_address_is_seen(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let low = bits & 0xff_ffff;
            for spelling in [
                format!("{v4}"),
                format!("{bits}"),
                format!("{bits:#x}"),
                format!("0{bits:o}"),
                format!("{a}.{low}"),
                format!("{a:#x}.0{b:o}.{}", u32::from(c) << 8 | u32::from(d)),
            ] {
                prop_assert_eq!(address_v4(&spelling), Some(v4), "{}", spelling);
            }
        }

        #[test]
        fn no_url_panics(url in any::<String>(), host in r"[0-9a-fx.:\[\]%]{1,20}") {
            let base = uri("https://r.io/v2/");
            for text in [url.clone(), format!("https://{host}/")] {
                if let Some(url) = resolve(&base, &text) {
                    let _ = may_ask_for_token(&url, &base);
                }
            }
        }
    }
}

//! Classes of addresses: public, private, loopback, link-local.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reason why an address or a URL is not used; printed after the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UrlRefusal(pub(crate) &'static str);

/// The class of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressClass {
    /// On the public internet.
    Public,
    /// Inside a network: private, shared or reserved ranges.
    Private,
    /// This machine.
    Loopback,
    /// On this link, where the metadata services of clouds are; also addresses that no host can have.
    LinkLocal,
}

impl AddressClass {
    /// Returns the class of an address. An address inside NAT64, 6to4 or an IPv4-mapped address counts
    /// as the IPv4 address that it holds.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => class_of_v4(v4),
            IpAddr::V6(v6) => match embedded_v4(v6) {
                Some(v4) => class_of_v4(v4),
                None => class_of_v6(v6),
            },
        }
    }

    /// Returns the class of the host of a URL, if that is an address, or `localhost`.
    pub(crate) fn of_host(host: &str) -> Option<Self> {
        if is_localhost(host) {
            return Some(AddressClass::Loopback);
        }
        written_address(host).map(AddressClass::of)
    }

    /// Returns whether a server at an address of class `self` may name an address of class `other`.
    pub(crate) fn may_name(self, other: AddressClass) -> bool {
        use AddressClass::{LinkLocal, Loopback, Private, Public};
        match other {
            Public => true,
            Private => matches!(self, Private | Loopback),
            Loopback => self == Loopback,
            LinkLocal => false,
        }
    }
}

/// The addresses that a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressRule {
    /// All: the user named the host.
    Any,
    /// Those that a server at an address of this class may name; `Public` if its address is not known.
    NamedBy(AddressClass),
}

impl AddressRule {
    /// Checks the address of a connection. `is_written` means that the URL holds an address and not a name,
    /// `is_verified` that the connection is HTTPS with a certificate verified for the name: then no inner service can
    /// be impersonated, and split DNS works.
    ///
    /// # Errors
    /// The reason why the address is not used.
    pub(crate) fn check(
        self,
        address: IpAddr,
        is_written: bool,
        is_verified: bool,
    ) -> Result<(), UrlRefusal> {
        let AddressRule::NamedBy(server) = self else { return Ok(()) };
        let class = AddressClass::of(address);
        if server.may_name(class) || (is_verified && !is_written && class != AddressClass::LinkLocal) {
            return Ok(());
        }
        Err(UrlRefusal(match class {
            AddressClass::LinkLocal => "it is at a link-local address, which no server may name",
            AddressClass::Loopback => "it is at a loopback address, which only a server at one may name",
            _ => "it is at a private address, which a public server may not name",
        }))
    }
}

/// Returns whether a name is `localhost` or below it, by
/// [RFC 6761](https://www.rfc-editor.org/rfc/rfc6761#section-6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.len() > 10
            && host.get(host.len() - 10..).is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
}

/// Parses the host of a URL that is an address, in any spelling that the system's resolver accepts; `None` for a
/// name.
pub(crate) fn written_address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => {
            let without_zone = v6.split('%').next()?;
            Some(IpAddr::V6(without_zone.parse().ok()?).to_canonical())
        }
        None => address_v4(host.strip_suffix('.').unwrap_or(host)).map(IpAddr::V4),
    }
}

/// Parses an IPv4 address like `inet_aton`: one to four numbers, decimal, octal or hexadecimal; the last one fills all
/// remaining bytes.
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

/// The ranges are those of the
/// [registry of special-purpose addresses](https://www.iana.org/assignments/iana-ipv4-special-registry).
fn class_of_v4(v4: Ipv4Addr) -> AddressClass {
    match v4.octets() {
        // Linux connects the unspecified address to this machine.
        [127, ..] | [0, 0, 0, 0] => AddressClass::Loopback,
        [169, 254, ..] => AddressClass::LinkLocal,
        // Multicast, reserved, broadcast, and "this network".
        [224..=255, ..] | [0, ..] => AddressClass::LinkLocal,
        // The metadata service of Alibaba Cloud is at 100.100.100.200, that of Oracle at 192.0.0.192.
        [100, 100, 100, 200] | [192, 0, 0, 192] => AddressClass::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressClass::Private,
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn class_of_v6(v6: Ipv6Addr) -> AddressClass {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => AddressClass::Loopback,
        [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] => AddressClass::LinkLocal,
        // The metadata service of AWS.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => AddressClass::LinkLocal,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => AddressClass::Private,
        // NAT64 of a network's own.
        [0x64, 0xff9b, 1, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

/// Returns the IPv4 address inside an IPv4-mapped, IPv4-compatible, NAT64 or 6to4 address.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        // `::` and `::1` are no IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_have_their_classes() {
        use AddressClass::{LinkLocal, Loopback, Private, Public};
        for (host, class) in [
            ("8.8.8.8", Some(Public)),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.254", Some(Loopback)),
            ("127.0.0.1.", Some(Loopback)),
            ("0", Some(Loopback)),
            ("0x7f000002", Some(Loopback)),
            ("2130706434", Some(Loopback)),
            ("0177.1", Some(Loopback)),
            ("localhost", Some(Loopback)),
            ("LOCALHOST.", Some(Loopback)),
            ("a.localhost", Some(Loopback)),
            ("[::1]", Some(Loopback)),
            ("[::]", Some(Loopback)),
            ("[::ffff:127.0.0.1]", Some(Loopback)),
            ("[::7f00:1]", Some(Loopback)),
            ("[64:ff9b::7f00:1]", Some(Loopback)),
            ("10.1.2.3", Some(Private)),
            ("172.16.0.1", Some(Private)),
            ("172.32.0.1", Some(Public)),
            ("192.168.1.1", Some(Private)),
            ("100.64.0.1", Some(Private)),
            ("100.128.0.1", Some(Public)),
            ("192.0.0.8", Some(Private)),
            ("198.18.0.1", Some(Private)),
            ("198.19.255.1", Some(Private)),
            ("198.20.0.1", Some(Public)),
            ("[fd00::1]", Some(Private)),
            ("[fec0::1]", Some(Private)),
            ("[64:ff9b:1::1]", Some(Private)),
            ("[64:ff9b::a00:1]", Some(Private)),
            ("[2002:a00:1::]", Some(Private)),
            ("[2002:808:808::]", Some(Public)),
            ("[2606:4700::1]", Some(Public)),
            ("169.254.169.254", Some(LinkLocal)),
            ("0xa9fea9fe", Some(LinkLocal)),
            ("100.100.100.200", Some(LinkLocal)),
            ("192.0.0.192", Some(LinkLocal)),
            ("[fe80::1%eth0]", Some(LinkLocal)),
            ("[fd00:ec2::254]", Some(LinkLocal)),
            ("[::ffff:169.254.169.254]", Some(LinkLocal)),
            ("224.0.0.1", Some(LinkLocal)),
            ("255.255.255.255", Some(LinkLocal)),
            ("[ff02::1]", Some(LinkLocal)),
            ("example.com", None),
            ("notlocalhost", None),
            ("2130706434.example.com", None),
        ] {
            assert_eq!(AddressClass::of_host(host), class, "{host}");
        }
    }

    #[test]
    fn a_name_may_lead_inward_only_where_its_certificate_proves_it() {
        use AddressClass::{Loopback, Private, Public};
        for (server, address, is_written, is_verified, is_allowed) in [
            (Public, "8.8.8.8", true, false, true),
            (Public, "10.0.0.1", true, true, false),
            (Public, "10.0.0.1", false, false, false),
            (Public, "10.0.0.1", false, true, true),
            (Public, "127.0.0.1", false, true, true),
            (Public, "127.0.0.1", false, false, false),
            (Private, "10.0.0.1", true, false, true),
            (Private, "127.0.0.1", true, true, false),
            (Private, "127.0.0.1", false, false, false),
            (Loopback, "127.0.0.1", true, false, true),
            (Loopback, "192.168.0.1", true, false, true),
            (Public, "169.254.169.254", false, true, false),
            (Private, "169.254.169.254", true, false, false),
            (Loopback, "fd00:ec2::254", true, true, false),
        ] {
            let rule = AddressRule::NamedBy(server);
            let judged = rule.check(address.parse().unwrap(), is_written, is_verified);
            assert_eq!(judged.is_ok(), is_allowed, "{address} named by {server:?}: {judged:?}");
            assert_eq!(AddressRule::Any.check(address.parse().unwrap(), is_written, is_verified), Ok(()));
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
                format!("[::ffff:{v4}]"),
            ] {
                prop_assert_eq!(written_address(&spelling), Some(IpAddr::V4(v4)), "{}", spelling);
            }
        }

        #[test]
        fn an_embedded_address_counts_as_what_it_holds(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            prop_assume!(bits > 1);
            let (high, low) = (bits >> 16, bits & 0xffff);
            for host in [
                format!("[::ffff:{high:x}:{low:x}]"),
                format!("[64:ff9b::{high:x}:{low:x}]"),
                format!("[2002:{high:x}:{low:x}::1]"),
            ] {
                prop_assert_eq!(AddressClass::of_host(&host), Some(class_of_v4(v4)), "{}", host);
            }
        }
    }
}

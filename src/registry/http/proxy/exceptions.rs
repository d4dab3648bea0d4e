//! `NO_PROXY`: the hosts that are asked without the proxy.

use std::net::IpAddr;

/// A list of hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Clone, Debug, PartialEq)]
enum Exception {
    /// `*`
    All,
    /// `10.0.0.0/8`
    Network { address: IpAddr, prefix: u32 },
    /// `10.0.0.1` or `10.0.0.1:5000`
    Address { address: IpAddr, port: Option<String> },
    /// `example.com`, `.example.com`, `*.example.com`, each with or without `:PORT`
    Domain { name: String, itself: bool, port: Option<String> },
}

impl Exceptions {
    /// Parses entries separated by commas. Ignores an invalid entry, as Go does.
    pub(super) fn parse(list: &str) -> Self {
        Exceptions(list.split(',').filter_map(|entry| exception(entry.trim())).collect())
    }

    /// Returns whether the list has a host: its name, in lower case and without a dot at its end, its address if it is
    /// one, and the port.
    pub(super) fn contain(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        self.0.iter().any(|exception| exception.fits(host, address, port))
    }
}

impl Exception {
    fn fits(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let is_port =
            |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| *wanted == port.to_string());
        match self {
            Exception::All => true,
            Exception::Network { address: network, prefix } => {
                address.is_some_and(|address| is_within(address, *network, *prefix))
            }
            Exception::Address { address: wanted, port } => address == Some(*wanted) && is_port(port),
            Exception::Domain { name, itself, port } => {
                let is_below = host.strip_suffix(&**name).is_some_and(|rest| rest.ends_with('.'));
                (is_below || (*itself && host == name)) && is_port(port)
            }
        }
    }
}

fn exception(entry: &str) -> Option<Exception> {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return Some(Exception::All);
    }
    if let Some((network, prefix)) = entry.split_once('/') {
        let (written, address) = (network.parse::<IpAddr>().ok()?, address(network)?);
        let bits = if written.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse::<u32>().ok().filter(|prefix| *prefix <= bits)?;
        // An IPv4-mapped network counts as the IPv4 network that it holds.
        let prefix = if written.is_ipv6() && address.is_ipv4() { prefix.checked_sub(96)? } else { prefix };
        return Some(Exception::Network { address, prefix });
    }
    if let Some(address) = address(&entry) {
        return Some(Exception::Address { address, port: None });
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.to_owned())),
        _ => (&*entry, None),
    };
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Some(address) = address(unbracketed) {
        return Some(Exception::Address { address, port });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let name = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
    let exception = Exception::Domain { name: name.unwrap_or(host).to_owned(), itself: name.is_none(), port };
    matches!(&exception, Exception::Domain { name, .. } if !name.is_empty()).then_some(exception)
}

/// Parses a host that is an address.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let without_zone = host.split('%').next()?;
    without_zone.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u32) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
        IpAddr::V6(v6) => (u128::from(v6), false),
    };
    let ((address, is_v4), (network, is_v4_network)) = (bits(address), bits(network));
    is_v4 == is_v4_network && (address ^ network).checked_shr(128 - prefix).unwrap_or(0) == 0
}

/// For a fuzz target.
#[cfg(fuzzing)]
pub(crate) fn fuzz(list: &str, host: &str, port: u16) {
    let exceptions = Exceptions::parse(list);
    let _ = exceptions.contain(host, address(host), port);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(list: &str, host: &str, port: u16) -> bool {
        Exceptions::parse(list).contain(host, address(host), port)
    }

    #[test]
    fn hosts_are_excepted_as_go_excepts_them() {
        for (list, host, port, expected) in [
            ("", "r.io", 443, false),
            (",, ,", "r.io", 443, false),
            ("*", "r.io", 443, true),
            ("x.io, *", "10.0.0.1", 443, true),
            ("r.io", "r.io", 443, true),
            ("R.IO", "r.io", 443, true),
            (" x.io ,\tr.io ", "r.io", 443, true),
            ("r.io", "a.r.io", 443, true),
            ("r.io", "b.a.r.io", 443, true),
            ("r.io", "xr.io", 443, false),
            ("r.io", "r.io.x", 443, false),
            ("r.io.", "r.io", 443, true),
            (".r.io", "r.io", 443, false),
            (".r.io", "a.r.io", 443, true),
            ("*.r.io", "r.io", 443, false),
            ("*.r.io", "a.r.io", 443, true),
            ("*.r.io", "xr.io", 443, false),
            ("io", "r.io", 443, true),
            ("r.io:443", "r.io", 443, true),
            ("r.io:443", "r.io", 5000, false),
            ("r.io:5000", "a.r.io", 5000, true),
            (".r.io:5000", "a.r.io", 5000, true),
            (".r.io:5000", "a.r.io", 443, false),
            ("10.0.0.1", "10.0.0.1", 443, true),
            ("10.0.0.1", "10.0.0.11", 443, false),
            ("10.0.0.1:5000", "10.0.0.1", 5000, true),
            ("10.0.0.1:5000", "10.0.0.1", 443, false),
            ("10.0.0.0/8", "10.255.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.9.9.9/8", "10.1.2.3", 443, true),
            ("0.0.0.0/0", "8.8.8.8", 443, true),
            ("0.0.0.0/0", "fd00::1", 443, false),
            ("10.0.0.1/32", "10.0.0.1", 443, true),
            ("10.0.0.0/33", "10.0.0.1", 443, false),
            ("10.0.0.0/8", "r.io", 443, false),
            ("10.0.0", "10.0.0.1", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("fd00::/8", "fe80::1", 443, false),
            ("::/0", "fd00::1", 443, true),
            ("::/0", "10.0.0.1", 443, false),
            ("fd00::1", "fd00::1", 443, true),
            ("fd00:0::1", "fd00::1", 443, true),
            ("[fd00::1]", "fd00::1", 443, true),
            ("[fd00::1]:5000", "fd00::1", 5000, true),
            ("[fd00::1]:5000", "fd00::1", 443, false),
            ("::ffff:10.0.0.1", "10.0.0.1", 443, true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", 443, true),
            ("localhost", "localhost", 80, true),
            (":5000", "r.io", 5000, false),
            (".", "r.io", 443, false),
            ("*.", "r.io", 443, false),
        ] {
            assert_eq!(contains(list, host, port), expected, "{list:?}: {host}:{port}");
        }
    }

    proptest! {
        #[test]
        fn a_network_excepts_what_its_prefix_covers(a in any::<u32>(), b in any::<u32>(), prefix in 0_u32..=32) {
            let (network, host) = (std::net::Ipv4Addr::from(a), std::net::Ipv4Addr::from(b).to_string());
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            prop_assert_eq!(contains(&format!("{network}/{prefix}"), &host, 1), a & mask == b & mask);
        }

        #[test]
        fn no_list_panics(list in r"[0-9a-z.:/*,%\[\] ]{0,40}|\PC{0,20}", host in r"[0-9a-z.:]{0,20}|\PC{0,10}") {
            let _ = contains(&list, &host, 443);
        }
    }
}

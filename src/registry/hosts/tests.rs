//! Tests of hosts: the order, `hosts.toml`, folders of certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::configured::MAX_FILE_LEN;
use super::file::{self, HostsFile, HostsFileError};
use super::host::{Capabilities, TlsSettings};
use super::*;
use crate::error::ErrorKind;

fn parse(text: &str) -> Result<HostsFile, HostsFileError> {
    file::parse(text, Path::new("/certs.d/r.io"), &|host| Hosts::default().default_scheme(host))
}

/// The only mirror of a file.
fn mirror(text: &str) -> Host {
    let mut mirrors = parse(text).unwrap().mirrors;
    assert_eq!(mirrors.len(), 1, "{text}");
    mirrors.remove(0)
}

/// A folder of `hosts.toml` by the folders' names.
fn certs_d(files: &[(&str, &str)]) -> (TempDir, Hosts) {
    let directory = TempDir::new().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut hosts = Hosts::default();
    hosts.set_directory(directory.path());
    (directory, hosts)
}

fn urls(hosts: &Hosts, domain: &str) -> Vec<String> {
    hosts.for_registry(domain).unwrap().iter().map(|host| host.location.to_string()).collect()
}

#[test]
fn mirrors_come_in_file_order_and_the_registry_last() {
    let (_directory, hosts) = certs_d(&[(
        "r.io/hosts.toml",
        "[host.'https://b.io']\n[host.'https://a.io']\n[host.'https://c.io']\n[host.'https://b.io'.header]\nx='y'",
    )]);
    assert_eq!(
        urls(&hosts, "r.io"),
        ["https://b.io/v2", "https://a.io/v2", "https://c.io/v2", "https://r.io/v2"]
    );
}

#[test]
fn an_inline_table_of_hosts_keeps_its_order_too() {
    let file = parse("host = { 'https://b.io' = {}, 'https://a.io' = {} }").unwrap();
    let order: Vec<&str> = file.mirrors.iter().map(|host| host.location.authority()).collect();
    assert_eq!(order, ["b.io", "a.io"]);
}

#[test]
fn the_server_of_the_file_stands_in_for_the_registry() {
    let (_directory, hosts) = certs_d(&[
        ("r.io/hosts.toml", "server = 'https://upstream.io'\n[host.'http://cache:5000']"),
        ("docker.io/hosts.toml", "server = 'https://docker.io'"),
    ]);
    assert_eq!(urls(&hosts, "r.io"), ["http://cache:5000/v2", "https://upstream.io/v2"]);
    assert_eq!(urls(&hosts, "docker.io"), ["https://registry-1.docker.io/v2"]);
}

#[test]
fn only_the_registry_itself_is_not_told_for_whom_it_is_asked() {
    let (_directory, hosts) = certs_d(&[
        ("r.io/hosts.toml", "server = 'https://R.io:443'\n[host.'https://r.io:5000']\n[host.'https://m.io']"),
        ("plain.io/hosts.toml", "server = 'http://plain.io'"),
        ("localhost/hosts.toml", "server = 'https://localhost'"),
        ("docker.io/hosts.toml", "server = 'https://registry-1.docker.io'\n[host.'https://m.io']"),
        ("other.io/hosts.toml", "server = 'https://upstream.io'"),
    ]);
    let itself = |domain| {
        let hosts = hosts.for_registry(domain).unwrap();
        hosts.iter().map(|host| host.is_registry_itself).collect::<Vec<_>>()
    };
    assert_eq!(itself("r.io"), [false, false, true]);
    assert_eq!(itself("docker.io"), [false, true]);
    assert_eq!(itself("plain.io"), [true]);
    assert_eq!(itself("localhost"), [true]);
    assert_eq!(itself("other.io"), [false]);
    assert_eq!(itself("unknown.io"), [true]);
}

#[test]
fn the_folder_is_looked_for_with_underscores_then_with_a_colon_then_as_default() {
    let toml = |name: &str| format!("server = 'https://{name}'");
    let files = [
        ("both.io_5000_/hosts.toml", toml("underscores")),
        ("both.io:5000/hosts.toml", toml("colon")),
        ("colon.io:5000/hosts.toml", toml("colon")),
        ("[::1]_5000_/hosts.toml", toml("v6")),
        ("_default/hosts.toml", toml("default")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let (_directory, hosts) = certs_d(&files);
    for (domain, server) in [
        ("both.io:5000", "underscores"),
        ("colon.io:5000", "colon"),
        ("[::1]:5000", "v6"),
        ("both.io", "default"),
        ("..", "default"),
    ] {
        assert_eq!(urls(&hosts, domain), [format!("https://{server}/v2")], "{domain}");
    }
}

#[test]
fn without_files_the_builders_mirrors_come_first() {
    let mut hosts = Hosts::default();
    hosts.add_mirror("docker.io", "https://m.io/hub").unwrap();
    hosts.add_mirror("docker.io", "localhost:5000").unwrap();
    hosts.add_mirror("r.io", "https://other.io").unwrap();
    assert_eq!(
        urls(&hosts, "docker.io"),
        ["https://m.io/hub/v2", "http://localhost:5000/v2", "https://registry-1.docker.io/v2"]
    );
    assert_eq!(hosts.add_mirror("r.io", "ftp://m.io").unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn plain_http_is_for_this_machine_and_for_hosts_the_builder_was_told_of() {
    let mut hosts = Hosts::default();
    hosts.add_plain_http("plain.io:5000");
    hosts.add_plain_http("anyport.io");
    hosts.add_tls("localhost:5001");
    for (domain, scheme) in [
        ("localhost", "http"),
        ("localhost:5000", "http"),
        ("127.0.0.254:5000", "http"),
        ("[::1]:5000", "http"),
        ("plain.io:5000", "http"),
        ("anyport.io:80", "http"),
        ("localhost:5001", "https"),
        ("localhost:443", "https"),
        ("plain.io", "https"),
        ("127.0.0.1.example.com", "https"),
        ("localhost.example.com", "https"),
        ("10.0.0.1:5000", "https"),
    ] {
        assert_eq!(urls(&hosts, domain), [format!("{scheme}://{domain}/v2")]);
    }
}

#[test]
fn a_hosts_url_gets_v2_unless_its_path_is_overridden() {
    for (line, expected) in [
        ("server = 'https://a.io'", "https://a.io/v2"),
        ("server = 'https://a.io/'", "https://a.io/v2"),
        ("server = 'a.io:5000'", "https://a.io:5000/v2"),
        ("server = 'http://a.io'", "http://a.io/v2"),
        ("server = 'https://a.io/x'", "https://a.io/x/v2"),
        ("server = 'https://a.io/x/v2/'", "https://a.io/x/v2"),
        ("server = 'https://a.io/x/../y'", "https://a.io/y/v2"),
        ("server = 'https://a.io/x?y=z'", "https://a.io/x/v2"),
        ("server = 'httpbin.io'", "https://httpbin.io/v2"),
        ("server = 'https://[::1]:5000'", "https://[::1]:5000/v2"),
        ("server = 'https://a.io/x'\noverride_path = true", "https://a.io/x"),
        ("override_path = true\nserver = 'https://a.io'", "https://a.io"),
    ] {
        assert_eq!(parse(line).unwrap().server.unwrap().to_string(), expected, "{line}");
    }
}

#[test]
fn capabilities_are_those_named_and_all_if_none_is() {
    let all = Capabilities::ALL;
    let pull = Capabilities { pull: true, resolve: false };
    for (line, expected) in [
        ("", all),
        ("capabilities = []", all),
        ("capabilities = ['PULL', 'Resolve', 'push', 'referrers']", all),
        ("capabilities = ['pull']", pull),
        ("capabilities = ['push']", Capabilities { pull: false, resolve: false }),
    ] {
        assert_eq!(mirror(&format!("[host.'https://a.io']\n{line}")).capabilities, expected, "{line}");
    }
}

#[test]
fn certificates_are_files_beside_the_hosts_toml() {
    let beside = |name: &str| PathBuf::from("/certs.d/r.io").join(name);
    let file = |name: &str| PathBuf::from(name);
    let cases: &[(&str, TlsSettings)] = &[
        ("ca = 'ca.pem'", TlsSettings { ca: vec![beside("ca.pem")], ..TlsSettings::default() }),
        (
            "ca = ['sub/a.pem', '/b.pem']",
            TlsSettings { ca: vec![beside("sub/a.pem"), file("/b.pem")], ..TlsSettings::default() },
        ),
        ("client = '/c.pem'", TlsSettings { client: vec![(file("/c.pem"), None)], ..TlsSettings::default() }),
        (
            "client = ['/c.pem', 'd.pem']",
            TlsSettings {
                client: vec![(file("/c.pem"), None), (beside("d.pem"), None)],
                ..TlsSettings::default()
            },
        ),
        (
            "client = [['/c.pem', 'c.key'], ['/d.pem', '']]",
            TlsSettings {
                client: vec![(file("/c.pem"), Some(beside("c.key"))), (file("/d.pem"), None)],
                ..TlsSettings::default()
            },
        ),
        ("skip_verify = true", TlsSettings { skip_verify: true, ..TlsSettings::default() }),
    ];
    for (line, expected) in cases {
        assert_eq!(mirror(&format!("[host.'https://a.io']\n{line}")).tls, *expected, "{line}");
    }
}

#[test]
fn a_header_belongs_to_its_own_host_and_never_shows() {
    let text = "server = 'https://up.io'\n[header]\nx-up = 'marker'\n\
                [host.'https://a.io'.header]\nx-a = ['marker', 'second']\n[host.'https://b.io']";
    let (_directory, hosts) = certs_d(&[("r.io/hosts.toml", text)]);
    let hosts = hosts.for_registry("r.io").unwrap();
    let headers: Vec<Vec<(&str, &str)>> = hosts
        .iter()
        .map(|host| host.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect())
        .collect();
    assert_eq!(headers, [vec![("x-a", "marker"), ("x-a", "second")], vec![], vec![("x-up", "marker")]]);
    assert!(!format!("{hosts:?}").contains("marker"));
}

#[test]
fn the_time_to_connect_is_a_go_duration() {
    let timeout =
        |text: &str| mirror(&format!("[host.'https://a.io']\ndial_timeout = '{text}'")).dial_timeout;
    assert_eq!(timeout("3s"), Some(Duration::from_secs(3)));
    assert_eq!(timeout("0s"), None);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_without_a_secret() {
    let cases = [
        ("\nserver = ", 2, ""),
        (
            "server = 'https://user:marker@a.io'",
            1,
            "the URL of a host: it must not hold a user or a password",
        ),
        ("server = 'ftp://a.io'", 1, "the URL of a host: only http:// and https:// are supported"),
        ("server = 'unix:///x'", 1, "the URL of a host: only http:// and https:// are supported"),
        ("server = 'https://a.io:99999'", 1, "the URL of a host: the port is not a number up to 65535"),
        (
            "server = 'https://a.io/a b'",
            1,
            "the URL of a host: the path has characters that are not allowed in a URL",
        ),
        ("server = ''", 1, "the URL of a host: it names no host"),
        ("server = 1", 1, "server: a string is wanted"),
        ("\n\n[host.'https:///v2']", 3, "the URL of a host: it names no host"),
        ("[[host]]\nserver = 'x'", 1, "host: a table is wanted"),
        ("[host.'https://a.io']\n[host.'https://a.io']", 2, ""),
        ("[host.'https://a.io']\ncapabilities = ['pul']", 2, "unknown capability \"pul\""),
        ("capabilities = 'pull'", 1, "capabilities: a list is wanted"),
        ("ca = 1", 1, "ca: a string is wanted"),
        ("ca = ''", 1, "ca: the path is empty"),
        ("client = [['a', 'b', 'c']]", 1, "client: a pair is a certificate and a key"),
        ("client = [['a']]", 1, "client: a pair is a certificate and a key"),
        ("skip_verify = 'true'", 1, "skip_verify: true or false is wanted"),
        ("dial_timeout = '3'", 1, "dial_timeout: \"3\" is no duration like 3s or 500ms"),
        ("dial_timeout = '-3s'", 1, "dial_timeout: \"-3s\" is no duration like 3s or 500ms"),
        ("dial_timeout = 3", 1, "dial_timeout: a string is wanted"),
        ("[header]\nx = 1", 2, "x: a string is wanted"),
        ("[header]\nx = \"marker\\n\"", 2, "the value of header x has characters that no header has"),
        ("[header]\n'x y' = 'marker'", 2, "\"x y\" is no header's name"),
        ("[header]\nx = 'marker", 2, ""),
        (
            "[header]\nContent-Length = '5'",
            2,
            "the header content-length cannot be configured: it would break the framing of requests",
        ),
        (
            "[host.'https://a.io'.header]\nHOST = ['marker']",
            2,
            "the header host cannot be configured: it follows from the URL of the host",
        ),
        (
            "[header]\n'transfer-encoding' = 'chunked'",
            2,
            "the header transfer-encoding cannot be configured: it would break the framing of requests",
        ),
        (
            "[header]\nConnection = 'close'",
            2,
            "the header connection cannot be configured: the client manages its connections",
        ),
    ];
    for (text, line, what) in cases {
        let fault = parse(text).unwrap_err();
        assert_eq!(fault.line, line, "{text}: {fault:?}");
        assert!(what.is_empty() || fault.message == what, "{text}: {fault:?}");
        assert!(!fault.message.contains("marker"), "{text}: {fault:?}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_nothing_is_asked() {
    let (directory, hosts) = certs_d(&[("r.io/hosts.toml", "\n\nserver = 1"), ("dir.io/hosts.toml/x", "")]);
    let error = hosts.for_registry("r.io").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let path = directory.path().join("r.io/hosts.toml");
    assert_eq!(error.message(), format!("{}: line 3: server: a string is wanted", path.display()));
    assert_eq!(hosts.for_registry("dir.io").unwrap_err().kind(), ErrorKind::InvalidConfig);

    fs::write(path, "x".repeat(MAX_FILE_LEN as usize + 1)).unwrap();
    assert!(hosts.for_registry("r.io").unwrap_err().message().ends_with("it is longer than 1048576 bytes"));
}

#[test]
fn a_folder_without_a_hosts_toml_is_read_as_docker_reads_it() {
    let (directory, hosts) =
        certs_d(&[("r.io/b.crt", ""), ("r.io/a.crt", ""), ("r.io/c.cert", ""), ("r.io/c.key", "")]);
    let at = |name: &str| directory.path().join("r.io").join(name);
    let tls = hosts.for_registry("r.io").unwrap().remove(0).tls;
    assert_eq!(tls.ca, [at("a.crt"), at("b.crt")]);
    assert_eq!(tls.client, [(at("c.cert"), Some(at("c.key")))]);

    fs::remove_file(at("c.key")).unwrap();
    assert_eq!(hosts.for_registry("r.io").unwrap_err().kind(), ErrorKind::InvalidConfig);
}

proptest! {
    #[test]
    fn no_file_panics(any in any::<String>(), key in "(server|host|ca|client|header|x)", value in r#"[\[\]{}'"a:/=,0-9 ]{0,20}"#) {
        let _ = parse(&any);
        let _ = parse(&format!("{key} = {value}"));
        let _ = parse(&format!("[host.{value}]\n{key} = {value}"));
    }
}

#[test]
fn certificates_of_listed_hosts_are_not_verified() {
    let mut hosts = Hosts::default();
    hosts.add_skip_verify("docker.io");
    hosts.add_skip_verify("r.io:5000");
    hosts.add_skip_verify("mirror.io");
    hosts.add_mirror("plain.io", "https://mirror.io:8443").unwrap();
    for (registry, expected) in [
        ("docker.io", &[true][..]),
        ("r.io:5000", &[true]),
        ("r.io:5001", &[false]),
        ("r.io", &[false]),
        ("plain.io", &[true, false]),
    ] {
        let found: Vec<_> =
            hosts.for_registry(registry).unwrap().iter().map(|host| host.tls.skip_verify).collect();
        assert_eq!(found, expected, "{registry}");
    }
}

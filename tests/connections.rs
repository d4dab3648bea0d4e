//! Connections: by proxies, to several addresses, reused and closed, slow, and redirected.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::{free_port, quick};
use oci_puller::ErrorKind;
use oci_puller::registry::Resolver;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Stage, Target, TokenServer};
use parking_lot::Mutex;

fn image() -> Image {
    ImageBuilder::new("library/app").layer(50_000).build()
}

/// Resolves every name to these addresses, and counts the look-ups.
struct Fixed(Vec<&'static str>, AtomicUsize);

impl Resolver for Fixed {
    fn resolve(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(self.0.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect())
    }
}

fn resolver(addresses: &[&'static str]) -> Arc<Fixed> {
    Arc::new(Fixed(addresses.to_vec(), AtomicUsize::new(0)))
}

#[test]
fn the_address_that_answers_is_found_and_a_name_is_looked_up_only_for_new_connections() {
    let registry = Registry::start().unwrap();
    registry.push(&image(), "v1");
    let port = registry.addr().port();
    // Nothing listens at the first ones.
    let resolver = resolver(&["127.0.0.9", "::1", "127.0.0.1"]);
    let dir = tempfile::tempdir().unwrap();
    let host = format!("r.example:{port}");
    let service = quick(dir.path()).plain_http(&host).resolver(Arc::clone(&resolver)).tries(1);
    service.connections_per_host(1).build().unwrap().pull(format!("{host}/library/app:v1")).unwrap();
    assert_eq!(resolver.1.load(Ordering::Relaxed), 1);
    assert_eq!(registry.stats().requests, 3);
}

/// A server in front of `registry` that closes each connection after one answer, and does not say so.
fn closing(registry: &Registry) -> SocketAddr {
    let (listener, to) = (TcpListener::bind("127.0.0.1:0").unwrap(), registry.addr());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || forward_one(&client, to));
        }
    });
    address
}

fn forward_one(client: &TcpStream, to: SocketAddr) {
    let mut server = TcpStream::connect(to).unwrap();
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let end = line.is_empty();
        let line = if end { "Connection: close\r\n".to_owned() } else { line };
        if write!(server, "{line}\r\n").is_err() || end {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = server.read_to_end(&mut answer);
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(0);
    let text = String::from_utf8_lossy(&answer[..head]).replace("Connection: close\r\n", "");
    let _ = (&*client).write_all(&[text.as_bytes(), &answer[head..]].concat());
    // The client takes the connection for a kept one until it is used again.
    thread::sleep(Duration::from_millis(2));
}

#[test]
fn a_connection_closed_while_idle_uses_up_no_try() {
    let registry = Registry::start().unwrap();
    for n in 0..20 {
        let image = ImageBuilder::new("library/app").layer(1_000 + n).build();
        registry.push(&image, &format!("v{n}"));
    }
    let address = closing(&registry);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).tries(1).connections_per_host(2).build().unwrap();
    for n in 0..20 {
        service.pull(format!("{address}/library/app:v{n}")).unwrap();
    }
}

/// A proxy that forwards plain HTTP, and keeps the first lines of requests and their `Proxy-Authorization`.
struct Proxy {
    address: SocketAddr,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

impl Proxy {
    /// Answers with `refusal` instead of forwarding, if there is one.
    fn start(refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let kept = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                thread::spawn(move || serve_proxy(&client, refusal, &kept));
            }
        });
        Proxy { address, seen }
    }
}

fn serve_proxy(client: &TcpStream, refusal: Option<&str>, seen: &Mutex<Vec<(String, Option<String>)>>) {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let is_own = |line: &&String| line.to_ascii_lowercase().starts_with("proxy-authorization: ");
    let authorization = head.iter().find(is_own).map(|line| line[21..].to_owned());
    seen.lock().push((first.clone(), authorization));
    if let Some(refusal) = refusal {
        let _ = (&*client).write_all(refusal.as_bytes());
        return;
    }
    let target = first.split(' ').nth(1).unwrap();
    let (host, path) = target.strip_prefix("http://").unwrap().split_once('/').unwrap();
    // Whatever the name is, it is on this machine.
    let port = host.rsplit_once(':').map_or(80, |(_, port)| port.parse().unwrap());
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head =
        head.iter().filter(|line| !is_own(line)).fold(String::new(), |head, line| head + line + "\r\n");
    write!(server, "GET /{path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n").unwrap();
    let _ = std::io::copy(&mut server, &mut &*client);
}

#[test]
fn plain_http_goes_to_a_proxy_by_its_whole_url_with_the_proxys_credentials() {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(), "v1");
    let proxy = Proxy::start(None);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://ann:p%40ss@{}", proxy.address);
    quick(dir.path()).proxy(url).build().unwrap().pull(&*name).unwrap();
    let seen = proxy.seen.lock().clone();
    let manifest = format!("GET {}/v2/library/app/manifests/v1 HTTP/1.1", registry.url());
    assert_eq!((seen.len(), &seen[0].0), (3, &manifest));
    // `ann:p@ss`
    assert!(seen.iter().all(|(_, shown)| shown.as_deref() == Some("Basic YW5uOnBAc3M=")), "{seen:?}");
    assert!(registry.requests().iter().all(|request| request.header("proxy-authorization").is_none()));

    // Excepted hosts are asked directly.
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).proxy_with(format!("http://{}", proxy.address), "127.0.0.0/8, x.example");
    service.build().unwrap().pull(&*name).unwrap();
    assert_eq!(proxy.seen.lock().len(), 3);
}

#[test]
fn a_proxy_that_refuses_is_named_with_its_status_in_words() {
    for (refusal, words, attempts) in [
        ("HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", "407 Proxy Authentication Required", 1),
        (
            "HTTP/1.1 403 x\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\nContent-Length: 0\r\n\r\n",
            "403 Forbidden",
            1,
        ),
        (
            "HTTP/1.1 503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\nContent-Length: 0\r\n\r\n",
            "503 Service Unavailable",
            3,
        ),
    ] {
        let proxy = Proxy::start(Some(refusal));
        for scheme in ["http", "https"] {
            let dir = tempfile::tempdir().unwrap();
            let builder = quick(dir.path()).proxy(format!("http://{}", proxy.address));
            let builder = if scheme == "http" { builder.plain_http("r.example") } else { builder };
            let error = builder.build().unwrap().pull("r.example/library/app:v1").unwrap_err();
            let text = error.to_string();
            assert!(text.contains("proxy") && text.contains(words), "{scheme}: {text}");
            assert_eq!(error.host(), Some(&*proxy.address.to_string()), "{scheme}: {text}");
            assert_eq!(error.attempts().len(), attempts, "{scheme}: {text}");
            assert_eq!(error.is_retryable(), attempts > 1, "{scheme}: {text}");
        }
    }
}

#[test]
fn a_refusal_that_a_forwarding_proxy_may_have_written_names_it() {
    let json = "Content-Type: application/json\r\n";
    for (status, header, is_named) in [
        (403, "", true),
        (502, "Content-Type: text/html\r\n", true),
        (503, "Via: 1.1 x\r\n", true),
        (403, json, false),
        (500, json, false),
        (503, "Docker-Distribution-Api-Version: registry/2.0\r\n", false),
        (404, "", false),
    ] {
        let refusal = format!("HTTP/1.1 {status} x\r\n{header}Content-Length: 0\r\n\r\n");
        let proxy = Proxy::start(Some(refusal.leak()));
        let dir = tempfile::tempdir().unwrap();
        let builder = quick(dir.path()).proxy(format!("http://{}", proxy.address)).plain_http("r.example");
        let error = builder.build().unwrap().pull("r.example/library/app:v1").unwrap_err();
        let text = error.to_string();
        let named = format!("through the proxy {}, which may have written it", proxy.address);
        assert_eq!(text.contains(&named), is_named, "{status} {header}: {text}");
        assert!(text.contains(&format!("status {status} ")), "{text}");
        let attempts = if status >= 500 { 3 } else { 1 };
        assert_eq!(error.attempts().len(), attempts, "{text}");
    }
}

#[test]
fn an_unreachable_proxy_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = format!("127.0.0.1:{}", free_port());
    let service = quick(dir.path()).tries(1).proxy(format!("http://{proxy}")).build().unwrap();
    let error = service.pull("r.example/library/app:v1").unwrap_err();
    assert_eq!((error.kind(), error.host()), (ErrorKind::ConnectionFailed, Some(&*proxy)), "{error}");
    assert!(error.to_string().contains("the proxy"), "{error}");
}

#[test]
fn the_head_of_a_response_has_the_limit_of_its_kind() {
    let (registry, image) = (Registry::start().unwrap(), image());
    let name = registry.push(&image, "v1");
    let slow = Duration::from_millis(700);
    registry.fault(Fault::on(Target::Blob).with(Action::Delay(slow)));
    let ms = Duration::from_millis;
    for (blobs, manifests, is_ok) in [
        (Duration::MAX, Some(ms(300)), true),
        (ms(20_000), Some(ms(300)), true),
        (ms(100), Some(ms(20_000)), false),
        (ms(100), None, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // A body may not be silent for as long as a head.
        let mut builder = quick(dir.path()).silence_timeout(ms(400)).response_timeout(blobs).tries(2);
        if let Some(manifests) = manifests {
            builder = builder.manifest_response_timeout(manifests);
        }
        let outcome = builder.build().unwrap().pull(&*name);
        assert_eq!(outcome.is_ok(), is_ok, "{blobs:?}, {manifests:?}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::Timeout, 2), "{error}");
        }
    }
}

/// A server that sends `head`, and then `again` for ever, as fast as it is taken or once each `pause`.
fn endless(head: &'static [u8], again: &'static [u8], pause: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let lines = BufReader::new(&client).lines().map_while(Result::ok);
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let mut sent = (&client).write_all(head);
                while sent.is_ok() {
                    if let Some(pause) = pause {
                        thread::sleep(pause);
                    }
                    sent = (&client).write_all(again);
                }
            });
        }
    });
    address
}

#[test]
fn no_part_of_a_reply_is_endless() {
    const CHUNK: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let drip = Some(Duration::from_millis(50));
    type Case = (&'static str, &'static [u8], &'static [u8], Option<Duration>);
    let cases: [Case; 10] = [
        ("trailers", CHUNK, b"x: y\r\n", None),
        ("trailers that drip", CHUNK, b"x: y\r\n", drip),
        ("one trailer", CHUNK, b"xxxxxxxxxxxxxxxxxxxxx", None),
        ("1xx replies", b"", b"HTTP/1.1 102 Processing\r\n\r\n", None),
        ("headers", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", None),
        ("headers that drip", b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", drip),
        ("one header", b"HTTP/1.1 200 OK\r\nx: ", b"yyyyyyyyyyyyyyyyy", None),
        ("a chunk's extension", CHUNKED, b"1;xxxxxxxxxxxxxxxxxxxx", None),
        ("a chunk's size that drips", CHUNKED, b"0", drip),
        ("a body that drips", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x", drip),
    ];
    for (what, head, again, pause) in cases {
        let address = endless(head, again, pause);
        let dir = tempfile::tempdir().unwrap();
        // The head itself may take as long as it likes.
        let service = quick(dir.path()).tries(1).response_timeout(Duration::MAX);
        let service = service.slowest(10_000, Duration::from_millis(600)).build().unwrap();
        let began = Instant::now();
        let error = service.pull(format!("{address}/library/app:v1")).unwrap_err();
        let kinds = [ErrorKind::Protocol, ErrorKind::Timeout, ErrorKind::ConnectionFailed];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn slow_bodies_of_redirects_are_not_read() {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(), "v1");
    let redirect = Action::Redirect("{path}".to_owned());
    let body = Action::Body(vec![b'x'; 10_000]);
    let drip = Action::Drip { bytes: 1, every: Duration::from_millis(100) };
    registry.fault(Fault::on(Target::Manifest).times(3).with(redirect).with(body).with(drip));
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    quick(dir.path()).build().unwrap().pull(&*name).unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn a_redirect_leads_inward_only_from_inside_or_where_that_is_allowed() {
    let (registry, cdn, image) = (Registry::start().unwrap(), Registry::start().unwrap(), image());
    registry.push(&image, "v1");
    cdn.put_file("/cdn", image.layers()[0].data.clone());
    let layer = || Fault::on(Target::Blob).path_containing(image.layers()[0].digest.as_str());
    let (port, cdn_port) = (registry.addr().port(), cdn.addr().port());
    let host = format!("r.example:{port}");
    // By the name, the registry is on this machine, and so may name it; behind a proxy that is not known.
    let proxy = Proxy::start(None);
    for (location, allowed, by_proxy, is_ok) in [
        (format!("http://127.0.0.1:{cdn_port}/cdn"), None, false, true),
        (format!("http://other.example:{cdn_port}/cdn"), None, false, true),
        (format!("http://169.254.169.254:{cdn_port}/cdn"), None, false, false),
        (format!("http://127.0.0.1:{cdn_port}/cdn"), None, true, false),
        (format!("http://0x7f.1:{cdn_port}/cdn"), None, true, false),
        (format!("http://localhost:{cdn_port}/cdn"), None, true, false),
        (format!("http://127.0.0.1:{cdn_port}/cdn"), Some(format!("127.0.0.1:{cdn_port}")), true, true),
        (format!("http://127.0.0.1:{cdn_port}/cdn"), Some("127.0.0.1".to_owned()), true, true),
        (format!("http://127.0.0.1:{cdn_port}/cdn"), Some("127.0.0.1:1".to_owned()), true, false),
    ] {
        registry.clear_faults();
        registry.fault(layer().with(Action::Redirect(location.clone())));
        let dir = tempfile::tempdir().unwrap();
        let mut builder = quick(dir.path()).plain_http(&host).resolver(resolver(&["127.0.0.1"])).tries(1);
        if by_proxy {
            builder = builder.proxy(format!("http://{}", proxy.address));
        }
        if let Some(allowed) = allowed {
            builder = builder.allow_redirects_to(allowed);
        }
        let outcome = builder.build().unwrap().pull(format!("{host}/library/app:v1"));
        assert_eq!(outcome.is_ok(), is_ok, "{location}, by proxy: {by_proxy}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{error}");
        }
    }
}

#[test]
fn a_token_server_inside_this_machine_is_asked_only_where_that_is_allowed() {
    let (registry, tokens) = (Registry::start().unwrap(), Registry::start().unwrap());
    registry.push(&image(), "v1");
    let port = tokens.addr().port();
    let server = TokenServer::new().anonymous().realm(format!("http://127.0.0.1:{port}/token"));
    registry.require_token(&server);
    tokens.require_token(&server);
    // Behind a proxy it is not known that the registry is on this machine.
    let (proxy, host) = (Proxy::start(None), format!("r.example:{}", registry.addr().port()));
    for (allowed, is_ok) in [
        (None, false),
        (Some("other.example".to_owned()), false),
        (Some("127.0.0.1:1".to_owned()), false),
        (Some(format!("127.0.0.1:{port}")), true),
        (Some("127.0.0.1".to_owned()), true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = quick(dir.path()).plain_http(&host).proxy(format!("http://{}", proxy.address));
        if let Some(allowed) = &allowed {
            builder = builder.allow_redirects_to(allowed);
        }
        let outcome = builder.build().unwrap().pull(format!("{host}/library/app:v1"));
        assert_eq!(outcome.is_ok(), is_ok, "{allowed:?}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{error}");
            assert!(error.to_string().contains("--allow-redirects-to"), "{error}");
        }
    }
}

#[test]
fn a_name_is_judged_by_the_address_that_is_connected_to() {
    let (registry, image) = (Registry::start().unwrap(), image());
    registry.push(&image, "v1");
    let layer = Fault::on(Target::Blob).path_containing(image.layers()[0].digest.as_str());
    registry.fault(layer.with(Action::Redirect("http://metadata.example/latest".to_owned())));
    let host = format!("127.0.0.1:{}", registry.addr().port());
    for address in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254"] {
        let resolver = resolver(&[address]);
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).resolver(Arc::clone(&resolver)).build().unwrap();
        let error = service.pull(format!("{host}/library/app:v1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{address}: {error}");
        assert_eq!((error.host(), error.attempts().len()), (Some("metadata.example"), 1), "{error}");
    }
}

#[test]
fn a_reset_in_the_middle_of_an_answer_is_no_idle_connection() {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(), "v1");
    let reset = registry.fault(Fault::on(Target::Blob).with(Action::Reset(Stage::InHead)));
    let dir = tempfile::tempdir().unwrap();
    let error = quick(dir.path()).tries(2).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionFailed, "{error}");
    assert!(reset.fired() <= 4, "{} requests", reset.fired());
}

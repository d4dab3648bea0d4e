//! Registries, proxies and credentials that do not let an image be pulled.

use oci_puller::testing::{Action, Stage, Target};

use super::{Case, case, faulty};

pub(super) const CASES: &[Case] = &[
    Case {
        needs_user: true,
        files: &[("auth.json", "{\"auths\"")],
        ..case(
            "pull --auth-file {dir}/auth.json {host}/app",
            1,
            "error: {host}/app: credentials from {host}: invalid configuration: {dir}/auth.json: not JSON, at line 1 column 8",
        )
    },
    case(
        "pull --username me --password-stdin {host}/app",
        1,
        "error: --password-stdin: standard input is empty",
    ),
    case(
        "pull --max-image-size 1kB {host}/app",
        1,
        "error: {host}/app: manifest: invalid manifest: the image has 22.2 kB, and at most 1.0 kB are allowed",
    ),
    case(
        "pull --platform linux/s390x {host}/app",
        1,
        "error: {host}/app: manifest: no matching platform: nothing for linux/s390x; there is linux/amd64, linux/arm64; ask for one of the platforms that the image has",
    ),
    case(
        "pull --pull never {host}/app",
        1,
        "error: {host}/app: not found: it is not in the store, and --pull never asks no registry; use --pull missing",
    ),
    case(
        "pull {host}/missing",
        1,
        "error: {host}/missing: manifest from {host}: not found: status 404 Not Found: MANIFEST_UNKNOWN; check the name and the tag, and that the image was pushed",
    ),
    case(
        "pull {host}/app:missing",
        1,
        "error: {host}/app:missing: manifest from {host}: not found: status 404 Not Found: MANIFEST_UNKNOWN; check the name and the tag, and that the image was pushed",
    ),
    case(
        "pull --retries 0 {other}/app",
        3,
        "error: {other}/app: manifest from {other}: connection failed: Connection refused (os error 111); check that the host runs and can be reached from here",
    ),
    case(
        "pull --retries 0 {other}/app --pull if-possible",
        3,
        "error: {other}/app: manifest from {other}: connection failed: Connection refused (os error 111); check that the host runs and can be reached from here",
    ),
    case(
        "pull --retries 0 --tls {host} {host}/app",
        1,
        "error: {host}/app: manifest from {host}: TLS failed: the server does not speak TLS, perhaps plain HTTP: it was asked by HTTPS; check the host's certificate; add its CA, or allow plain HTTP for this host if that is meant",
    ),
    faulty(
        "pull {host}/app",
        Target::Manifest,
        || Action::Status(401),
        1,
        "error: {host}/app: manifest from {host}: unauthorized: status 401 Unauthorized: UNAUTHORIZED; the host asks for a kind of authentication that is not supported (tried: no credentials); log in with docker login {host} or podman login {host}, or give --username and --password-stdin",
    ),
    faulty(
        "pull {host}/app",
        Target::Manifest,
        || Action::Status(403),
        1,
        "error: {host}/app: manifest from {host}: denied: status 403 Forbidden: DENIED (tried: no credentials); check that this account may pull the image",
    ),
    faulty(
        "pull {host}/app",
        Target::Blob,
        || Action::Status(404),
        1,
        "error: {host}/app: layer from {host}: not found: {layer}: status 404 Not Found: NOT_FOUND; a part of the image is missing there; push the image again",
    ),
    faulty(
        "pull --retries 0 {host}/app",
        Target::Manifest,
        || Action::Status(429),
        3,
        "error: {host}/app: manifest from {host}: rate limited: status 429 Too Many Requests: TOOMANYREQUESTS; wait, pull with an account, or use a mirror",
    ),
    faulty(
        "pull --retries 0 {host}/app",
        Target::Blob,
        || Action::Status(503),
        3,
        r#"error: {host}/app: layer from {host}: unavailable: status 503 Service Unavailable: UNAVAILABLE; try again later, or use a mirror"#,
    ),
    faulty(
        "pull {host}/app",
        Target::Manifest,
        || Action::Body(b"<html><title>Log in</title>".to_vec()),
        1,
        r#"error: {host}/app: manifest from {host}: protocol error: HTML came where JSON was due: a page with the title "Log in", perhaps of a firewall, a proxy or a login page"#,
    ),
    faulty(
        "pull {host}/app",
        Target::Manifest,
        || Action::Body(b"{}".to_vec()),
        1,
        "error: {host}/app: manifest from {host}: invalid manifest: schemaVersion: is missing",
    ),
    faulty(
        "pull --retries 0 {host}/app",
        Target::Blob,
        || Action::Corrupt(600),
        3,
        r#"error: {host}/app: layer from {host}: digest mismatch: the bytes of {layer} hash to {digest}; the bytes were damaged on the way or at the source; nothing was stored"#,
    ),
    faulty(
        "pull --retries 0 --deadline 2s {host}/app",
        Target::Blob,
        || Action::Hold(Stage::BeforeHead),
        3,
        "error: {host}/app: layer from {host}: timed out: the pull's deadline passed; check the network, or allow more time",
    ),
    faulty(
        "pull --retries 0 --deadline 2s {host}/app",
        Target::Manifest,
        || Action::Hold(Stage::BeforeHead),
        3,
        "error: {host}/app: manifest from {host}: timed out: the pull's deadline passed; check the network, or allow more time",
    ),
    faulty(
        "pull --retries 0 --response-timeout 2s {host}/app",
        Target::Blob,
        || Action::Hold(Stage::BeforeHead),
        3,
        r#"error: {host}/app: layer from {host}: timed out: the server did not answer in time: not within 2s; check the network, or allow more time"#,
    ),
    Case {
        needs_user: true,
        ..case(
            "pull {host}/app",
            1,
            "error: {host}/app: manifest from {host}: unauthorized: status 401 Unauthorized: UNAUTHORIZED (tried: no credentials); log in with docker login {host} or podman login {host}, or give --username and --password-stdin",
        )
    },
    Case {
        needs_user: true,
        files: &[("home/.docker/config.json", r#"{"auths": {"{host}": {"auth": "bWU6d3Jvbmc="}}}"#)],
        ..case(
            "pull {host}/app",
            1,
            r#"error: {host}/app: manifest from {host}: unauthorized: status 401 Unauthorized: UNAUTHORIZED (tried: {dir}/home/.docker/config.json, user "me"); log in with docker login {host} or podman login {host}, or give --username and --password-stdin"#,
        )
    },
    Case {
        needs_user: true,
        files: &[("home/.docker/config.json", r#"{"credHelpers": {"{host}": "absent"}}"#)],
        ..case(
            "pull {host}/app",
            1,
            "error: {host}/app: manifest from {host}: unauthorized: status 401 Unauthorized: UNAUTHORIZED (tried: credential helper absent: docker-credential-absent cannot be run: No such file or directory (os error 2)); log in with docker login {host} or podman login {host}, or give --username and --password-stdin",
        )
    },
    Case {
        variables: &[("HTTP_PROXY", "http://{other}"), ("NO_PROXY", "")],
        ..case(
            "pull --retries 0 --plain-http registry.invalid registry.invalid/app",
            3,
            "error: registry.invalid/app: manifest from {other}: connection failed: the proxy {other}: Connection refused (os error 111); check the proxy that HTTPS_PROXY or HTTP_PROXY names; NO_PROXY excepts hosts",
        )
    },
    Case {
        variables: &[("HTTPS_PROXY", "socks5://127.0.0.1:1")],
        ..case(
            "pull registry.invalid/app",
            1,
            r#"error: invalid configuration: HTTPS_PROXY: a proxy of the scheme "socks5" cannot be used; http and https can"#,
        )
    },
    case(
        "tags {host}/missing",
        1,
        "error: {host}/missing: tags from {host}: not found: status 404 Not Found: NAME_UNKNOWN; check the name of the repository",
    ),
    case(
        "digest {host}/missing",
        1,
        "error: {host}/missing: manifest from {host}: not found: status 404 Not Found: MANIFEST_UNKNOWN; check the name and the tag, and that the image was pushed",
    ),
];

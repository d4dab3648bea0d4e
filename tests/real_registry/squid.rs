//! Squid as the proxy, by the variables of the environment as the command reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oci_puller::ErrorKind;
use oci_puller::image::Platform;
use oci_puller::registry::RegistryImageServiceBuilder;
use tempfile::TempDir;

use crate::access::registry_with_tls;
use crate::images::{Layout, assert_identical};
use crate::real::{DockerRegistry, Server, program};
use crate::tls::{PrivateCa, ServerCertificate};
use crate::{Test, service_with};

pub const TESTS: &[Test] = &[
    ("squid_forwards_plain_http_and_tunnels_tls", TOOLS, forwards_and_tunnels),
    ("squid_asks_for_a_password_and_is_told_it", TOOLS, asks_for_a_password),
    ("squid_forbids_and_is_named", TOOLS, forbids),
    ("squid_is_reached_by_tls", TOOLS, reached_by_tls),
    ("the_command_follows_the_environment", TOOLS, the_command_follows_the_environment),
];

const TOOLS: &[&str] = &["squid", "docker-registry", "skopeo", "umoci"];

/// A squid for one test, which resolves no names.
struct Squid {
    server: Server,
    port: u16,
    folder: TempDir,
}

impl Squid {
    /// Starts squid with `rules` before the one that allows all.
    fn start(rules: &str) -> Self {
        Squid::start_on("http_port", "", rules)
    }

    /// Starts squid with a directive for its port, and the options of that.
    fn start_on(directive: &str, options: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Squid gives up root's rights, and writes here.
        let dir = folder.path();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let config = format!(
            "{rules}\nhttp_access allow all\ncache deny all\n\
             pid_filename {dir}/pid\ncoredump_dir {dir}\naccess_log stdio:{dir}/access.log\n\
             cache_log /dev/null\nshutdown_lifetime 0 seconds\nvisible_hostname squid.test\n",
            dir = dir.display()
        );
        let kind = if directive == "https_port" { "HTTPS" } else { "HTTP" };
        let ready = format!("Accepting {kind} Socket connections");
        let (server, port) = Server::start_on_free_port(&ready, |port| {
            let config = format!("{directive} 127.0.0.1:{port} {options}\n{config}");
            fs::write(dir.join("squid.conf"), config).unwrap();
            let mut command = program("squid");
            command.args(["-N", "-d", "1", "-f"]).arg(dir.join("squid.conf"));
            command
        });
        Squid { server, port, folder }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

fn forwards_and_tunnels() {
    let (squid, registry) = (Squid::start(""), DockerRegistry::start());
    let name = Layout::by_umoci().push(&registry, "app:v1", &[]);
    let (_store, service) = service_with(|builder| builder.proxy(squid.url()));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("app", "v1"), &Platform::host().architecture, &pulled);
    let whole_url = format!("GET http://{}/v2/app/manifests/v1", registry.host());
    assert!(squid.log().contains(&whole_url), "{}", squid.log());
    assert!(!squid.log().contains("CONNECT"), "{}", squid.log());

    let (_folder, registry, name, authority) = registry_with_tls();
    let told = fs::read(authority).unwrap();
    let (_store, service) =
        service_with(|builder| builder.proxy(squid.url()).tls(registry.host()).ca_certificate(told));
    service.pull(&*name).unwrap();
    drop(service);
    assert!(registry.requests_of_ours().iter().any(|line| line.contains("/v2/app/manifests/v1")));
}

fn asks_for_a_password() {
    let helper = PathBuf::from("/usr/lib/squid/basic_fake_auth");
    let helper = if helper.is_file() { helper } else { "/usr/libexec/squid/basic_fake_auth".into() };
    let squid = Squid::start(&format!(
        "auth_param basic program {}\nacl known proxy_auth ann\nhttp_access deny !known",
        helper.display()
    ));
    let registry = DockerRegistry::start();
    let name = Layout::by_umoci().push(&registry, "app:v1", &[]);
    for (user, is_let_in) in [("ann:p%40ss@", true), ("bob:p@", false), ("", false)] {
        let url = format!("http://{user}127.0.0.1:{}", squid.port);
        let (_store, service) = service_with(|builder| builder.proxy(url));
        let outcome = service.pull(&*name);
        assert_eq!(outcome.is_ok(), is_let_in, "{user}: {outcome:?}");
        if let Err(error) = outcome {
            let text = error.to_string();
            assert!(text.contains("the proxy") && text.contains("407 Proxy Authentication"), "{text}");
            assert_eq!((error.is_retryable(), error.attempts().len()), (false, 1), "{text}");
        }
    }
}

fn forbids() {
    let squid = Squid::start("acl secret dstdomain .secret.test\nhttp_access deny secret");
    for (image, is_plain, words, is_retryable) in [
        ("r.secret.test/app:v1", true, "403 Forbidden", false),
        ("r.secret.test/app:v1", false, "403 Forbidden", false),
        // Nothing listens there.
        ("127.0.0.1:9/app:v1", true, "503 Service Unavailable", true),
        ("127.0.0.1:9/app:v1", false, "503 Service Unavailable", true),
    ] {
        let (_store, service) = service_with(|builder| {
            let builder = builder.proxy(squid.url()).tries(1);
            let host = image.split('/').next().unwrap();
            if is_plain { builder.plain_http(host) } else { builder.tls(host) }
        });
        let error = service.pull(image).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the proxy") && text.contains(words), "{image}, {is_plain}: {text}");
        assert_eq!(error.host(), Some(&*format!("127.0.0.1:{}", squid.port)), "{text}");
        assert_eq!(error.is_retryable(), is_retryable, "{text}");
    }
    assert!(squid.server.lines_with(&["FATAL"]).is_empty());
}

fn reached_by_tls() {
    let authority = PrivateCa::new();
    let identity = authority.server_identity(ServerCertificate::Good);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (certificate, key) = (folder.path().join("proxy.pem"), folder.path().join("proxy-key.pem"));
    fs::write(&certificate, identity.certificate_pem).unwrap();
    fs::write(&key, identity.key_pem).unwrap();
    let options = format!("tls-cert={} tls-key={}", certificate.display(), key.display());
    let squid = Squid::start_on("https_port", &options, "");
    let url = format!("https://127.0.0.1:{}", squid.port);

    // Plain HTTP by its whole URL, and TLS in TLS.
    let registry = DockerRegistry::start();
    let name = Layout::by_umoci().push(&registry, "app:v1", &[]);
    let (_store, service) = service_with(|builder| builder.proxy(&*url).ca_certificate(authority.pem()));
    service.pull(&*name).unwrap();
    let whole_url = format!("GET http://{}/v2/app/manifests/v1", registry.host());
    assert!(squid.log().contains(&whole_url), "{}", squid.log());
    let (_folder, registry, name, other_authority) = registry_with_tls();
    let trusted = [authority.pem().into_bytes(), fs::read(other_authority).unwrap()].concat();
    let with_tls = |builder: RegistryImageServiceBuilder| {
        builder.proxy(&*url).tls(registry.host()).ca_certificate(trusted.clone())
    };
    let (_store, service) = service_with(with_tls);
    service.pull(&*name).unwrap();
    // Squid logs a tunnel only when it ends.
    assert!(registry.requests_of_ours().iter().any(|line| line.contains("/v2/app/manifests/v1")));

    // The proxy's certificate is verified, also for a registry whose own is not.
    for builder_of in [
        |builder: RegistryImageServiceBuilder| builder.tls("r.test"),
        |builder: RegistryImageServiceBuilder| builder.insecure_skip_verify("r.test"),
        |builder: RegistryImageServiceBuilder| builder.plain_http("r.test"),
    ] {
        let (_store, service) = service_with(|builder| builder_of(builder).proxy(&*url));
        let error = service.pull("r.test/app:v1").unwrap_err();
        let text = error.to_string();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tls, false), "{text}");
        assert!(text.contains("the proxy") && text.contains("UnknownIssuer"), "{text}");
    }
    // A proxy without TLS.
    let plain = Squid::start("");
    let url = format!("https://127.0.0.1:{}", plain.port);
    let (_store, service) = service_with(|builder| builder.proxy(url).plain_http("r.test"));
    let error = service.pull("r.test/app:v1").unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

/// Runs the command, if it was built, with only `variables` in its environment.
fn pull(store: &Path, name: &str, variables: &[(&str, &str)]) -> Option<Output> {
    let command = option_env!("CARGO_BIN_EXE_oci-puller")?;
    let mut command = Command::new(command);
    command.env_clear().env("HOME", store).envs(variables.iter().copied());
    command.args(["pull", "--retries=0", "--store"]).arg(store.join("store")).arg(name);
    Some(command.output().unwrap())
}

fn the_command_follows_the_environment() {
    let (squid, registry) = (Squid::start(""), DockerRegistry::start());
    let name = Layout::by_umoci().push(&registry, "app:v1", &[]);
    let (url, nowhere) = (squid.url(), "http://127.0.0.1:9");
    for (variables, code, words) in [
        // Loopback hosts are asked directly, also with a proxy.
        (&[("HTTP_PROXY", nowhere), ("HTTPS_PROXY", nowhere)][..], 0, "done"),
        (&[("ALL_PROXY", nowhere)], 0, "done"),
        (&[("http_proxy", "socks5://127.0.0.1:1080")], 1, "http_proxy"),
        (&[("HTTPS_PROXY", "garbage://")], 1, "HTTPS_PROXY"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(output) = pull(folder.path(), &name, variables) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {said}");
        assert!(said.contains(words), "{variables:?}: {said}");
    }
    assert_eq!(squid.log(), "");
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = "r.absent.test/app:v1";
    for (variables, words) in [
        (&[("HTTPS_PROXY", &*url)][..], "the proxy"),
        (&[("all_proxy", &*url)], "the proxy"),
        (&[("HTTP_PROXY", &*url)], "HostNotFound"),
        (&[("HTTPS_PROXY", &*url), ("NO_PROXY", "x.test, .absent.test")], "HostNotFound"),
    ] {
        let Some(output) = pull(folder.path(), elsewhere, variables) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_by_proxy = said.contains("the proxy");
        assert_eq!(is_by_proxy, words == "the proxy", "{variables:?}: {said}");
    }
}

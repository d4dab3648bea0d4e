use oci_puller::testing::Registry;

use crate::bench::{Bench, Ran, image, registry_with};
use crate::tls::{PrivateCa, ServerCertificate};

/// What `docker login` writes, for user `me` with password `secret`.
fn config_for(host: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#)
}

#[test]
fn credentials_come_from_files_that_are_named_or_usual() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.require_basic("me", "secret");
    let file = bench.file("config/config.json", config_for(&registry.host()));

    let ran = bench.run(["pull", &name]).exits(1);
    assert!(ran.errors()[0].contains("unauthorized"), "{ran:#?}");
    bench.run(["pull", "--auth-file", &file, &name]).exits(0);
    bench.run(["pull", "--registry-config", &file, &name]).exits(0);
    for (variable, value) in [("DOCKER_CONFIG", bench.path("config")), ("REGISTRY_AUTH_FILE", file.into())] {
        Ran::of(bench.command(["pull", &name]).env(variable, value)).exits(0);
    }
    bench.file("home/.docker/config.json", config_for(&registry.host()));
    bench.run(["pull", &name]).exits(0);
}

#[test]
fn a_file_that_is_named_is_used_instead_of_the_usual_ones() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.require_basic("me", "secret");
    bench.file("home/.docker/config.json", config_for(&registry.host()));
    let other = bench.file("other.json", config_for("elsewhere.example.com"));
    bench.run(["pull", "--auth-file", &other, &name]).exits(1);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_its_secrets_are_not() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.require_basic("me", "secret");
    let broken = bench.file("broken.json", r#"{"auths": {"x": {"auth": "bWU6c2VjcmV0"}}"#);
    for (file, code) in [(broken.as_str(), 1), ("/no/such/file.json", 2)] {
        let ran = bench.run(["pull", "--auth-file", file, &name]).exits(code);
        assert!(ran.errors()[0].contains(file), "{ran:#?}");
        assert!(!ran.stderr.contains("bWU6c2VjcmV0"), "{ran:#?}");
    }
}

#[test]
fn a_private_authority_is_trusted_once_it_is_named() {
    let (bench, authority) = (Bench::new(), PrivateCa::new());
    let registry = Registry::builder().acceptor(authority.acceptor(ServerCertificate::Good)).start().unwrap();
    let name = registry.push(&image("app"), "1");
    let hosts = format!("server = \"{}\"\n", registry.url());
    bench.file(&format!("hosts/{}/hosts.toml", registry.host()), hosts);
    let (hosts_dir, ca) = (bench.path("hosts"), bench.file("ca.pem", authority.pem()));
    let args = ["pull", "--retries=0", "--hosts-dir", hosts_dir.to_str().unwrap(), &name];

    let ran = bench.run(args).exits(1);
    assert!(ran.errors()[0].contains("TLS failed"), "{ran:#?}");
    bench.run(args.into_iter().chain(["--ca", &ca])).exits(0);
}

#[test]
fn what_the_system_trusts_is_trusted_unless_other_authorities_are_named() {
    let (bench, authority, stranger) = (Bench::new(), PrivateCa::new(), PrivateCa::new());
    let registry = Registry::builder().acceptor(authority.acceptor(ServerCertificate::Good)).start().unwrap();
    let name = registry.push(&image("app"), "1");
    let hosts = format!("server = \"{}\"\n", registry.url());
    bench.file(&format!("hosts/{}/hosts.toml", registry.host()), hosts);
    let hosts_dir = bench.path("hosts").to_str().unwrap().to_owned();
    let args = ["pull", "--retries=0", "--hosts-dir", &hosts_dir, &name];
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let bundle = bench.file("bundle.pem", format!("{broken}{}", authority.pem()));
    bench.file("folder/5ed36f99.0", authority.pem());
    let folder = bench.path("folder").to_str().unwrap().to_owned();
    let other = bench.file("other.pem", stranger.pem());

    for (variable, value, code) in
        [("SSL_CERT_FILE", &bundle, 0), ("SSL_CERT_DIR", &folder, 0), ("SSL_CERT_FILE", &other, 1)]
    {
        Ran::of(bench.command(args).env(variable, value)).exits(code);
    }
    let named = ["pull", "--retries=0", "--hosts-dir", &hosts_dir, "--ca", &other, &name];
    // With that feature the library asks the system by itself.
    let code = if cfg!(feature = "platform-verifier") { 0 } else { 1 };
    Ran::of(bench.command(named).env("SSL_CERT_FILE", &bundle)).exits(code);
}

#[test]
fn a_password_comes_from_standard_input() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.require_basic("me", "secret");
    bench.file("home/.docker/config.json", config_for("elsewhere.example.com"));
    let args = ["pull", "--username", "me", "--password-stdin", &name];
    for (input, code) in [("secret", 0), ("secret\n", 0), ("secret\r\n", 0), ("wrong\n", 1)] {
        bench.run_with_input(args, input).exits(code);
    }
    for (input, told) in [("", "standard input is empty"), ("a\nb\n", "more than one line")] {
        let ran = bench.run_with_input(args, input).exits(1);
        assert!(ran.errors()[0].contains(told), "{ran:#?}");
    }
    let long = "x".repeat(70_000);
    let ran = bench.run_with_input(args, &long).exits(1);
    assert!(ran.errors()[0].contains("64 KiB") && !ran.stderr.contains("xxx"), "{ran:#?}");
    assert!(bench.run(["pull", "-u", "me", &name]).exits(2).stderr.contains("--password-stdin"));
    assert!(bench.run(["pull", "--password-stdin", &name]).exits(2).stderr.contains("--username"));
}

#[test]
fn a_loopback_host_is_asked_with_tls_on_demand_and_its_certificate_can_be_believed_unseen() {
    let (bench, authority) = (Bench::new(), PrivateCa::new());
    let acceptor = authority.acceptor(ServerCertificate::SelfSigned);
    let registry = Registry::builder().acceptor(acceptor).start().unwrap();
    let (name, host) = (registry.push(&image("app"), "1"), registry.host());
    let args = ["pull", "--retries=0", "--tls", &host, &name];
    assert!(bench.run(args).exits(1).errors()[0].contains("TLS failed"));
    bench.run(args.into_iter().chain(["--insecure-skip-verify", "r.example.com"])).exits(1);
    bench.run(args.into_iter().chain(["--insecure-skip-verify", &host])).exits(0);
}

#[test]
fn a_certificate_is_shown_to_hosts_that_ask_for_one() {
    let (bench, authority) = (Bench::new(), PrivateCa::new());
    let registry = Registry::builder().acceptor(authority.acceptor_for_known_clients()).start().unwrap();
    let (name, host) = (registry.push(&image("app"), "1"), registry.host());
    let (ca, client) = (bench.file("ca.pem", authority.pem()), authority.client_identity());
    let cert = bench.file("client.pem", &client.certificate_pem);
    let key = bench.file("client.key", &client.key_pem);
    let both = bench.file("both.pem", format!("{}{}", client.certificate_pem, client.key_pem));
    let args = ["pull", "--retries=0", "--tls", &host, "--ca", &ca, &name];
    bench.run(args).exits(1);
    bench.run(args.into_iter().chain(["--cert", &cert, "--key", &key])).exits(0);
    bench.run(args.into_iter().chain(["--cert", &both])).exits(0);
    assert!(bench.run(args.into_iter().chain(["--key", &key])).exits(2).stderr.contains("--cert"));
}

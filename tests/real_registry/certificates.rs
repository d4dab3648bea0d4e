//! Certificates made by openssl, at CNCF's registry, compared with skopeo's verdict.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::images::Layout;
use crate::real::{DockerRegistry, run};
use crate::{Test, service_with};

pub const TESTS: &[Test] =
    &[("certificates_of_each_sort_are_believed_where_skopeo_believes_them", TOOLS, each_sort)];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci", "openssl"];

/// The key of a certificate, and how it is made: arguments of `openssl req -x509` that make a server's own
/// certificate, or a signing authority with a server's certificate below it.
struct Sort {
    name: &'static str,
    key: &'static [&'static str],
    /// The server shows a certificate that this one has signed.
    is_signed: bool,
    /// It can be verified without the feature `ecdsa`.
    is_common: bool,
}

const SORTS: &[Sort] = &[
    // Docker's instructions: https://distribution.github.io/distribution/about/insecure/
    Sort { name: "Docker's recipe", key: &["rsa:2048"], is_signed: false, is_common: true },
    Sort { name: "an RSA authority", key: &["rsa:3072"], is_signed: true, is_common: true },
    Sort { name: "P-256, by itself", key: &["ec", "prime256v1"], is_signed: false, is_common: true },
    Sort {
        name: "a P-384 authority with SHA-512",
        key: &["ec", "secp384r1"],
        is_signed: true,
        is_common: false,
    },
    Sort {
        name: "a P-256 authority with SHA-512",
        key: &["ec", "prime256v1"],
        is_signed: true,
        is_common: false,
    },
    Sort { name: "P-384, by itself", key: &["ec", "secp384r1"], is_signed: false, is_common: true },
    Sort { name: "P-521, by itself", key: &["ec", "secp521r1"], is_signed: false, is_common: false },
    Sort { name: "a P-521 authority", key: &["ec", "secp521r1"], is_signed: true, is_common: false },
    Sort { name: "Ed25519, by itself", key: &["ed25519"], is_signed: false, is_common: true },
];

fn each_sort() {
    for sort in SORTS {
        let folder = tempfile::tempdir().unwrap();
        let trusted = make(sort, &folder);
        let file = |name: &str| folder.path().join(name);
        let tls =
            json!({ "http": { "tls": { "certificate": file("server.crt"), "key": file("server.key") } } });
        let registry = DockerRegistry::start_with(tls);
        let cert_dir = trusted.parent().unwrap().to_str().unwrap();
        let name = Layout::by_umoci().push(&registry, "app:v1", &["--dest-cert-dir", cert_dir]);
        let (_store, service) =
            service_with(|builder| builder.tls(registry.host()).ca_certificate(fs::read(&trusted).unwrap()));
        let pulled = service.pull(&*name);
        let is_expected = sort.is_common || cfg!(feature = "ecdsa");
        assert_eq!(pulled.is_ok(), is_expected, "{}: {pulled:?}", sort.name);
    }
}

/// Makes `server.crt` and `server.key`, and returns the file to be trusted, which is alone in its folder.
fn make(sort: &Sort, folder: &TempDir) -> std::path::PathBuf {
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(folder.path().join("trusted")).unwrap();
    let trusted = path("trusted/ca.crt");
    let own_key = if sort.is_signed { path("ca.key") } else { path("server.key") };
    self_signed(sort.key, &own_key, &trusted);
    if !sort.is_signed {
        fs::copy(&trusted, path("server.crt")).unwrap();
        return trusted.into();
    }
    let (request, extensions) = (path("server.csr"), path("extensions"));
    fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
    generate(sort.key, &path("server.key"));
    run("openssl", ["req", "-new", "-key", &path("server.key"), "-subj", "/CN=r", "-out", &request]);
    run(
        "openssl",
        [
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &trusted,
            "-CAkey",
            &own_key,
            "-CAcreateserial",
            "-days",
            "10",
            "-sha512",
            "-extfile",
            &extensions,
            "-out",
            &path("server.crt"),
        ],
    );
    Path::new(&trusted).to_owned()
}

fn generate(key: &[&str], to: &str) {
    match key {
        ["ec", curve] => {
            run("openssl", ["ecparam", "-name", curve, "-genkey", "-noout", "-out", to]);
        }
        [rsa] if rsa.starts_with("rsa:") => {
            let bits = format!("rsa_keygen_bits:{}", &rsa[4..]);
            run("openssl", ["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits, "-out", to]);
        }
        [other] => {
            run("openssl", ["genpkey", "-algorithm", other, "-out", to]);
        }
        _ => panic!("no key {key:?}"),
    }
}

fn self_signed(key: &[&str], key_file: &str, to: &str) {
    generate(key, key_file);
    let name = "subjectAltName = IP:127.0.0.1";
    run(
        "openssl",
        ["req", "-x509", "-key", key_file, "-days", "10", "-subj", "/CN=r", "-addext", name, "-out", to],
    );
}

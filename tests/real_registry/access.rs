//! Registries that require credentials, with certificates of a private authority.

use std::fs;
use std::path::PathBuf;

use oci_puller::credentials::Credential;
use oci_puller::image::Platform;
use oci_puller::{PullContext, PullRequest, PullSecret};
use serde_json::json;
use tempfile::TempDir;

use crate::images::{Layout, assert_identical};
use crate::real::DockerRegistry;
use crate::tls::{PrivateCa, ServerCertificate};
use crate::{Test, service_with};

pub const TESTS: &[Test] = &[
    ("users_of_an_htpasswd_file_are_let_in", TOOLS, users_of_an_htpasswd_file),
    ("a_private_authority_is_trusted_by_who_was_told", TOOLS, a_private_authority),
];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

/// A user's password as bcrypt has it.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";
pub const PASSWORD: &str = "open sesame";

/// A registry that knows alice, and an image that she pushed.
pub fn registry_of_alice() -> (TempDir, DockerRegistry, String) {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("htpasswd");
    fs::write(&users, HTPASSWD).unwrap();
    let auth = json!({ "auth": { "htpasswd": { "realm": "a test", "path": users } } });
    let registry = DockerRegistry::start_with(auth);
    let credentials = format!("alice:{PASSWORD}");
    let name = Layout::by_umoci().push(&registry, "app:v1", &["--dest-creds", &credentials]);
    (folder, registry, name)
}

fn users_of_an_htpasswd_file() {
    let (_users, registry, name) = registry_of_alice();
    let credential = Credential::basic("alice", PASSWORD);
    let (_folder, service) = service_with(|builder| builder.credential(registry.host(), credential));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("app", "v1"), &Platform::host().architecture, &pulled);
    assert!(pulled.credential.is_some());

    // The same as a pull secret: the first of two is refused, and the next one tried.
    let host = registry.host();
    let config = json!({ "auths": {
        format!("{host}/app"): { "username": "alice", "password": "wrong" },
        host: { "username": "alice", "password": PASSWORD },
    }});
    let mut request = PullRequest::new(0, &*name);
    request.pull_secrets.push(PullSecret::docker_config_json(config.to_string()));
    let (_folder, service) = service_with(|builder| builder);
    let as_secret = oci_puller::ImageService::pull_image(&service, &PullContext::new(), &request).unwrap();
    assert_eq!(as_secret.credential, pulled.credential);
}

/// A registry with a certificate of a private authority, an image in it, and the authority's own
/// certificate.
pub fn registry_with_tls() -> (TempDir, DockerRegistry, String, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let authority = PrivateCa::new();
    let identity = authority.server_identity(ServerCertificate::Good);
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server-key.pem"));
    fs::write(&certificate, identity.certificate_pem).unwrap();
    fs::write(&key, identity.key_pem).unwrap();
    // skopeo takes the files that end so for authorities.
    let trusted = folder.path().join("trusted");
    let authority_file = trusted.join("authority.crt");
    fs::create_dir(&trusted).unwrap();
    fs::write(&authority_file, authority.pem()).unwrap();

    let tls = json!({ "http": { "tls": { "certificate": certificate, "key": key } } });
    let registry = DockerRegistry::start_with(tls);
    let name = Layout::by_umoci().push(&registry, "app:v1", &["--dest-cert-dir", trusted.to_str().unwrap()]);
    (folder, registry, name, authority_file)
}

fn a_private_authority() {
    let (folder, registry, name, authority) = registry_with_tls();
    let told = fs::read(&authority).unwrap();
    let (_store, service) = service_with(|builder| builder.tls(registry.host()).ca_certificate(told));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("app", "v1"), &Platform::host().architecture, &pulled);

    // The same by a file.
    let hosts = folder.path().join("hosts");
    fs::create_dir_all(hosts.join(registry.host())).unwrap();
    let file = format!("server = \"https://{}\"\nca = {authority:?}\n", registry.host());
    fs::write(hosts.join(registry.host()).join("hosts.toml"), file).unwrap();
    let (_store, service) = service_with(|builder| builder.hosts_dir(&hosts));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("app", "v1"), &Platform::host().architecture, &pulled);
}

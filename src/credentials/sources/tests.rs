use std::fs;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;

struct Vault(Result<&'static str, ErrorKind>);

impl Keychain for Vault {
    fn credentials(&self, _: &PullContext, query: &CredentialQuery<'_>) -> Result<Vec<Credential>, Error> {
        match self.0 {
            Ok(user) => Ok(vec![Credential::basic(user, format!("marker {}", query.domain()))]),
            Err(kind) => Err(Error::new(kind, "the vault is sealed")),
        }
    }
}

fn auths(user: &str) -> String {
    format!(r#""auths": {{"r.io": {{"username": "{user}", "password": "marker"}}}}"#)
}

fn secret(user: &str) -> PullSecret {
    PullSecret::docker_config_json(format!("{{{}}}", auths(user)))
}

/// All sources at once; the helper does not exist.
fn everything(directory: &TempDir) -> Credentials {
    let mut credentials = Credentials::default();
    credentials.add_static("r.io", Credential::basic("static", "marker")).unwrap();
    credentials.add_keychain(Arc::new(Vault(Ok("keychain"))));
    for (kind, name, more) in [
        (FileKind::Docker, "config.json", r#", "credsStore": "missing""#),
        (FileKind::Podman, "auth.json", ""),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, format!("{{{}{more}}}", auths(name))).unwrap();
        credentials.add_file(kind, path);
    }
    credentials.set_helper_directory(directory.path());
    credentials
}

#[test]
fn sources_are_asked_in_their_order_and_all_matches_are_kept() {
    let directory = TempDir::new().unwrap();
    let credentials = everything(&directory);
    let lookup = credentials
        .lookup(
            &PullContext::new(),
            &[secret("first"), secret("second")],
            &CredentialQuery::new("r.io", "app"),
        )
        .unwrap();
    let sources: Vec<String> = lookup.found.iter().map(|found| found.source.to_string()).collect();
    let file = |name: &str| directory.path().join(name).display().to_string();
    assert_eq!(
        sources,
        [
            "pull secret",
            "pull secret",
            "static credentials",
            "keychain",
            &*file("config.json"),
            &*file("auth.json")
        ]
    );
    let (source, error) = &lookup.failed[0];
    assert_eq!(source.to_string(), "credential helper missing");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn another_registry_is_shown_nothing_but_what_the_keychain_says() {
    let directory = TempDir::new().unwrap();
    let query = CredentialQuery::new("other.io", "app");
    let lookup = everything(&directory).lookup(&PullContext::new(), &[secret("u")], &query).unwrap();
    let sources: Vec<&SourceKind> = lookup.found.iter().map(|found| &found.source).collect();
    assert_eq!(sources, [&SourceKind::Keychain]);
}

#[test]
fn a_keychain_that_fails_fails_the_pull() {
    let mut credentials = Credentials::default();
    credentials.add_keychain(Arc::new(Vault(Err(ErrorKind::Unavailable))));
    let error =
        credentials.lookup(&PullContext::new(), &[], &CredentialQuery::new("r.io", "app")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn static_credentials_need_a_host() {
    let mut credentials = Credentials::default();
    for key in ["", "/team", "https://", "https:///v2/"] {
        let error = credentials.add_static(key, Credential::basic("u", "p")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{key:?}");
    }
}

/// What this room logs, at every level, from when it was first looked at.
struct Log(Mutex<String>);

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with(module_path!().trim_end_matches("::tests"))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().push_str(&format!("{}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

static LOG: Log = Log(Mutex::new(String::new()));

#[test]
fn nothing_that_is_printed_or_logged_holds_a_secret() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let directory = TempDir::new().unwrap();
    let credentials = everything(&directory);
    let secrets = [secret("u")];
    let query = CredentialQuery::new("r.io", "app");
    let lookup = credentials.lookup(&PullContext::new(), &secrets, &query).unwrap();
    let fingerprints: Vec<_> = lookup.found.iter().map(|found| found.credential.fingerprint()).collect();
    let printed = format!("{credentials:#?} {lookup:#?} {secrets:#?} {query:#?} {fingerprints:?}");
    assert!(!printed.contains("marker"), "{printed}");
    let logged = LOG.0.lock().clone();
    assert!(logged.contains("credential helper missing: "), "{logged}");
    assert!(!logged.contains("marker"), "{logged}");
}

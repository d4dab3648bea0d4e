//! Challenges as real registries write them, and the credentials that answer them.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use common::pulls::quick;
use oci_puller::credentials::Credential;
use oci_puller::registry::{RegistryImageServiceBuilder, Resolver};
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Target, TokenServer};
use oci_puller::{Error, ErrorKind};

/// A registry with an image, and a token server on another port.
struct Setup {
    registry: Registry,
    tokens: Registry,
    name: String,
    dir: tempfile::TempDir,
}

impl Setup {
    fn new(tokens: &TokenServer) -> Self {
        let (registry, server) = (Registry::start().unwrap(), Registry::start().unwrap());
        let name = registry.push(&ImageBuilder::new("library/app").layer(1_000).build(), "v1");
        server.require_token(tokens);
        Setup { registry, tokens: server, name, dir: tempfile::tempdir().unwrap() }
    }

    /// Answers requests without credentials with `status` and these challenges; `REALM` in them is the token
    /// server.
    fn challenge(&self, status: u16, challenges: &[String]) {
        let realm = format!("{}/token", self.tokens.url());
        let anonymous = |seen: &SeenRequest| seen.header("authorization").is_none();
        let mut fault = Fault::anywhere().when(anonymous).with(Action::Status(status));
        for challenge in challenges {
            let challenge = challenge.replace("REALM", &realm);
            fault = fault.with(Action::AddHeader("WWW-Authenticate".into(), challenge));
        }
        self.registry.fault(fault);
    }

    fn builder(&self) -> RegistryImageServiceBuilder {
        quick(self.dir.path())
    }

    fn with_password(&self) -> RegistryImageServiceBuilder {
        self.builder().credential(self.registry.host(), Credential::basic("ann", "secret"))
    }

    fn pull(&self, builder: RegistryImageServiceBuilder) -> Result<(), Error> {
        builder.build().unwrap().pull(&*self.name).map(drop)
    }

    /// The scheme of what the registry was shown last.
    fn shown(&self) -> Option<String> {
        let last = self.registry.requests().pop()?;
        Some(last.header("authorization")?.split(' ').next()?.to_owned())
    }
}

#[test]
fn challenges_are_understood_however_they_are_written() {
    let many: String = (0..300).map(|number| format!(",p{number}=\"x\"")).collect();
    let usual = "repository:library/app:pull";
    let cases: &[(&[&str], &[&str])] = &[
        (&[r#"Bearer realm="REALM",service="s",scope="repository:library/app:pull""#], &[usual]),
        (&[r#"Bearer realm="REALM",service="s""#], &[usual]),
        (&[r#"Bearer realm="REALM",service="s",scope="""#], &[usual]),
        (&[r#"Bearer realm="REALM" service="s" scope="repository:library/app:pull""#], &[usual]),
        (
            &[r#"Bearer realm="REALM",scope="repository:library/app:pull",scope="repository:base:pull""#],
            &[usual, "repository:base:pull"],
        ),
        (
            &[r#"Bearer realm="REALM",scope="repository:library/app:pull repository:base:pull""#],
            &[usual, "repository:base:pull"],
        ),
        (&[&format!(r#"Bearer realm="REALM"{many}"#)], &[usual]),
        (&["Negotiate", r#"Basic realm="x""#, r#"Bearer realm="REALM""#], &[usual]),
    ];
    for (challenges, scopes) in cases {
        let tokens = TokenServer::new().anonymous();
        let setup = Setup::new(&tokens);
        setup.challenge(401, &challenges.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        setup.pull(setup.builder()).unwrap_or_else(|error| panic!("{challenges:?}: {error}"));
        assert_eq!(tokens.issued()[0].scopes, *scopes, "{challenges:?}");
        assert_eq!(setup.shown().as_deref(), Some("Bearer"));
    }
}

#[test]
fn a_bearer_challenge_that_is_unusable_does_not_hide_basic() {
    for bearer in [
        "Bearer realm=\"not a url\"",
        "Bearer realm=\"\"",
        "Bearer service=\"s\"",
        "Bearer realm=\"http://169.254.169.254/token\"",
        "Bearer authorization_uri=\"https://login.example/x\"",
    ] {
        let setup = Setup::new(&TokenServer::new());
        setup.challenge(401, &[bearer.to_owned(), "Basic realm=\"x\"".to_owned()]);
        setup.pull(setup.with_password()).unwrap_or_else(|error| panic!("{bearer}: {error}"));
        assert_eq!(setup.shown().as_deref(), Some("Basic"), "{bearer}");
    }
}

#[test]
fn a_403_or_404_with_a_challenge_is_one() {
    for status in [403, 404] {
        let setup = Setup::new(&TokenServer::new().anonymous());
        setup.challenge(status, &["Bearer realm=\"REALM\"".to_owned()]);
        setup.pull(setup.builder()).unwrap_or_else(|error| panic!("{status}: {error}"));

        let setup = Setup::new(&TokenServer::new());
        setup.challenge(status, &["Basic realm=\"x\"".to_owned()]);
        setup.pull(setup.with_password()).unwrap_or_else(|error| panic!("{status}: {error}"));
    }
}

#[test]
fn a_password_is_sent_once_to_a_registry_that_hides_its_images() {
    for status in [403, 404] {
        let setup = Setup::new(&TokenServer::new());
        setup.challenge(status, &[]);
        setup.pull(setup.with_password()).unwrap_or_else(|error| panic!("{status}: {error}"));
        // Shown from the start after that.
        assert_eq!(setup.registry.stats().manifests, 2, "{status}");
        assert_eq!(setup.registry.stats().blobs, 2, "{status}");

        // Without one, or if it does not help, the error is that of the first response.
        let kind = if status == 403 { ErrorKind::Denied } else { ErrorKind::NotFound };
        let setup = Setup::new(&TokenServer::new());
        setup.challenge(status, &[]);
        assert_eq!(setup.pull(setup.builder()).unwrap_err().kind(), kind);
        assert_eq!(setup.registry.stats().manifests, 1);

        let setup = Setup::new(&TokenServer::new());
        setup.registry.fault(Fault::anywhere().with(Action::Status(status)));
        let error = setup.pull(setup.with_password()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(setup.registry.stats().manifests, 2);
        assert!(error.to_string().contains("tried: static credentials"), "{error}");
    }
}

#[test]
fn broken_entries_of_a_credentials_file_fail_their_own_registry_only() {
    // `ann:secret`
    let good = "YW5uOnNlY3JldA==";
    let cases = [
        (r#"{"auths": {"other.io": {"auth": "!"}, "HOST": {"auth": "GOOD"}}}"#, Ok("Basic")),
        (r#"{"auths": {"other.io": 5, "HOST": {"auth": "GOOD"}}}"#, Ok("Basic")),
        (r#"{"auths": {"HOST": {"auth": "GOOD"}}, "credHelpers": {"other.io": 5}}"#, Ok("Basic")),
        (r#"{"auths": {"HOST": {"auth": "GOOD"}}, "credHelpers": {"HOST": 5}}"#, Ok("Basic")),
        (r#"{"auths": {"HOST": {"auth": "GOOD", "identitytoken": "t"}}}"#, Ok("Basic")),
        (r#"{"auths": {"HOST": {"auth": "GOOD", "registrytoken": "t"}}}"#, Ok("Basic")),
        (r#"{"auths": {"HOST": {"auth": "!"}}}"#, Err(ErrorKind::InvalidConfig)),
        (r#"{"auths": {"HOST": ["marker"]}}"#, Err(ErrorKind::InvalidConfig)),
        (r#"{"auths": {}, "credHelpers": {"HOST": 5}}"#, Err(ErrorKind::InvalidConfig)),
    ];
    for (json, expected) in cases {
        let setup = Setup::new(&TokenServer::new());
        setup.challenge(401, &["Basic realm=\"x\"".to_owned()]);
        let json = json.replace("HOST", &setup.registry.host()).replace("GOOD", good);
        let path = setup.dir.path().join("credentials.json");
        std::fs::write(&path, &json).unwrap();
        let outcome = setup.pull(setup.builder().docker_config(&path));
        if let Err(error) = &outcome {
            let text = error.to_string();
            assert!(text.contains("credentials.json") && !text.contains("marker"), "{json}: {text}");
        }
        let outcome = outcome.map(|()| setup.shown());
        let expected = expected.map(|scheme| Some(scheme.to_owned()));
        assert_eq!(outcome.map_err(|error| error.kind()), expected, "{json}");
    }
}

#[test]
fn a_mirror_is_sent_no_password_without_a_challenge() {
    let setup = Setup::new(&TokenServer::new());
    let mirror = Registry::start().unwrap();
    let builder = setup
        .with_password()
        .credential(mirror.host(), Credential::basic("ann", "for the mirror"))
        .mirror(setup.registry.host(), mirror.url());
    setup.pull(builder).unwrap();
    assert!(mirror.stats().requests > 0);
    assert!(mirror.requests().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(setup.registry.requests().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn a_token_may_be_as_long_as_its_answer() {
    let setup = Setup::new(&TokenServer::new());
    let token = "x".repeat(60 * 1024);
    let answer = format!("{{\"token\":\"{token}\"}}");
    setup.tokens.fault(Fault::on(Target::Token).with(Action::Status(200)).with(Action::Body(answer.into())));
    setup.challenge(401, &["Bearer realm=\"REALM\"".to_owned()]);
    setup.pull(setup.builder()).unwrap();
    let last = setup.registry.requests().pop().unwrap();
    assert_eq!(last.header("authorization"), Some(&*format!("Bearer {token}")));
}

/// Names of hosts, all on this machine.
struct Names;

impl Resolver for Names {
    fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([127, 0, 0, 1], port).into()])
    }
}

/// A registry `reg.test` with plain HTTP that names the token server at `realm`.
fn with_names(setup: &mut Setup, realm: &str) -> RegistryImageServiceBuilder {
    let port = |registry: &Registry| registry.addr().port();
    let host = format!("reg.test:{}", port(&setup.registry));
    setup.name = format!("{host}/library/app:v1");
    setup.challenge(401, &[format!("Bearer realm=\"http://{realm}:{}/token\"", port(&setup.tokens))]);
    setup
        .builder()
        .resolver(Arc::new(Names))
        .plain_http(&host)
        .credential(host, Credential::basic("ann", "secret"))
}

#[test]
fn credentials_go_to_a_token_server_on_another_host_by_https_only() {
    let mut setup = Setup::new(&TokenServer::new().anonymous());
    let builder = with_names(&mut setup, "auth.test");
    setup.pull(builder).unwrap();
    let requests = setup.tokens.requests();
    assert!(!requests.is_empty());
    for request in requests {
        assert_eq!(request.header("authorization"), None, "an anonymous token is asked for instead");
        assert!(!request.query.contains("account"));
    }

    let mut setup = Setup::new(&TokenServer::new().user("ann", "secret"));
    let builder = with_names(&mut setup, "auth.test");
    let error = setup.pull(builder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("by HTTPS only"), "{error}");

    let mut setup = Setup::new(&TokenServer::new().user("ann", "secret"));
    let builder = with_names(&mut setup, "reg.test");
    setup.pull(builder).unwrap();
}

#[test]
fn realms_may_be_restricted_to_listed_hosts() {
    let port = |setup: &Setup| setup.tokens.addr().port();
    type Restrict = fn(RegistryImageServiceBuilder, u16) -> RegistryImageServiceBuilder;
    let cases: [(Restrict, &str, bool); 5] = [
        (|builder, _| builder, "auth.test", true),
        (|builder, _| builder.token_realm("auth.test"), "auth.test", true),
        (
            |builder, port| builder.token_realm("x.test").token_realm(format!("AUTH.test:{port}")),
            "auth.test",
            true,
        ),
        (|builder, _| builder.token_realm("auth.test:1"), "auth.test", false),
        (|builder, _| builder.token_realm("x.test"), "reg.test", true),
    ];
    for (restrict, realm, is_allowed) in cases {
        let mut setup = Setup::new(&TokenServer::new().anonymous().user("ann", "secret"));
        let builder = with_names(&mut setup, realm);
        let outcome = setup.pull(restrict(builder, port(&setup)));
        assert_eq!(outcome.is_ok(), is_allowed, "{realm}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            assert_eq!(setup.tokens.stats().requests, 0);
        }
    }
}

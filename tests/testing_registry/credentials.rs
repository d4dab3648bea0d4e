//! The credentials that the registry accepts.

use oci_puller::testing::{Action, Fault, Registry, TokenServer};

use crate::raw::Answer;
use crate::{client, manifest_path, registry};

#[test]
fn basic_lets_only_known_users_pass() {
    let (registry, _) = registry();
    registry.require_basic("ann", "secret:1");
    registry.require_basic("bob", "");
    let encoded = |text: &str| format!("Authorization: Basic {text}");
    for (header, status) in [
        (encoded("YW5uOnNlY3JldDox"), 200), // ann:secret:1
        (encoded("Ym9iOg=="), 200),         // bob:
        (encoded("YW5uOndyb25n"), 401),     // ann:wrong
        (encoded("!"), 401),
        ("X-None: 1".to_owned(), 401),
    ] {
        let answer = client(&registry).ask("GET", &manifest_path(), &[&header]).unwrap();
        assert_eq!(answer.status, status, "{header}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
}

fn ask_token(registry: &Registry, query: &str, headers: &[&str]) -> Answer {
    client(registry).ask("GET", &format!("/token?{query}"), headers).unwrap()
}

fn with_token(registry: &Registry, token: &serde_json::Value) -> Answer {
    let header = format!("Authorization: Bearer {}", token.as_str().unwrap());
    client(registry).ask("GET", &manifest_path(), &[&header]).unwrap()
}

const PULL: &str = "service=s&scope=repository%3Alibrary%2Fapp%3Apull";

#[test]
fn a_token_is_demanded_given_and_taken() {
    let (registry, _) = registry();
    let tokens = TokenServer::new().service("s").user("ann", "1").expires_in(Some(60));
    registry.require_token(&tokens);

    let refused = client(&registry).get(&manifest_path()).unwrap();
    assert_eq!(refused.status, 401);
    let challenge =
        format!(r#"Bearer realm="{}/token",service="s",scope="repository:library/app:pull""#, registry.url());
    assert_eq!(refused.header("www-authenticate"), Some(&*challenge));

    assert_eq!(ask_token(&registry, PULL, &[]).status, 401, "no anonymous tokens");
    assert_eq!(ask_token(&registry, PULL, &["Authorization: Basic YW5uOjI="]).status, 401, "ann:2");
    let answer = ask_token(&registry, PULL, &["Authorization: Basic YW5uOjE="]);
    assert_eq!((answer.status, &answer.json()["expires_in"]), (200, &60.into()));
    assert_eq!(with_token(&registry, &answer.json()["token"]).status, 200);
    assert_eq!(tokens.issued()[0].user.as_deref(), Some("ann"));
    assert_eq!(tokens.issued()[0].scopes, ["repository:library/app:pull"]);
}

#[test]
fn a_token_is_good_for_its_scope_until_it_expires() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().anonymous().expires_in(None));
    let other = ask_token(&registry, "scope=repository:else:pull", &[]).json();
    assert!(other.get("expires_in").is_none());
    let refused = with_token(&registry, &other["token"]);
    assert!(refused.header("www-authenticate").unwrap().contains(r#"error="insufficient_scope""#));

    let good = ask_token(&registry, PULL, &[]).json();
    assert_eq!(with_token(&registry, &good["token"]).status, 200);
    registry.expire_tokens();
    let refused = with_token(&registry, &good["token"]);
    assert!(refused.header("www-authenticate").unwrap().contains(r#"error="invalid_token""#));
    let renewed = ask_token(&registry, PULL, &[]).json();
    assert_eq!(with_token(&registry, &renewed["token"]).status, 200);
}

#[test]
fn tokens_are_given_by_post_too() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().user("ann", "1").identity_token("idt"));
    for (form, status) in [
        ("grant_type=refresh_token&refresh_token=idt", 200),
        ("grant_type=refresh_token&refresh_token=else", 401),
        ("grant_type=password&username=ann&password=1", 200),
        ("grant_type=password&username=ann&password=2", 401),
        ("grant_type=magic", 400),
    ] {
        let mut client = client(&registry);
        client.send("POST", "/token", &[], &format!("{form}&{PULL}")).unwrap();
        let answer = client.answer("POST").unwrap();
        assert_eq!(answer.status, status, "{form}");
        if status == 200 {
            assert_eq!(answer.json()["refresh_token"], "idt");
            assert_eq!(with_token(&registry, &answer.json()["access_token"]).status, 200);
        }
    }
}

#[test]
fn one_registry_can_give_the_tokens_of_another() {
    let (registry, _) = registry();
    let issuer = Registry::start().unwrap();
    let tokens = TokenServer::new().anonymous().realm(format!("{}/token", issuer.url()));
    registry.require_token(&tokens);
    issuer.require_token(&tokens);
    let challenge = client(&registry).get("/v2/").unwrap().header("www-authenticate").unwrap().to_owned();
    assert!(challenge.contains(&issuer.host()), "{challenge}");
    let token = ask_token(&issuer, PULL, &[]).json();
    assert_eq!(with_token(&registry, &token["token"]).status, 200);
}

#[test]
fn faults_leave_challenges_alone_and_hit_the_token_server() {
    let (registry, _) = registry();
    registry.require_token(&TokenServer::new().anonymous());
    let fault = registry.fault(Fault::anywhere().with(Action::Status(503)));
    assert_eq!(client(&registry).get(&manifest_path()).unwrap().status, 401);
    assert_eq!(fault.fired(), 0);
    assert_eq!(ask_token(&registry, PULL, &[]).status, 503);
}

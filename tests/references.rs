//! Image names: valid and invalid ones, and their meaning.

use oci_puller::ErrorKind;
use oci_puller::image::{Digest, Reference};
use proptest::prelude::*;

const HASH: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

#[test]
fn names_resolve_as_in_docker() {
    // What is typed, domain, repository, tag, and the short form.
    let table = [
        ("alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
        ("alpine:3.20", "docker.io", "library/alpine", "3.20", "alpine:3.20"),
        ("library/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
        ("index.docker.io/alpine", "docker.io", "library/alpine", "latest", "alpine:latest"),
        ("user/app", "docker.io", "user/app", "latest", "user/app:latest"),
        ("library/a/b", "docker.io", "library/a/b", "latest", "library/a/b:latest"),
        ("docker.io", "docker.io", "library/docker.io", "latest", "docker.io:latest"),
        ("localhost", "docker.io", "library/localhost", "latest", "localhost:latest"),
        ("localhost/x", "localhost", "x", "latest", "localhost/x:latest"),
        ("host:5000", "docker.io", "library/host", "5000", "host:5000"),
        ("host:5000/x", "host:5000", "x", "latest", "host:5000/x:latest"),
        ("[::1]:5000/x:1", "[::1]:5000", "x", "1", "[::1]:5000/x:1"),
        ("[fe80::1]/x", "[fe80::1]", "x", "latest", "[fe80::1]/x:latest"),
        ("192.168.0.1:8/debian", "192.168.0.1:8", "debian", "latest", "192.168.0.1:8/debian:latest"),
        ("Example-1/image:1.0-BETA", "Example-1", "image", "1.0-BETA", "Example-1/image:1.0-BETA"),
        ("quay.io/a/b__c/d---e:_", "quay.io", "a/b__c/d---e", "_", "quay.io/a/b__c/d---e:_"),
        ("sha256:abc", "docker.io", "library/sha256", "abc", "sha256:abc"),
    ];
    for (typed, domain, repository, tag, familiar) in table {
        let reference = Reference::parse(typed).unwrap();
        assert_eq!(reference.domain(), domain, "{typed}");
        assert_eq!(reference.repository(), repository, "{typed}");
        assert_eq!(reference.name(), format!("{domain}/{repository}"), "{typed}");
        assert_eq!(reference.tag(), Some(tag), "{typed}");
        assert_eq!(reference.digest(), None, "{typed}");
        assert_eq!(reference.familiar(), familiar, "{typed}");
        assert_eq!(reference.to_string(), format!("{domain}/{repository}:{tag}"), "{typed}");
        assert_eq!(reference.as_typed(), typed);
    }
}

#[test]
fn docker_hub_is_served_by_another_host() {
    assert_eq!(Reference::parse("alpine").unwrap().registry(), "registry-1.docker.io");
    assert_eq!(Reference::parse("ghcr.io/a/b").unwrap().registry(), "ghcr.io");
    assert_eq!(Reference::parse("[::1]:5000/x").unwrap().registry(), "[::1]:5000");
}

#[test]
fn a_digest_takes_the_place_of_the_default_tag_but_not_of_one_typed() {
    let pinned = Reference::parse(&format!("alpine@{HASH}")).unwrap();
    assert_eq!((pinned.tag(), pinned.digest().map(Digest::as_str)), (None, Some(HASH)));
    assert_eq!(pinned.to_string(), format!("docker.io/library/alpine@{HASH}"));

    let both = Reference::parse(&format!("alpine:3@{HASH}")).unwrap();
    assert_eq!((both.tag(), both.digest().map(Digest::as_str)), (Some("3"), Some(HASH)));
    assert_eq!(both.familiar(), format!("alpine:3@{HASH}"));
}

#[test]
fn sha512_is_as_good_as_sha256() {
    let digest = format!("sha512:{}", "a".repeat(128));
    let reference = Reference::parse(&format!("alpine@{digest}")).unwrap();
    assert_eq!(reference.digest().map(Digest::as_str), Some(&*digest));
}

#[test]
fn with_digest_pins_the_same_repository() {
    let digest = Digest::parse(HASH).unwrap();
    let pinned = Reference::parse("host:5000/x:1").unwrap().with_digest(digest);
    assert_eq!(pinned.to_string(), format!("host:5000/x@{HASH}"));
    assert_eq!(pinned, Reference::parse(pinned.as_typed()).unwrap());
}

#[test]
fn references_are_equal_if_they_name_the_same_image() {
    let short = Reference::parse("alpine").unwrap();
    let long = Reference::parse("index.docker.io/library/alpine:latest").unwrap();
    assert_eq!(short, long);
    assert!(short.is_tagged_by_default() && !long.is_tagged_by_default());
    assert_ne!(short, Reference::parse("alpine:3").unwrap());
}

#[test]
fn errors_name_the_flaw() {
    let id = "0123456789abcdef".repeat(4);
    let long_path = "a/".repeat(128) + "a";
    let long_tag = format!("a:{}", "t".repeat(129));
    let table = [
        ("", "empty"),
        ("r.io:65536/app", "65535"),
        ("Alpine", "lower case"),
        ("ghcr.io/Owner/app", "lower case"),
        ("https://ghcr.io/a/b", "scheme"),
        ("alpine latest", "white space"),
        (" alpine", "white space"),
        (&id, "image's id"),
        (&long_path, "255"),
        (&long_tag, "128"),
        ("alpine:", "tag"),
        ("alpine:a:b", "tag"),
        ("alpine:-a", "tag"),
        ("host:x/a", "port"),
        ("host:/a", "port"),
        ("exa_mple.com/a", "host name"),
        ("::1/a", "host name"),
        ("-host.io/a", "host name"),
        ("a//b", "part of the repository"),
        ("a/", "part of the repository"),
        ("a..b", "part of the repository"),
        ("a___b", "part of the repository"),
        ("ä", "part of the repository"),
        ("alpine@sha256:abc", "no digest"),
        ("alpine@", "no digest"),
    ];
    for (typed, why) in table {
        let error = Reference::parse(typed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidReference, "{typed}");
        assert!(error.message().contains(why), "{typed}: {error}");
    }
}

#[test]
fn a_digest_by_an_unknown_algorithm_is_unsupported() {
    let error = Reference::parse("alpine@md5:d41d8cd98f00b204e9800998ecf8427e").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn the_repository_may_have_255_characters_library_included() {
    assert!(Reference::parse(&"a".repeat(247)).is_ok());
    assert!(Reference::parse(&"a".repeat(248)).is_err());
    assert!(Reference::parse(&format!("a.io/{}", "a".repeat(255))).is_ok());
}

#[test]
fn a_message_stays_short_and_on_one_line() {
    let error = Reference::parse(&"A\n\u{1b}".repeat(100_000)).unwrap_err();
    assert!(error.message().len() < 2000, "{}", error.message().len());
    assert!(!error.message().contains(['\n', '\u{1b}']));
}

prop_compose! {
    fn typed()(
        domain in "(([a-z0-9]{1,5}[.][A-Za-z]{1,4}|localhost|\\[:[0-9a-f:]{1,9}\\]|HOST)(:0?[0-9]{1,4})?/)?",
        repository in "[a-z]{1,4}(/[a-z0-9]{1,4}(([.]|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,3}",
        tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,8})?",
        digest in "(@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?",
    ) -> String {
        format!("{domain}{repository}{tag}{digest}")
    }
}

proptest! {
    #[test]
    fn the_full_name_reads_back_as_the_same(typed in typed()) {
        let reference = Reference::parse(&typed).unwrap();
        let again = Reference::parse(&reference.to_string()).unwrap();
        prop_assert_eq!(&again, &reference);
        prop_assert_eq!(again.to_string(), reference.to_string());
        prop_assert_eq!(reference.as_typed(), typed);
    }

    #[test]
    fn nothing_that_is_typed_panics(typed in "\\PC*|[a-zA-Z0-9:/@._\\[\\]-]{0,40}|\\s*") {
        if let Ok(reference) = Reference::parse(&typed) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }
}

//! Selects the credentials for an image by the rules of kubelet's
//! [`pkg/credentialprovider`](https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/credentialprovider/keyring.go).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::credential::Credential;
use super::glob;
use super::query::CredentialQuery;
use crate::image::reference::Reference;

/// Docker Hub's key: the host of its former index.
const DOCKER_HUB_KEY: &str = "index.docker.io";

/// Credentials by key: `HOST[:PORT][/PATH]`, where the host may have globs; looked up by kubelet's rules.
///
/// For image services of other people: the services of this crate look their credentials up themselves.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Reverse-sorted: longer keys come before their beginnings, literal ones before `*`.
    entries: BTreeMap<Reverse<String>, Vec<KeyringEntry>>,
}

#[derive(Clone, Debug)]
struct KeyringEntry {
    /// The credential, or the reason why the entry cannot be read.
    content: Result<Credential, String>,
    /// The key begins with `https://`: the credential is not for a registry that is asked without TLS.
    https_only: bool,
}

impl Keyring {
    /// Adds a credential under `key`, behind those with the same key. Returns `false`, and ignores the
    /// credential, if the key has no host.
    pub(crate) fn add(&mut self, key: &str, credential: Credential) -> bool {
        self.add_entry(key, Ok(credential))
    }

    /// Adds an entry of a file: a credential, or the reason why the entry cannot be read.
    pub(crate) fn add_entry(&mut self, key: &str, content: Result<Credential, String>) -> bool {
        let (https_only, key) = normalize(key);
        let has_host = !split_path(&key).0.is_empty();
        if has_host {
            self.entries.entry(Reverse(key)).or_default().push(KeyringEntry { content, https_only });
        }
        has_host
    }

    /// Returns the credentials that fit the image, the closest first.
    pub fn lookup(&self, image: &Reference) -> Vec<Credential> {
        self.lookup_query(&CredentialQuery::new(image.domain(), image.repository()))
    }

    /// Returns all credentials that match, the closest first.
    pub(crate) fn lookup_query(&self, query: &CredentialQuery<'_>) -> Vec<Credential> {
        self.matching(query).into_iter().filter_map(|entry| entry.content.as_ref().ok().cloned()).collect()
    }

    /// Returns why matching entries cannot be read.
    pub(crate) fn broken(&self, query: &CredentialQuery<'_>) -> Vec<&str> {
        self.matching(query)
            .into_iter()
            .filter_map(|entry| entry.content.as_ref().err())
            .map(|why| &**why)
            .collect()
    }

    fn matching(&self, query: &CredentialQuery<'_>) -> Vec<&KeyringEntry> {
        let matching = self.entries.iter().filter(|(Reverse(key), _)| key_matches(key, query));
        let found = usable(matching.flat_map(|(_, entries)| entries), query);
        if !found.is_empty() || !query.is_docker_hub() {
            return found;
        }
        let hub = self.entries.get(&Reverse(DOCKER_HUB_KEY.to_owned()));
        usable(hub.into_iter().flatten(), query)
    }
}

fn usable<'a>(
    entries: impl Iterator<Item = &'a KeyringEntry>,
    query: &CredentialQuery<'_>,
) -> Vec<&'a KeyringEntry> {
    entries.filter(|entry| !(entry.https_only && query.is_plain_http())).collect()
}

/// Removes the scheme, a user, and a leading `/v1/` or `/v2/`. Also returns whether the scheme is `https`.
fn normalize(key: &str) -> (bool, String) {
    let (https_only, rest) = match key.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, key.strip_prefix("http://").unwrap_or(key)),
    };
    let (authority, path) = split_path(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = match path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")) {
        Some(path) => format!("/{path}"),
        None => path.to_owned(),
    };
    (https_only, if path == "/" { host.to_owned() } else { format!("{host}{path}") })
}

fn key_matches(key: &str, query: &CredentialQuery<'_>) -> bool {
    let (host, path) = split_path(key);
    host_matches(host, query.domain()) && path_matches(path, query.repository())
}

/// Returns `HOST` and the rest, which is empty or begins with a `/`.
fn split_path(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// Compares hosts label by label, so that a `*` never matches a dot, and ports as text.
fn host_matches(pattern: &str, domain: &str) -> bool {
    let (pattern, pattern_port) = split_port(pattern);
    let (domain, port) = split_port(domain);
    pattern_port == port
        // The brackets of an IPv6 address are no character class.
        && (pattern == domain
            || pattern.split('.').count() == domain.split('.').count()
                && pattern.split('.').zip(domain.split('.')).all(|(glob, part)| glob::matches(glob, part)))
}

/// Returns the host and the port, which is empty if there is none.
fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// Compares a path's beginning by whole components. Kubelet compares bytes, which would show the credential
/// of `/team` to `/teammate`.
fn path_matches(prefix: &str, repository: &str) -> bool {
    let Some(prefix) = prefix.strip_prefix('/') else {
        return true;
    };
    repository
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &[&str]) -> Keyring {
        let mut keyring = Keyring::default();
        for key in keys {
            keyring.add(key, Credential::basic(*key, ""));
        }
        keyring
    }

    fn found(keyring: &Keyring, domain: &str, repository: &str) -> Vec<Credential> {
        keyring.lookup_query(&CredentialQuery::new(domain, repository))
    }

    fn users(keys: &[&str]) -> Vec<Credential> {
        keys.iter().map(|key| Credential::basic(*key, "")).collect()
    }

    #[test]
    fn a_key_matches_host_part_by_host_part_and_the_path_by_whole_names() {
        let cases: &[(&str, &str, &str, bool)] = &[
            ("r.example.com", "r.example.com", "app", true),
            ("https://r.example.com", "r.example.com", "app", true),
            ("http://r.example.com", "r.example.com", "app", true),
            ("https://user:pw@r.example.com", "r.example.com", "app", true),
            ("https://r.example.com/v1/", "r.example.com", "app", true),
            ("https://r.example.com/v2/", "r.example.com", "app", true),
            ("r.example.com/v2/team", "r.example.com", "team/app", true),
            ("*.example.com", "r.example.com", "app", true),
            ("*.example.com", "a.r.example.com", "app", false),
            ("*.example.com", "example.com", "app", false),
            ("*.*.example.com", "a.r.example.com", "app", true),
            ("r?.example.com", "r1.example.com", "app", true),
            ("r[0-9].example.com", "r1.example.com", "app", true),
            ("r[^0-9].example.com", "r1.example.com", "app", false),
            ("*", "localhost", "app", true),
            ("*", "r.io", "app", false),
            ("r.io:5000", "r.io:5000", "app", true),
            ("r.io", "r.io:5000", "app", false),
            ("r.io:5000", "r.io", "app", false),
            ("r.io:*", "r.io:5000", "app", false),
            ("[::1]:5000", "[::1]:5000", "app", true),
            ("[::1]", "[::1]", "app", true),
            ("[::1]", "[::1]:5000", "app", false),
            ("r.io/team", "r.io", "team/app", true),
            ("r.io/team", "r.io", "team", true),
            ("r.io/team", "r.io", "teammate/app", false),
            ("r.io/team/", "r.io", "team/app", true),
            ("r.io/team/app/sub", "r.io", "team/app", false),
            ("R.io", "r.io", "app", false),
        ];
        for &(key, domain, repository, expected) in cases {
            let found = found(&keyring(&[key]), domain, repository);
            assert_eq!(!found.is_empty(), expected, "{key} for {domain}/{repository}");
        }
    }

    #[test]
    fn longer_and_literal_keys_come_first_and_all_matches_are_kept() {
        let keyring = keyring(&["*.io", "r.io", "r.io/team", "r.io/team/app", "r.io/other"]);
        assert_eq!(
            found(&keyring, "r.io", "team/app"),
            users(&["r.io/team/app", "r.io/team", "r.io", "*.io"])
        );
    }

    #[test]
    fn equal_keys_keep_the_order_they_came_in() {
        let mut keyring = Keyring::default();
        keyring.add("https://r.io/v1/", Credential::basic("first", ""));
        keyring.add("r.io", Credential::basic("second", ""));
        assert_eq!(found(&keyring, "r.io", "app"), users(&["first", "second"]));
    }

    #[test]
    fn docker_hubs_old_key_is_used_when_nothing_else_matches() {
        let hub = "https://index.docker.io/v1/";
        assert_eq!(found(&keyring(&[hub]), "docker.io", "library/alpine"), users(&[hub]));
        assert_eq!(
            found(&keyring(&[hub, "docker.io"]), "docker.io", "library/alpine"),
            users(&["docker.io"])
        );
        assert_eq!(found(&keyring(&[hub]), "localhost", "alpine"), users(&[]));
    }

    #[test]
    fn a_credential_for_https_is_not_shown_in_plain_text() {
        let keyring = keyring(&["https://r.io", "r.io/app", "http://r.io"]);
        let plain = CredentialQuery::new("r.io", "app").with_plain_http(true);
        assert_eq!(keyring.lookup_query(&plain), users(&["r.io/app", "http://r.io"]));
    }
}

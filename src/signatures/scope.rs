//! Scopes of rules: `HOST[:PORT][/PATH]` or `*.HOST`; the most specific one that covers an image counts.

use crate::image::reference::Reference;

/// Returns the scopes that cover an image, the most specific first: its full name, its repository and that one's
/// parents, its host, and the host's parent domains as `*.DOMAIN`, which never carry a port.
pub(super) fn covering(image: &Reference) -> Vec<String> {
    let name = image.name();
    let mut scopes = Vec::new();
    match (image.digest(), image.tag()) {
        (Some(digest), _) => scopes.push(format!("{name}@{digest}")),
        (None, Some(tag)) => scopes.push(format!("{name}:{tag}")),
        (None, None) => {}
    }
    let mut parent = Some(name);
    while let Some(scope) = parent {
        scopes.push(scope.to_owned());
        parent = scope.rsplit_once('/').map(|(parent, _)| parent);
    }
    let domain = image.domain();
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => domain,
    };
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        scopes.push(format!("*.{parent}"));
        rest = parent;
    }
    scopes
}

/// Reports whether the text is a scope without tag and digest.
pub(super) fn is_valid(scope: &str) -> bool {
    if let Some(domain) = scope.strip_prefix("*.") {
        return !domain.contains([':', '/', '*']) && is_host(domain);
    }
    let Some((host, path)) = scope.split_once('/') else { return is_host(scope) };
    Reference::parse(scope).is_ok_and(|reference| {
        reference.domain() == host && reference.repository() == path && reference.is_tagged_by_default()
    })
}

/// Reports whether the text is a host as references have it: `alpine` alone is none.
fn is_host(text: &str) -> bool {
    Reference::parse(&format!("{text}/x")).is_ok_and(|reference| reference.domain() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scopes_of_an_image_are_ordered_by_length() {
        let scopes = covering(&Reference::parse("a.b.example.com:5000/team/app:1").unwrap());
        assert_eq!(
            scopes,
            [
                "a.b.example.com:5000/team/app:1",
                "a.b.example.com:5000/team/app",
                "a.b.example.com:5000/team",
                "a.b.example.com:5000",
                "*.b.example.com",
                "*.example.com",
                "*.com",
            ]
        );
        let scopes = covering(&Reference::parse("alpine").unwrap());
        assert_eq!(
            scopes[..3],
            ["docker.io/library/alpine:latest", "docker.io/library/alpine", "docker.io/library"]
        );
        let scopes = covering(&Reference::parse("[::1]:5000/x").unwrap());
        assert_eq!(scopes, ["[::1]:5000/x:latest", "[::1]:5000/x", "[::1]:5000"]);
    }

    #[test]
    fn scopes_are_hosts_repositories_and_domains() {
        for scope in
            ["r.io", "r.io:5000", "r.io/team", "r.io/team/app", "*.example.com", "localhost", "[::1]:5000"]
        {
            assert!(is_valid(scope), "{scope}");
        }
        for scope in [
            "",
            "alpine",
            "*",
            "*.example.com:5000",
            "*.example.com/a",
            "*.*.com",
            "r.io/",
            "r.io/a:1",
            "r.io/A",
            "https://r.io",
        ] {
            assert!(!is_valid(scope), "{scope}");
        }
    }
}

//! Scopes of rules: `HOST[:PORT][/PATH]` or `*.HOST`. The most specific scope that covers an image counts.

use crate::image::reference::Reference;

/// Returns the scopes that cover an image, the most specific first: the full name, the repository and its parents,
/// the host, and the parent domains of the host as `*.DOMAIN`, without a port.
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

/// Returns whether the text is a host, `*.DOMAIN`, or a host with a path, and so covers images.
pub(super) fn is_valid(scope: &str) -> bool {
    match scope.strip_prefix("*.") {
        Some(domain) => !domain.contains([':', '/', '*']) && is_host(&format!("x.{domain}")),
        None => is_host_or_path(scope),
    }
}

/// Returns whether the text is a host, or a host with a path, as references print it: `docker.io/library`.
pub(super) fn is_host_or_path(text: &str) -> bool {
    let Some((host, path)) = text.split_once('/') else { return is_host(text) };
    // Completed, because Docker Hub's names of one part are read as those of official images.
    Reference::parse(&format!("{text}/x")).is_ok_and(|reference| {
        reference.domain() == host && reference.repository().strip_suffix("/x") == Some(path)
    })
}

/// Returns whether the text is an image with a tag or a digest, or both, as references print it.
pub(super) fn is_image(text: &str) -> bool {
    Reference::parse(text)
        .is_ok_and(|reference| !reference.is_tagged_by_default() && reference.to_string() == text)
}

/// Returns whether references have the text as their host; `alpine` alone is none.
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
        for scope in [
            "r.io",
            "r.io:5000",
            "r.io/team",
            "r.io/team/app",
            "*.example.com",
            "*.com",
            "localhost",
            "[::1]:5000",
            "docker.io",
            "docker.io/library",
            "docker.io/library/alpine",
            "docker.io/team",
        ] {
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
            "r.io/a/",
            "r.io//a",
            "https://r.io",
            "index.docker.io/library",
        ] {
            assert!(!is_valid(scope), "{scope}");
        }
    }

    #[test]
    fn images_are_whole_names_with_a_tag_or_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for image in ["r.io/a:1", "docker.io/library/alpine:3", &format!("r.io/a@{digest}")] {
            assert!(is_image(image), "{image}");
        }
        for image in ["r.io/a", "alpine:3", "docker.io/alpine:3", "r.io/a:", "r.io/a@sha256:ab", "*.r.io/a:1"]
        {
            assert!(!is_image(image), "{image}");
        }
    }
}

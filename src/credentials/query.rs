//! The registry and repository that credentials are looked up for.

/// The registry and the repository that credentials are looked up for.
#[derive(Clone, Copy, Debug)]
pub struct CredentialQuery<'a> {
    domain: &'a str,
    repository: &'a str,
    plain_http: bool,
}

impl<'a> CredentialQuery<'a> {
    pub(crate) fn new(domain: &'a str, repository: &'a str) -> Self {
        CredentialQuery { domain, repository, plain_http: false }
    }

    /// Sets whether the registry is asked without TLS. Default: with TLS.
    pub(crate) fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Returns the registry or the mirror: `HOST[:PORT]`; Docker Hub is `docker.io`.
    pub fn domain(&self) -> &'a str {
        self.domain
    }

    /// Returns the repository within the registry, like `library/alpine`.
    pub fn repository(&self) -> &'a str {
        self.repository
    }

    /// Returns whether the registry is asked without TLS.
    pub fn is_plain_http(&self) -> bool {
        self.plain_http
    }

    /// Returns whether the registry is Docker Hub, by any of its names.
    pub(super) fn is_docker_hub(&self) -> bool {
        matches!(self.domain, "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }
}

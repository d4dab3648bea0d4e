//! The authentication scheme of a host, by its challenges.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::challenge::{self, Challenge};
use super::scope::TokenScope;
use crate::credentials::Secret;

/// The authentication scheme of a repository at a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AuthScheme {
    Basic,
    Bearer(TokenSource),
}

/// A token server, with the parameters of the request for a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenSource {
    pub(super) realm: String,
    pub(super) service: String,
    /// At least one.
    pub(super) scopes: Vec<String>,
}

impl AuthScheme {
    /// Chooses from the `WWW-Authenticate` headers of a response: a token server that may be asked, else Basic, else a
    /// token server that may not be asked, whose error has the reason. `None` if there is none of them.
    pub(super) fn of<'h>(
        headers: impl Iterator<Item = &'h str>,
        token_scope: TokenScope<'_>,
    ) -> Option<Self> {
        let challenges = challenge::parse(headers);
        let mut unusable = None;
        let mut is_basic = false;
        for challenge in &challenges {
            match challenge.scheme.as_str() {
                "basic" => is_basic = true,
                "bearer" => {
                    let source = TokenSource::of(challenge, token_scope);
                    if token_scope.may_ask(&source.realm).is_ok() {
                        return Some(AuthScheme::Bearer(source));
                    }
                    unusable.get_or_insert(source);
                }
                _ => {}
            }
        }
        if is_basic { Some(AuthScheme::Basic) } else { unusable.map(AuthScheme::Bearer) }
    }

    /// Returns whether other repositories of the host probably have the same scheme, apart from their names.
    pub(super) fn is_usual_for(&self, token_scope: TokenScope<'_>) -> bool {
        match self {
            AuthScheme::Basic => true,
            AuthScheme::Bearer(source) => source.scopes == [token_scope.usual_scope()],
        }
    }

    /// Returns the scheme for another repository of the same host.
    pub(super) fn for_repository(self, token_scope: TokenScope<'_>) -> Self {
        match self {
            AuthScheme::Basic => AuthScheme::Basic,
            AuthScheme::Bearer(source) => {
                AuthScheme::Bearer(TokenSource { scopes: vec![token_scope.usual_scope()], ..source })
            }
        }
    }
}

impl TokenSource {
    /// Reads a challenge. One without a scope, or with an empty one, has the usual scope.
    fn of(challenge: &Challenge, token_scope: TokenScope<'_>) -> Self {
        let text = |name: &str| challenge.param(name).unwrap_or_default().to_owned();
        let scopes = challenge.scopes.iter().flat_map(|scope| scope.split_ascii_whitespace());
        let mut scopes: Vec<String> = scopes.map(|scope| scope.replace(":pull,push", ":pull")).collect();
        if scopes.is_empty() {
            scopes.push(token_scope.usual_scope());
        }
        TokenSource { realm: text("realm"), service: text("service"), scopes }
    }
}

/// Returns the value of an `Authorization` header.
pub(super) fn basic(username: &str, password: &str) -> Secret {
    let pair = zeroize::Zeroizing::new(format!("{username}:{password}"));
    Secret::from(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())))
}

//! The schemes of the hosts of a service, and its tokens.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::scheme::{AuthScheme, TokenSource, basic};
use super::scope::TokenScope;
use super::token_server::{self, Token};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialKind, Secret};
use crate::error::{Error, ErrorKind};
use crate::registry::http::HttpReply;
use crate::service::CredentialFingerprint;
use crate::sync::{Joined, Leader, Outcome, SingleFlight};

/// Maximum number of tokens, and of repositories whose scheme is known.
const MAX_REMEMBERED: usize = 4096;

/// The authorization of a request.
pub(crate) struct Authorization {
    /// The header's value.
    pub(crate) header: Secret,
    /// The token in the cache, which is removed when the host refuses it.
    token: Option<(TokenKey, Arc<CachedToken>)>,
}

impl Authorization {
    /// Creates the authorization by a user and a password. `None` for a token.
    pub(crate) fn basic(credential: &Credential) -> Option<Self> {
        match credential.kind() {
            CredentialKind::Basic { username, password } => {
                Some(Authorization { header: basic(username.expose(), password.expose()), token: None })
            }
            _ => None,
        }
    }

    /// Notes that the host accepted it.
    pub(crate) fn note_accepted(&self) {
        if let Some((_, token)) = &self.token {
            token.was_accepted.store(true, Ordering::Relaxed);
        }
    }
}

/// The result of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChallengeOutcome {
    /// The scheme was not known for this repository.
    New,
    Known,
    /// There is no challenge, or none that is supported.
    NotUnderstood,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    origin: String,
    source: TokenSource,
    credential: Option<CredentialFingerprint>,
}

struct CachedToken {
    token: Token,
    /// A host has accepted it at least once.
    was_accepted: AtomicBool,
}

/// The schemes of the hosts of a service, and its tokens.
#[derive(Default)]
pub(crate) struct TokenCache {
    /// By host and repository.
    schemes: Mutex<HashMap<(String, String), AuthScheme>>,
    /// By host, for repositories that were not requested before.
    usual_schemes: Mutex<HashMap<String, AuthScheme>>,
    tokens: Mutex<HashMap<TokenKey, Arc<CachedToken>>>,
    /// Requests for tokens: one at a time for each token.
    fetches: SingleFlight<TokenKey, Result<Arc<CachedToken>, Error>>,
}

impl TokenCache {
    /// Returns whether the scheme is known, for this repository or for others of the host.
    pub(crate) fn knows(&self, token_scope: TokenScope<'_>) -> bool {
        self.scheme(token_scope).is_some()
    }

    /// Learns the scheme from the challenges of a response.
    pub(crate) fn learn(&self, token_scope: TokenScope<'_>, reply: &HttpReply) -> ChallengeOutcome {
        match AuthScheme::of(reply.headers("www-authenticate"), token_scope) {
            Some(scheme) => self.remember(token_scope, scheme),
            None => ChallengeOutcome::NotUnderstood,
        }
    }

    /// Notes that the repository accepts Basic credentials without a challenge.
    pub(crate) fn learn_basic(&self, token_scope: TokenScope<'_>) {
        remember(&mut self.schemes.lock(), key(token_scope), AuthScheme::Basic);
    }

    fn remember(&self, token_scope: TokenScope<'_>, scheme: AuthScheme) -> ChallengeOutcome {
        if scheme.is_usual_for(token_scope) {
            remember(&mut self.usual_schemes.lock(), token_scope.root.to_string(), scheme.clone());
        }
        match remember(&mut self.schemes.lock(), key(token_scope), scheme.clone()) {
            Some(before) if before == scheme => ChallengeOutcome::Known,
            _ => ChallengeOutcome::New,
        }
    }

    /// Returns the authorization for `credential`, or an anonymous one; `None` if the scheme is not known yet, or is
    /// Basic and `credential` is not a password.
    ///
    /// # Errors
    /// `Unauthorized`, `Denied` if the token server refuses the credential; and the errors of requests.
    pub(crate) fn authorize(
        &self,
        cx: &PullContext,
        token_scope: TokenScope<'_>,
        credential: Option<&Credential>,
    ) -> Result<Option<Authorization>, Error> {
        match (self.scheme(token_scope), credential.map(Credential::kind)) {
            (Some(AuthScheme::Bearer(_)), Some(CredentialKind::RegistryToken(token))) => {
                let header = Secret::from(format!("Bearer {}", token.expose()));
                Ok(Some(Authorization { header, token: None }))
            }
            (Some(AuthScheme::Basic), _) => Ok(credential.and_then(Authorization::basic)),
            (Some(AuthScheme::Bearer(source)), _) => {
                let credential_key = credential.map(Credential::fingerprint);
                let origin = token_scope.root.to_string();
                let key = TokenKey { origin, source, credential: credential_key };
                let cached = self.token(cx, token_scope, &key, credential)?;
                let header = Secret::from(format!("Bearer {}", cached.token.value.expose()));
                Ok(Some(Authorization { header, token: Some((key, cached)) }))
            }
            (None, _) => Ok(None),
        }
    }

    /// Removes a token that a host has refused. Returns whether another one may be accepted: this one was accepted
    /// before, or was renewed in between.
    pub(crate) fn renew(&self, refused: &Authorization) -> bool {
        let Some((key, token)) = &refused.token else { return false };
        let mut tokens = self.tokens.lock();
        match tokens.get(key) {
            Some(known) if Arc::ptr_eq(known, token) => {
                tokens.remove(key);
                token.was_accepted.load(Ordering::Relaxed)
            }
            _ => true,
        }
    }

    fn scheme(&self, token_scope: TokenScope<'_>) -> Option<AuthScheme> {
        if let Some(scheme) = self.schemes.lock().get(&key(token_scope)) {
            return Some(scheme.clone());
        }
        let usual = self.usual_schemes.lock().get(&token_scope.root.to_string()).cloned();
        usual.map(|scheme| scheme.for_repository(token_scope))
    }

    /// Returns a token from the cache, or from its server.
    fn token(
        &self,
        cx: &PullContext,
        token_scope: TokenScope<'_>,
        key: &TokenKey,
        credential: Option<&Credential>,
    ) -> Result<Arc<CachedToken>, Error> {
        if let Some(token) = self.cached(key) {
            return Ok(token);
        }
        let leader = match self.fetches.join(key) {
            Joined::Leader(leader) => leader,
            Joined::Follower(follower) => match cx.wait_for(follower.outcome())? {
                Some(Outcome::Done(token)) => return token,
                Some(Outcome::Lead(leader)) => leader,
                None => {
                    let message = "the thread that asked for a token is gone";
                    return Err(Error::new(ErrorKind::Panicked, message));
                }
            },
        };
        self.fetch(cx, token_scope, key, credential, leader)
    }

    /// Asks the token server, for all followers. If this pull ends in between, the first follower asks instead.
    fn fetch(
        &self,
        cx: &PullContext,
        token_scope: TokenScope<'_>,
        key: &TokenKey,
        credential: Option<&Credential>,
        leader: Leader<TokenKey, Result<Arc<CachedToken>, Error>>,
    ) -> Result<Arc<CachedToken>, Error> {
        // The previous leader may have finished since the look into the cache.
        if let Some(token) = self.cached(key) {
            leader.finish(Ok(Arc::clone(&token)));
            return Ok(token);
        }
        let fetched = token_server::fetch(cx, token_scope, &key.source, credential)
            .map(|token| Arc::new(CachedToken { token, was_accepted: AtomicBool::new(false) }));
        cx.check()?;
        if let Ok(token) = &fetched {
            self.insert(key, token);
        }
        leader.finish(fetched.clone());
        fetched
    }

    fn cached(&self, key: &TokenKey) -> Option<Arc<CachedToken>> {
        self.tokens.lock().get(key).filter(|cached| cached.is_usable()).cloned()
    }

    fn insert(&self, key: &TokenKey, token: &Arc<CachedToken>) {
        let mut tokens = self.tokens.lock();
        if tokens.len() >= MAX_REMEMBERED {
            tokens.retain(|_, cached| cached.is_usable());
            if tokens.len() >= MAX_REMEMBERED {
                tokens.clear();
            }
        }
        tokens.insert(key.clone(), Arc::clone(token));
    }
}

impl CachedToken {
    fn is_usable(&self) -> bool {
        self.token.use_until > Instant::now()
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCache")
    }
}

fn key(token_scope: TokenScope<'_>) -> (String, String) {
    (token_scope.root.to_string(), token_scope.repository.to_owned())
}

/// Keeps `value`, and returns the value that it replaces.
fn remember<K: Hash + Eq>(
    known: &mut HashMap<K, AuthScheme>,
    key: K,
    value: AuthScheme,
) -> Option<AuthScheme> {
    if known.len() >= MAX_REMEMBERED && !known.contains_key(&key) {
        known.clear();
    }
    known.insert(key, value)
}

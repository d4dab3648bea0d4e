//! Challenges and tokens: what to show a host, and where to get it.
//!
//! By the [distribution project's token specification](https://distribution.github.io/distribution/spec/auth/token/)
//! and its [OAuth2 sibling](https://distribution.github.io/distribution/spec/auth/oauth/).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use serde::Deserialize;

use super::address::{AddressRule, Refusal};
use super::challenge::{self, Challenge};
use super::host_limits::{HostLimits, HostPermit};
use super::http::{Http, Reply, Uri};
use super::url_policy::{self, MAX_REDIRECTS, UrlPolicy};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialKind, Secret};
use crate::error::{Error, ErrorKind, Phase};
use crate::service::CredentialFingerprint;

/// A token server's answer is never longer, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long a token lives whose server does not tell, by the token specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// A token is not used in the last tenth of its life, and not in its last ten seconds.
const MARGIN: Duration = Duration::from_secs(10);

/// More tokens, or ways to be asked, than this are not remembered.
const MAX_REMEMBERED: usize = 4096;

/// What a host is asked with.
pub(crate) struct Authorization {
    /// The header's value.
    pub(crate) header: Secret,
    /// Where it is a token that the cache gave: what to take back when the host refuses it.
    token: Option<(TokenKey, Arc<TokenEntry>)>,
}

impl Authorization {
    /// The host took it.
    pub(crate) fn note_accepted(&self) {
        if let Some((_, entry)) = &self.token {
            entry.was_accepted.store(true, Ordering::Relaxed);
        }
    }
}

/// How a repository at a host wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Scheme {
    /// Whether it says of this repository what it would say of others.
    fn is_usual_for(&self, token_scope: TokenScope<'_>) -> bool {
        match self {
            Scheme::Basic => true,
            Scheme::Bearer { scope, .. } => *scope == token_scope.usual_scope(),
        }
    }
}

/// What a challenge taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChallengeOutcome {
    New,
    Known,
    /// The host wants something that is not done here, or does not say what.
    NotUnderstood,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    origin: String,
    scheme: Scheme,
    credential: Option<CredentialFingerprint>,
}

/// A token that is there, or that somebody asks for at this moment.
struct TokenEntry {
    done: Receiver<Infallible>,
    outcome: OnceLock<Result<Token, Error>>,
    /// A host took it at least once.
    was_accepted: AtomicBool,
}

#[derive(Clone)]
struct Token {
    value: Secret,
    use_until: Instant,
}

/// What a service has learned about how its hosts want to be asked, and its tokens.
#[derive(Default)]
pub(crate) struct TokenCache {
    /// By host and repository.
    schemes: Mutex<HashMap<(String, String), Scheme>>,
    /// By host: realm and service, to ask for a repository that was not asked for before.
    realms: Mutex<HashMap<String, Scheme>>,
    tokens: Mutex<HashMap<TokenKey, Arc<TokenEntry>>>,
}

/// Which repository at which host a token is for.
#[derive(Clone, Copy)]
pub(crate) struct TokenScope<'a> {
    pub(crate) http: &'a Http,
    /// For token servers on other hosts.
    pub(crate) token_server: &'a Http,
    pub(crate) host_limits: &'a HostLimits,
    /// The root of the host's API.
    pub(crate) root: &'a Uri,
    /// The address that the host answered from.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) repository: &'a str,
}

impl TokenScope<'_> {
    fn key(&self) -> (String, String) {
        (self.root.to_string(), self.repository.to_owned())
    }

    fn usual_scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }
}

impl TokenCache {
    /// Whether the host has challenged before, for this repository or, in the same way, for others.
    pub(crate) fn knows(&self, token_scope: TokenScope<'_>) -> bool {
        self.scheme(token_scope).is_some()
    }

    /// Learns from a 401 how the host wants to be asked.
    pub(crate) fn learn(&self, token_scope: TokenScope<'_>, reply: &Reply) -> ChallengeOutcome {
        let challenges = challenge::parse(reply.headers("www-authenticate"));
        let wants_basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        let bearer = challenges.iter().find_map(|challenge| bearer(challenge, token_scope));
        let Some(scheme) = bearer.or(wants_basic.then_some(Scheme::Basic)) else {
            return ChallengeOutcome::NotUnderstood;
        };
        if scheme.is_usual_for(token_scope) {
            remember(&mut self.realms.lock(), token_scope.root.to_string(), scheme.clone());
        }
        let before = remember(&mut self.schemes.lock(), token_scope.key(), scheme.clone());
        if before == Some(scheme) { ChallengeOutcome::Known } else { ChallengeOutcome::New }
    }

    /// What to show the host for `credential`, or for nobody; `None` if it has not asked yet, or if it
    /// wants a password and there is none.
    ///
    /// # Errors
    /// `Unauthorized`, `Denied` if the token server refuses the credential; else what asking it
    /// fails with.
    pub(crate) fn authorize(
        &self,
        cx: &PullContext,
        token_scope: TokenScope<'_>,
        credential: Option<&Credential>,
    ) -> Result<Option<Authorization>, Error> {
        let plain = |header: String| Ok(Some(Authorization { header: Secret::from(header), token: None }));
        match (self.scheme(token_scope), credential.map(Credential::kind)) {
            (Some(Scheme::Bearer { .. }), Some(CredentialKind::RegistryToken(token))) => {
                plain(format!("Bearer {}", token.expose()))
            }
            (Some(Scheme::Basic), Some(CredentialKind::Basic { username, password })) => {
                plain(basic(username.expose(), password.expose()))
            }
            (Some(scheme @ Scheme::Bearer { .. }), _) => {
                self.token(cx, token_scope, scheme, credential).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Forgets a token that a host refused. Tells whether another one may be better: if this one was
    /// good before, or somebody has renewed it meanwhile.
    pub(crate) fn renew(&self, refused: &Authorization) -> bool {
        let Some((key, entry)) = &refused.token else { return false };
        let mut tokens = self.tokens.lock();
        match tokens.get(key) {
            Some(known) if Arc::ptr_eq(known, entry) => {
                tokens.remove(key);
                entry.was_accepted.load(Ordering::Relaxed)
            }
            _ => true,
        }
    }

    fn scheme(&self, token_scope: TokenScope<'_>) -> Option<Scheme> {
        if let Some(scheme) = self.schemes.lock().get(&token_scope.key()) {
            return Some(scheme.clone());
        }
        match self.realms.lock().get(&token_scope.root.to_string())? {
            Scheme::Basic => Some(Scheme::Basic),
            Scheme::Bearer { realm, service, .. } => Some(Scheme::Bearer {
                realm: realm.clone(),
                service: service.clone(),
                scope: token_scope.usual_scope(),
            }),
        }
    }

    /// A token from the cache, or from its server, which is asked once however many threads wait.
    fn token(
        &self,
        cx: &PullContext,
        token_scope: TokenScope<'_>,
        scheme: Scheme,
        credential: Option<&Credential>,
    ) -> Result<Authorization, Error> {
        let key = TokenKey {
            origin: token_scope.root.to_string(),
            scheme,
            credential: credential.map(Credential::fingerprint),
        };
        loop {
            let (entry, leader) = self.join(&key);
            if let Some(leader) = leader {
                let asked = ask_for_token(cx, token_scope, &key.scheme, credential);
                if asked.is_err() {
                    self.forget(&key, &entry);
                }
                // That its own pull has ended is no answer for those who wait.
                cx.check()?;
                let _ = entry.outcome.set(asked);
                drop(leader);
            } else {
                cx.wait_for(&entry.done)?;
            }
            match entry.outcome.get() {
                Some(Ok(token)) => {
                    let header = Secret::from(format!("Bearer {}", token.value.expose()));
                    return Ok(Authorization { header, token: Some((key, entry)) });
                }
                Some(Err(error)) => return Err(error.clone()),
                // Who asked gave up, or panicked.
                None => self.forget(&key, &entry),
            }
        }
    }

    /// Forgets a token, unless it has been renewed since.
    fn forget(&self, key: &TokenKey, entry: &Arc<TokenEntry>) {
        let mut tokens = self.tokens.lock();
        if tokens.get(key).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            tokens.remove(key);
        }
    }

    /// The token's entry; and for the one who has to ask, what makes it land when dropped.
    fn join(&self, key: &TokenKey) -> (Arc<TokenEntry>, Option<crossbeam_channel::Sender<Infallible>>) {
        let mut tokens = self.tokens.lock();
        if let Some(entry) = tokens.get(key).filter(|entry| entry.is_usable()) {
            return (Arc::clone(entry), None);
        }
        if tokens.len() >= MAX_REMEMBERED {
            tokens.retain(|_, entry| entry.is_usable());
            if tokens.len() >= MAX_REMEMBERED {
                tokens.clear();
            }
        }
        let (leader, done) = bounded(0);
        let entry =
            Arc::new(TokenEntry { done, outcome: OnceLock::new(), was_accepted: AtomicBool::new(false) });
        tokens.insert(key.clone(), Arc::clone(&entry));
        (entry, Some(leader))
    }
}

impl TokenEntry {
    fn is_usable(&self) -> bool {
        match self.outcome.get() {
            None => true,
            Some(outcome) => outcome.as_ref().is_ok_and(|token| token.use_until > Instant::now()),
        }
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCache")
    }
}

/// Keeps `value`; the value that it takes the place of.
fn remember<K: std::hash::Hash + Eq>(
    known: &mut HashMap<K, Scheme>,
    key: K,
    value: Scheme,
) -> Option<Scheme> {
    if known.len() >= MAX_REMEMBERED && !known.contains_key(&key) {
        known.clear();
    }
    known.insert(key, value)
}

fn bearer(challenge: &Challenge, token_scope: TokenScope<'_>) -> Option<Scheme> {
    (challenge.scheme == "bearer").then_some(())?;
    let text = |name: &str| challenge.param(name).unwrap_or_default().to_owned();
    let scope = challenge.param("scope").map_or_else(|| token_scope.usual_scope(), ToOwned::to_owned);
    let scope = scope.replace(":pull,push", ":pull");
    Some(Scheme::Bearer { realm: text("realm"), service: text("service"), scope })
}

fn basic(username: &str, password: &str) -> String {
    let pair = zeroize::Zeroizing::new(format!("{username}:{password}"));
    format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes()))
}

fn ask_for_token(
    cx: &PullContext,
    token_scope: TokenScope<'_>,
    scheme: &Scheme,
    credential: Option<&Credential>,
) -> Result<Token, Error> {
    let Scheme::Bearer { realm, service, scope } = scheme else {
        return Err(Error::new(ErrorKind::Protocol, "no token server is named"));
    };
    let realm = parse_realm(realm)?;
    let host = realm.authority().map_or_else(String::new, |authority| authority.as_str().to_owned());
    let named = |error: Error| error.with_phase(Phase::Token).with_host(&host);
    let policy = UrlPolicy::new(token_scope.root, token_scope.peer);
    let addresses = policy.check(&realm).map_err(|refusal| named(refused_url(refusal)))?;
    let server = TokenServer { cx, token_scope, realm, addresses, service, scope };
    let asked_at = Instant::now();
    let answer = match credential.map(Credential::kind) {
        Some(CredentialKind::IdentityToken(token)) => server.by_post(token),
        Some(CredentialKind::Basic { username, password }) => {
            server.by_get(Some((username.expose(), password.expose())))
        }
        _ => server.by_get(None),
    };
    answer.and_then(|(reply, _slot)| read_token(reply, asked_at)).map_err(named)
}

fn parse_realm(realm: &str) -> Result<Uri, Error> {
    realm.parse().map_err(|_| {
        Error::new(ErrorKind::Protocol, "the token server's URL cannot be read").with_phase(Phase::Token)
    })
}

/// A token server, and what it is asked for.
struct TokenServer<'a> {
    cx: &'a PullContext,
    token_scope: TokenScope<'a>,
    realm: Uri,
    /// Which addresses the realm may have.
    addresses: AddressRule,
    service: &'a str,
    scope: &'a str,
}

impl TokenServer<'_> {
    fn host(&self) -> &str {
        self.realm.authority().map_or("", |authority| authority.as_str())
    }

    fn by_get(&self, user: Option<(&str, &str)>) -> Result<(Reply, HostPermit), Error> {
        let mut query = vec![("scope", self.scope)];
        if !self.service.is_empty() {
            query.push(("service", self.service));
        }
        if let Some((name, _)) = user {
            query.push(("account", name));
        }
        let joint = if self.realm.query().is_some() { '&' } else { '?' };
        let url: Uri = format!("{}{joint}{}", self.realm, form(&query))
            .parse()
            .map_err(|_| Error::new(ErrorKind::Protocol, "the token server's URL cannot be read"))?;
        let header = user.map(|(name, password)| Secret::from(basic(name, password)));
        self.follow_redirects(url, header.as_ref())
    }

    /// By OAuth2; a server that does not know it is asked the older way.
    fn by_post(&self, token: &Secret) -> Result<(Reply, HostPermit), Error> {
        let body = zeroize::Zeroizing::new(form(&[
            ("grant_type", "refresh_token"),
            ("service", self.service),
            ("client_id", "oci-puller"),
            ("scope", self.scope),
            ("refresh_token", token.expose()),
        ]));
        let leave = self.token_scope.host_limits.admit(self.cx, self.host(), false)?;
        let reply = self.http_for(&self.realm).post_form(self.cx, &self.realm, self.addresses, &body)?;
        if !matches!(reply.status(), 404 | 405) {
            return Ok((reply, leave));
        }
        reply.discard();
        drop(leave);
        self.by_get(Some(("<token>", token.expose())))
    }

    /// Returns the connections for a URL. The TLS settings of the registry's host are for that alone.
    fn http_for(&self, url: &Uri) -> &Http {
        match url_policy::same_origin(url, self.token_scope.root) {
            true => self.token_scope.http,
            false => self.token_scope.token_server,
        }
    }

    /// Each hop is looked at as the first was; another host is not shown the password.
    fn follow_redirects(&self, mut url: Uri, header: Option<&Secret>) -> Result<(Reply, HostPermit), Error> {
        let policy = UrlPolicy::new(self.token_scope.root, self.token_scope.peer);
        let mut addresses = self.addresses;
        for _ in 0..=MAX_REDIRECTS {
            let host = url.authority().map_or("", |authority| authority.as_str());
            let named = |error: Error| error.with_host(host);
            let leave = self.token_scope.host_limits.admit(self.cx, host, false).map_err(named)?;
            let shown = header.filter(|_| url_policy::same_origin(&url, &self.realm));
            let headers: Vec<_> = shown.iter().map(|header| ("authorization", header.expose())).collect();
            let reply = self.http_for(&url).get(self.cx, &url, addresses, &headers).map_err(named)?;
            if !url_policy::is_redirect(reply.status()) {
                return Ok((reply, leave));
            }
            let next = policy.next_hop(&url, reply.header_bytes("location"));
            (url, addresses) = next.map_err(refused_url)?;
            reply.discard();
        }
        Err(refused_url(Refusal("it redirects too often")))
    }
}

/// Where a server sends us will be no better in a moment.
fn refused_url(refusal: Refusal) -> Error {
    Error::new(ErrorKind::Protocol, refusal.to_string()).with_retryable(false)
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<f64>,
}

/// That there is no token server is not to say that there is no image.
fn refusal(reply: Reply) -> Error {
    let error = super::error_response::error_of(reply);
    match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("there is no token server: {}", error.message());
            Error::new(ErrorKind::Protocol, message).with_retryable(false)
        }
        _ => error,
    }
}

fn read_token(reply: Reply, asked_at: Instant) -> Result<Token, Error> {
    let status = reply.status();
    if status != 200 {
        return Err(refusal(reply));
    }
    let body = zeroize::Zeroizing::new(reply.read_all(MAX_ANSWER)?);
    // What the parser says of the body may quote it.
    let answer: TokenResponse = serde_json::from_slice(&body).map_err(|_| {
        Error::new(ErrorKind::Protocol, "the token server's answer is no JSON object with a token")
    })?;
    let value = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let value = value
        .filter(|token| token.expose().bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "the token server's answer holds no token"))?;
    let life = answer
        .expires_in
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|life| !life.is_zero())
        .unwrap_or(DEFAULT_LIFE)
        .min(Duration::from_secs(24 * 60 * 60));
    Ok(Token { value, use_until: asked_at + life - MARGIN.min(life / 10) })
}

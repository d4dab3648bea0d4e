//! Authorization of requests: Basic, and bearer tokens by the
//! [Docker token specification](https://distribution.github.io/distribution/spec/auth/token/).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::json;

use super::content::Route;
use super::http::form_pairs;
use super::record::SeenRequest;
use super::reply::Reply;

/// The authorization that a registry requires.
#[derive(Clone, Debug, Default)]
pub(super) enum Access {
    #[default]
    Open,
    Basic(Vec<RegistryUser>),
    Token(TokenServer),
}

impl Access {
    /// Returns the refusal of a request without authorization. `own_realm` is this registry's own token endpoint.
    pub(super) fn refuse(&self, route: &Route, request: &SeenRequest, own_realm: &str) -> Option<Reply> {
        if matches!(route, Route::Token | Route::Other) {
            return None;
        }
        let challenge = match self {
            Access::Open => return None,
            Access::Basic(users) => basic_challenge(users, request)?,
            Access::Token(tokens) => tokens.challenge(route, request, own_realm)?,
        };
        Some(Reply::status(401).with("WWW-Authenticate", challenge))
    }
}

fn basic_challenge(users: &[RegistryUser], request: &SeenRequest) -> Option<String> {
    let is_known = basic(request).is_some_and(|user| users.contains(&user));
    (!is_known).then(|| r#"Basic realm="test registry""#.to_owned())
}

/// A user and the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RegistryUser {
    pub(super) name: String,
    pub(super) password: String,
}

impl fmt::Debug for RegistryUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A server of bearer tokens, for [`Registry::require_token`](super::Registry::require_token).
///
/// Clones share the tokens, so that one registry accepts the tokens of another. By default it
/// serves at `/token` of the registry that requires the tokens, knows no users, and grants none to
/// anonymous requests.
#[derive(Clone)]
#[must_use = "a registry demands no token until it is given this"]
pub struct TokenServer {
    realm: Option<String>,
    service: String,
    users: Vec<RegistryUser>,
    identity_tokens: Vec<String>,
    anonymous: bool,
    expires_in: Option<u64>,
    issued: Arc<Mutex<Issued>>,
}

#[derive(Debug, Default)]
struct Issued {
    tokens: Vec<IssuedToken>,
    /// Positions in `tokens` of the valid ones.
    valid: HashMap<String, usize>,
}

/// A granted token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The user; `None` for an anonymous request.
    pub user: Option<String>,
    /// The requested scopes, one by one.
    pub scopes: Vec<String>,
    /// The token.
    pub token: String,
}

impl TokenServer {
    /// Creates a server that grants no token yet.
    pub fn new() -> Self {
        TokenServer {
            realm: None,
            service: "test-registry".into(),
            users: Vec::new(),
            identity_tokens: Vec::new(),
            anonymous: false,
            expires_in: Some(300),
            issued: Arc::default(),
        }
    }

    /// Grants tokens to this user.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push(RegistryUser { name: name.into(), password: password.into() });
        self
    }

    /// Grants tokens for this identity token (OAuth2 calls it refresh token), by POST.
    pub fn identity_token(mut self, token: impl Into<String>) -> Self {
        self.identity_tokens.push(token.into());
        self
    }

    /// Grants tokens to anonymous requests.
    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Sets the realm of challenges. Default: `/token` of the registry that challenges.
    pub fn realm(mut self, url: impl Into<String>) -> Self {
        self.realm = Some(url.into());
        self
    }

    /// Sets the service of challenges. Default: `test-registry`.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = service.into();
        self
    }

    /// Sets the `expires_in` of tokens, seconds; `None` omits it. Default: 300. A token is valid
    /// until [`expire_all`](Self::expire_all), whatever `expires_in` says.
    pub fn expires_in(mut self, seconds: Option<u64>) -> Self {
        self.expires_in = seconds;
        self
    }

    /// Expires all tokens that were granted so far.
    pub fn expire_all(&self) {
        self.issued.lock().valid.clear();
    }

    /// Returns the granted tokens in order, expired ones included.
    pub fn issued(&self) -> Vec<IssuedToken> {
        self.issued.lock().tokens.clone()
    }

    /// Returns the challenge, unless the request's token grants the scope that it needs.
    fn challenge(&self, route: &Route, request: &SeenRequest, own_realm: &str) -> Option<String> {
        let scope = route.repository().map(|repository| format!("repository:{repository}:pull"));
        let trouble = match (bearer(request), &scope) {
            (None, _) => None,
            (Some(token), scope) => match (self.scopes_of(token), scope) {
                (None, _) => Some("invalid_token"),
                (Some(_), None) => return None,
                (Some(granted), Some(scope)) if granted.iter().any(|known| covers(known, scope)) => {
                    return None;
                }
                (Some(_), Some(_)) => Some("insufficient_scope"),
            },
        };
        let realm = self.realm.as_deref().unwrap_or(own_realm);
        let mut challenge = format!(r#"Bearer realm="{realm}",service="{}""#, self.service);
        for (name, value) in [("scope", scope.as_deref()), ("error", trouble)] {
            challenge.extend(value.map(|value| format!(r#",{name}="{value}""#)));
        }
        Some(challenge)
    }

    fn scopes_of(&self, token: &str) -> Option<Vec<String>> {
        let issued = self.issued.lock();
        issued.valid.get(token).and_then(|at| issued.tokens.get(*at)).map(|token| token.scopes.clone())
    }

    /// Answers at the realm.
    pub(super) fn serve(&self, request: &SeenRequest) -> Reply {
        match request.method.as_str() {
            "POST" => self.serve_oauth2(request),
            _ => self.serve_get(request),
        }
    }

    fn serve_get(&self, request: &SeenRequest) -> Reply {
        let user = match (request.header("authorization"), basic(request)) {
            (None, _) if self.anonymous => None,
            (Some(_), Some(user)) if self.users.contains(&user) => Some(user.name),
            _ => return Reply::status(401).with("WWW-Authenticate", r#"Basic realm="test tokens""#),
        };
        let asked: Vec<_> = form_pairs(&request.query).collect();
        let wants_identity = asked.contains(&("offline_token".into(), "true".into()));
        let identity = if wants_identity { self.identity_tokens.first() } else { None };
        self.grant(user, &asked, identity)
    }

    /// See the [OAuth2 form](https://distribution.github.io/distribution/spec/auth/oauth/).
    fn serve_oauth2(&self, request: &SeenRequest) -> Reply {
        let asked: Vec<_> = form_pairs(&String::from_utf8_lossy(&request.body)).collect();
        let field =
            |name: &str| asked.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let granted = match field("grant_type").as_deref() {
            Some("refresh_token") => field("refresh_token")
                .filter(|token| self.identity_tokens.contains(token))
                .map(|_| "<token>".to_owned()),
            Some("password") => field("username")
                .zip(field("password"))
                .map(|(name, password)| RegistryUser { name, password })
                .filter(|user| self.users.contains(user))
                .map(|user| user.name),
            _ => return Reply::json(400, &json!({ "error": "unsupported_grant_type" })),
        };
        match granted {
            Some(user) => self.grant(Some(user), &asked, self.identity_tokens.first()),
            None => Reply::json(401, &json!({ "error": "invalid_grant" })),
        }
    }

    fn grant(&self, user: Option<String>, asked: &[(String, String)], identity: Option<&String>) -> Reply {
        let scopes: Vec<_> = asked
            .iter()
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' ').map(str::to_owned))
            .collect();
        let mut answer = json!({});
        let token = self.issue(user, scopes);
        answer["token"] = json!(token);
        answer["access_token"] = json!(token);
        if let Some(seconds) = self.expires_in {
            answer["expires_in"] = json!(seconds);
        }
        if let Some(identity) = identity {
            answer["refresh_token"] = json!(identity);
        }
        Reply::json(200, &answer)
    }

    fn issue(&self, user: Option<String>, scopes: Vec<String>) -> String {
        let mut issued = self.issued.lock();
        let position = issued.tokens.len();
        let token = format!("{}-token-{position}", self.service);
        issued.tokens.push(IssuedToken { user, scopes, token: token.clone() });
        issued.valid.insert(token.clone(), position);
        token
    }
}

impl Default for TokenServer {
    fn default() -> Self {
        TokenServer::new()
    }
}

impl fmt::Debug for TokenServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenServer")
            .field("realm", &self.realm)
            .field("service", &self.service)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

/// Returns whether a granted scope includes a needed one, which has one action.
fn covers(granted: &str, needed: &str) -> bool {
    match (granted.rsplit_once(':'), needed.rsplit_once(':')) {
        (Some((known, actions)), Some((resource, action))) => {
            known == resource && actions.split(',').any(|one| one == action || one == "*")
        }
        _ => false,
    }
}

fn basic(request: &SeenRequest) -> Option<RegistryUser> {
    let encoded = credentials(request, "basic")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some(RegistryUser { name: name.to_owned(), password: password.to_owned() })
}

fn bearer(request: &SeenRequest) -> Option<&str> {
    credentials(request, "bearer")
}

fn credentials<'a>(request: &'a SeenRequest, scheme: &str) -> Option<&'a str> {
    let (said, rest) = request.header("authorization")?.split_once(' ')?;
    said.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_covers_its_own_actions_only() {
        for (granted, covered) in [
            ("repository:a/b:pull", true),
            ("repository:a/b:push,pull", true),
            ("repository:a/b:*", true),
            ("repository:a/b:push", false),
            ("repository:a/bc:pull", false),
            ("pull", false),
        ] {
            assert_eq!(covers(granted, "repository:a/b:pull"), covered, "{granted}");
        }
    }
}

//! Asks token servers.

use std::time::{Duration, Instant};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::scheme::{TokenSource, basic};
use super::scope::{TokenScope, authority, refused_url};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialKind, Secret};
use crate::error::{Error, ErrorKind, Phase};
use crate::registry::address::{AddressRule, UrlRefusal};
use crate::registry::encoding;
use crate::registry::error_response;
use crate::registry::host_limits::HostPermit;
use crate::registry::http::{Http, HttpReply, HttpRequest, Uri};
use crate::registry::url_policy::{self, MAX_REDIRECTS};

/// Maximum size of a token server's answer, bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The lifetime of a token without `expires_in`, by the token specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// The longest lifetime that is accepted.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A token is not used in the last tenth of its lifetime, at most ten seconds.
const MARGIN: Duration = Duration::from_secs(10);

/// A token, and how long it may be used.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) value: Secret,
    pub(super) use_until: Instant,
}

/// Gets a token for `credential`, or an anonymous one.
///
/// # Errors
/// `Unauthorized`, `Denied` if the credential is refused; `Protocol`, `InvalidConfig`; and the errors of requests.
pub(super) fn fetch(
    cx: &PullContext,
    token_scope: TokenScope<'_>,
    source: &TokenSource,
    credential: Option<&Credential>,
) -> Result<Token, Error> {
    let token = |error: Error| error.with_phase(Phase::Token);
    let (realm, addresses) = token_scope.may_ask(&source.realm).map_err(token)?;
    let named = |error: Error| token(error).with_host(authority(&realm));
    if credential.is_some() {
        token_scope.may_show_credential(&realm).map_err(named)?;
    }
    let server = TokenClient { cx, token_scope, realm: &realm, addresses, source };
    let asked_at = Instant::now();
    let answer = match credential.map(Credential::kind) {
        Some(CredentialKind::IdentityToken(token)) => server.by_post(token),
        Some(CredentialKind::Basic { username, password }) => {
            server.by_get(Some((username.expose(), password.expose())))
        }
        _ => server.by_get(None),
    };
    answer.and_then(|(reply, _permit)| read_token(reply, asked_at)).map_err(named)
}

struct TokenClient<'a> {
    cx: &'a PullContext,
    token_scope: TokenScope<'a>,
    realm: &'a Uri,
    /// The addresses that the realm may have.
    addresses: AddressRule,
    source: &'a TokenSource,
}

impl TokenClient<'_> {
    fn by_get(&self, user: Option<(&str, &str)>) -> Result<(HttpReply, HostPermit), Error> {
        let mut query: Vec<_> = self.source.scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
        if !self.source.service.is_empty() {
            query.push(("service", &self.source.service));
        }
        if let Some((name, _)) = user {
            query.push(("account", name));
        }
        let joint = if self.realm.query().is_some() { '&' } else { '?' };
        let url: Uri = format!("{}{joint}{}", self.realm, form(&query))
            .parse()
            .map_err(|_| Error::new(ErrorKind::Protocol, "the token server's URL cannot be read"))?;
        let header = user.map(|(name, password)| basic(name, password));
        self.follow_redirects(url, header.as_ref())
    }

    /// Asks by OAuth2, and by GET if the server does not support that.
    fn by_post(&self, token: &Secret) -> Result<(HttpReply, HostPermit), Error> {
        let body = Zeroizing::new(form(&[
            ("grant_type", "refresh_token"),
            ("service", &self.source.service),
            ("client_id", "oci-puller"),
            ("scope", &self.source.scopes.join(" ")),
            ("refresh_token", token.expose()),
        ]));
        let permit = self.token_scope.host_limits.admit(self.cx, authority(self.realm), false)?;
        let request = self.request(self.realm, self.addresses, &[]);
        let reply = self.http_for(self.realm).post_form(self.cx, &request, &body)?;
        if !matches!(reply.status(), 404 | 405) {
            return Ok((reply, permit));
        }
        reply.discard();
        drop(permit);
        self.by_get(Some(("<token>", token.expose())))
    }

    fn request<'r>(
        &self,
        url: &'r Uri,
        addresses: AddressRule,
        headers: &'r [(&'r str, &'r str)],
    ) -> HttpRequest<'r> {
        HttpRequest { url, addresses, headers, within: self.token_scope.response_timeout }
    }

    /// Returns the connections for a URL. The TLS settings of the registry's host are for that host alone.
    fn http_for(&self, url: &Uri) -> &Http {
        match url_policy::same_origin(url, self.token_scope.root) {
            true => self.token_scope.http,
            false => self.token_scope.token_server,
        }
    }

    /// Follows redirects. Checks each hop like the first one, and sends the password to the realm's own origin only.
    fn follow_redirects(
        &self,
        mut url: Uri,
        header: Option<&Secret>,
    ) -> Result<(HttpReply, HostPermit), Error> {
        let policy = self.token_scope.url_policy();
        let mut addresses = self.addresses;
        for _ in 0..=MAX_REDIRECTS {
            let host = authority(&url);
            let named = |error: Error| error.with_host(host);
            let permit = self.token_scope.host_limits.admit(self.cx, host, false).map_err(named)?;
            let shown = header.filter(|_| url_policy::same_origin(&url, self.realm));
            let headers: Vec<_> = shown.iter().map(|header| ("authorization", header.expose())).collect();
            let request = self.request(&url, addresses, &headers);
            let reply = self.http_for(&url).get(self.cx, &request).map_err(named)?;
            if !url_policy::is_redirect(reply.status()) {
                if reply.status() != 200 && !url_policy::same_origin(&url, self.realm) {
                    return Err(refusal(error_response::error_of_redirected(reply)).with_host(host));
                }
                return Ok((reply, permit));
            }
            let next = policy.next_hop(&url, reply.header_bytes("location"));
            (url, addresses) = next.map_err(refused_url)?;
            reply.discard();
        }
        Err(refused_url(UrlRefusal("it redirects too often")))
    }
}

/// Encodes `application/x-www-form-urlencoded`.
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

/// Returns the error of a refusal. `NotFound` is replaced, since it would mean that the image does not exist.
fn refusal(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("there is no token server: {}", error.message());
            Error::new(ErrorKind::Protocol, message).with_retryable(false)
        }
        _ => error,
    }
}

fn read_token(reply: HttpReply, asked_at: Instant) -> Result<Token, Error> {
    let status = reply.status();
    if status != 200 {
        return Err(refusal(error_response::error_of(reply)));
    }
    let encoding = reply.encoding();
    let body = Zeroizing::new(reply.read_all(MAX_ANSWER)?);
    let decoded = encoding.as_ref().and_then(|_| encoding::decode(&body, MAX_ANSWER)).map(Zeroizing::new);
    let body = decoded.unwrap_or(body);
    // The parser's own message may quote the body.
    let answer: TokenResponse = serde_json::from_slice(&body).map_err(|_| {
        let other = || match &encoding {
            Some(encoding) => encoding::refused(encoding),
            None => Error::new(ErrorKind::Protocol, "the answer is not JSON"),
        };
        let error = error_response::html_instead_of("JSON", &body, true).unwrap_or_else(other);
        let message = format!("the token server: {}", error.message());
        error.with_message(message)
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
        .min(MAX_LIFE);
    Ok(Token { value, use_until: asked_at + life - MARGIN.min(life / 10) })
}

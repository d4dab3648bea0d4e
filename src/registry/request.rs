//! One request to one host, with its admission, its authorization and its redirects.

use std::time::{Duration, Instant};

use super::address::{AddressRule, UrlRefusal};
use super::auth::{Authorization, ChallengeOutcome};
use super::error_response;
use super::host_limits::HostPermit;
use super::http::{Http, HttpBody, HttpReply, HttpRequest, Uri};
use super::session::{Origin, authority};
use super::url_policy::{self, MAX_REDIRECTS};
use crate::credentials::Credential;
use crate::error::{Error, ErrorKind, Phase};

pub(super) use super::session::{HostEndpoint, HostTurn, PullSession};

/// A request to a host.
#[derive(Clone, Copy)]
pub(super) struct ApiRequest<'a> {
    pub(super) target: RequestTarget<'a>,
    /// The `Accept` header.
    pub(super) accept: Option<&'a str>,
    /// The `Range` header: `bytes=…`.
    pub(super) range: Option<&'a str>,
    pub(super) phase: Phase,
    /// Further statuses that are not errors, besides 200, and 206 and 416 for a range.
    pub(super) tolerated: &'a [u16],
    /// Another host was not asked yet.
    pub(super) others_left: bool,
}

/// The target of a request.
#[derive(Clone, Copy)]
pub(super) enum RequestTarget<'a> {
    /// A path of the host's API below the repository's name, like `manifests/latest`.
    Api(&'a str),
    /// A path of the API, and the link to the next page that the host returned for it.
    Link(&'a str, &'a str),
    /// A URL of a layer's descriptor.
    Foreign(&'a str),
}

impl<'a> ApiRequest<'a> {
    pub(super) fn new(target: RequestTarget<'a>, phase: Phase) -> Self {
        ApiRequest { target, accept: None, range: None, phase, tolerated: &[], others_left: false }
    }

    pub(super) fn accepting(self, media_types: &'a str) -> Self {
        ApiRequest { accept: Some(media_types), ..self }
    }

    fn is_for_blob(&self) -> bool {
        matches!(self.phase, Phase::Config | Phase::Layer)
    }

    fn accept_status(&self, response: ApiResponse) -> Result<ApiResponse, Error> {
        match response.reply.status() {
            200 => Ok(response),
            206 | 416 if self.range.is_some() => Ok(response),
            status if self.tolerated.contains(&status) => Ok(response),
            _ => Err(response.into_error()),
        }
    }
}

/// The response of a host.
pub(super) struct ApiResponse {
    pub(super) reply: HttpReply,
    permit: HostPermit,
    /// The host that answered, after redirects.
    host: String,
    is_at_host: bool,
    /// The time from the request to the head of the response, with redirects and without the wait for a permit.
    took: Duration,
}

impl ApiResponse {
    /// Returns the body, and the permit to use its connection.
    pub(super) fn into_body(self) -> (HttpBody, HostPermit) {
        (self.reply.into_body(), self.permit)
    }

    /// Returns the host that answered, after redirects.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns whether the host that answered was reached by a redirect.
    pub(super) fn is_redirected(&self) -> bool {
        !self.is_at_host
    }

    /// Discards the body.
    pub(super) fn discard(self) {
        self.reply.discard();
    }

    fn into_error(self) -> Error {
        let error = match self.is_at_host {
            true => error_response::error_of(self.reply),
            false => error_response::error_of_redirected(self.reply),
        };
        error.with_host(self.host)
    }

    /// Returns whether the target of a redirect refuses the request, for example because a signed URL has expired.
    fn is_refused_elsewhere(&self) -> bool {
        !self.is_at_host && matches!(self.reply.status(), 401 | 403 | 410)
    }
}

/// One hop of a request.
#[derive(Clone, Copy)]
struct Hop<'a> {
    endpoint: &'a HostEndpoint,
    url: &'a Uri,
    /// Which addresses the URL's host may have.
    addresses: AddressRule,
    request: &'a ApiRequest<'a>,
}

/// The result of a request with a credential.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum AuthOutcome {
    Answered(ApiResponse),
    /// The host has sent its first challenge.
    Challenged(Error),
    Refused(Error),
}

impl PullSession<'_> {
    /// Sends a request to one host. A `Retry-After` of the host holds for every pull of the service.
    ///
    /// # Errors
    /// By status: `Unauthorized`, `Denied`, `NotFound`, `RateLimited`, `Unavailable`, `Timeout`,
    /// `Protocol`; and what the connection fails with.
    pub(super) fn request(&self, turn: HostTurn<'_>, request: ApiRequest<'_>) -> Result<ApiResponse, Error> {
        let HostTurn { endpoint, others_left } = turn;
        let request = ApiRequest { others_left, ..request };
        let asked =
            self.with_fresh_redirect(endpoint, &request).and_then(|response| request.accept_status(response));
        if let Ok(response) = &asked {
            self.service.host_limits.note_answer(&endpoint.name, response.took, request.is_for_blob());
        }
        asked.map_err(|error| {
            let error = error.with_phase(request.phase).with_host(&endpoint.name);
            if let (Some(delay), Some(host)) = (error.retry_after(), error.host()) {
                let delay = delay.min(self.service.settings.retry.max_retry_after);
                self.service.host_limits.close(host, delay, &error.cause());
            }
            error
        })
    }

    /// Sends a request, at first to the known target of a redirect of the same blob. If the target refuses it, sends it
    /// to the endpoint again, once: a signed URL expires.
    fn with_fresh_redirect(
        &self,
        endpoint: &HostEndpoint,
        request: &ApiRequest<'_>,
    ) -> Result<ApiResponse, Error> {
        if let Some(known) = known_redirect(endpoint, request) {
            let response = self.follow_redirects(endpoint, request, known);
            if response.as_ref().is_ok_and(|response| matches!(response.reply.status(), 200 | 206 | 416)) {
                return response;
            }
            forget_redirect(endpoint, request);
            response?.discard();
        }
        let response = self.follow_redirects(endpoint, request, self.url(endpoint, request.target)?)?;
        if !response.is_refused_elsewhere() {
            return Ok(response);
        }
        response.discard();
        let again = self.follow_redirects(endpoint, request, self.url(endpoint, request.target)?)?;
        if again.is_refused_elsewhere() {
            // This error is not about the credentials for the endpoint.
            let error = again.into_error();
            let host = error.host().unwrap_or_default().to_owned();
            let message =
                format!("{} redirects here, and this host refuses: {}", endpoint.name, error.message());
            return Err(Error::new(ErrorKind::Unavailable, message).with_host(host));
        }
        Ok(again)
    }

    fn follow_redirects(
        &self,
        endpoint: &HostEndpoint,
        request: &ApiRequest<'_>,
        (mut url, mut addresses): (Uri, AddressRule),
    ) -> Result<ApiResponse, Error> {
        let mut took = Duration::ZERO;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_authorized(Hop { endpoint, url: &url, addresses, request })?;
            took += response.took;
            if !url_policy::is_redirect(response.reply.status()) {
                if !response.is_at_host && matches!(response.reply.status(), 200 | 206) {
                    remember_redirect(endpoint, request, url);
                }
                return Ok(ApiResponse { took, ..response });
            }
            let policy = match request.target {
                RequestTarget::Foreign(_) => endpoint.url_policy().for_foreign_layers(),
                _ => endpoint.url_policy(),
            };
            let next = policy.next_hop(&url, response.reply.header_bytes("location"));
            (url, addresses) = next.map_err(|refusal| refused_url(refusal).with_host(&response.host))?;
            response.discard();
        }
        Err(final_protocol_error(&format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Sends one hop with the credentials of its origin, and of no other origin.
    fn send_authorized(&self, hop: Hop<'_>) -> Result<ApiResponse, Error> {
        if matches!(hop.request.target, RequestTarget::Foreign(_)) {
            // A layer's own URL is asked anonymously.
            let http = self.service.clients.for_others()?;
            return self.send(hop, None, &http, false);
        }
        if url_policy::same_origin(hop.url, &hop.endpoint.origin.root) {
            return self.with_credentials(&hop.endpoint.origin, hop, true);
        }
        let origin = self.redirect_origin(hop.endpoint, hop.url)?;
        self.with_credentials(&origin, hop, false)
    }

    /// Tries one credential after the other, anonymous last, until the host accepts one. If all are refused, returns the
    /// error of the first one.
    fn with_credentials(
        &self,
        origin: &Origin,
        hop: Hop<'_>,
        is_at_host: bool,
    ) -> Result<ApiResponse, Error> {
        let mut challenge = None;
        let mut first_refusal: Option<Error> = None;
        let mut tried = Vec::new();
        loop {
            let found = self.next_credential(origin)?;
            let credential = found.as_ref().map(|found| &found.credential);
            let refusal = match self.with_token(origin, hop, is_at_host, credential, challenge.as_ref())? {
                AuthOutcome::Answered(response) => return Ok(response),
                AuthOutcome::Challenged(refusal) => {
                    challenge = Some(refusal);
                    continue;
                }
                AuthOutcome::Refused(refusal) => refusal,
            };
            let told = &*first_refusal.get_or_insert(refusal);
            let Some(found) = found else {
                tried.append(&mut origin.take_failed_helpers());
                return Err(with_sources(told, &tried));
            };
            tried.push(found.to_string());
            origin.refuse(&found);
        }
    }

    /// Sends the request with one credential, or anonymously. Handles one challenge, and renews a token that was accepted
    /// before once.
    fn with_token(
        &self,
        origin: &Origin,
        hop: Hop<'_>,
        is_at_host: bool,
        credential: Option<&Credential>,
        challenge: Option<&Error>,
    ) -> Result<AuthOutcome, Error> {
        let tokens = &self.service.tokens;
        let token_scope = self.token_scope(origin);
        let mut has_renewed = false;
        loop {
            let shown = match tokens.authorize(self.cx, token_scope, credential) {
                Ok(shown) => shown,
                Err(error) if is_refusal(&error) => return Ok(AuthOutcome::Refused(error)),
                Err(error) => return Err(error),
            };
            // The same request was refused already.
            if let (None, Some(refusal)) = (&shown, challenge) {
                return Ok(AuthOutcome::Refused(refusal.clone()));
            }
            let response = self.send(hop, shown.as_ref(), &origin.http, is_at_host)?;
            let status = response.reply.status();
            let learned = match status {
                401 | 403 | 404 => tokens.learn(token_scope, &response.reply),
                _ => ChallengeOutcome::NotUnderstood,
            };
            // Many hosts answer an anonymous request with 403 or 404 instead of 401.
            let is_challenge = challenge.is_none()
                && (status == 401 || (shown.is_none() && learned != ChallengeOutcome::NotUnderstood));
            let is_unasked = shown.is_none() && learned == ChallengeOutcome::NotUnderstood;
            if is_unasked && matches!(status, 403 | 404) && !hop.request.tolerated.contains(&status) {
                return self.with_unsolicited(origin, hop, response);
            }
            // An expired URL, or a storage service with its own protocol.
            let is_foreign_refusal = !is_at_host && is_unasked;
            if !matches!(status, 401 | 403) && !is_challenge || is_foreign_refusal {
                self.note_shown(&response, shown.as_ref(), credential);
                return Ok(AuthOutcome::Answered(response));
            }
            let refusal = response.into_error();
            match (&shown, learned) {
                (_, ChallengeOutcome::New) if is_challenge => return Ok(AuthOutcome::Challenged(refusal)),
                // Another thread has handled the challenge.
                (None, ChallengeOutcome::Known) if is_challenge => {
                    return Ok(AuthOutcome::Challenged(refusal));
                }
                (None, ChallengeOutcome::NotUnderstood) if is_challenge => {
                    return Ok(AuthOutcome::Refused(not_understood(&refusal)));
                }
                (Some(shown), _) if !has_renewed && tokens.renew(shown) => has_renewed = true,
                _ => return Ok(AuthOutcome::Refused(refusal)),
            }
        }
    }

    /// Sends a password without a challenge, after a 403 or 404: some registries hide images from anonymous clients so.
    fn with_unsolicited(
        &self,
        origin: &Origin,
        hop: Hop<'_>,
        response: ApiResponse,
    ) -> Result<AuthOutcome, Error> {
        let found = self.unsolicited_credential(origin)?;
        let shown = found.as_ref().and_then(|found| Authorization::basic(&found.credential));
        let (Some(found), Some(shown)) = (found, shown) else {
            return Ok(match response.reply.status() {
                403 if response.is_at_host => AuthOutcome::Refused(response.into_error()),
                _ => AuthOutcome::Answered(response),
            });
        };
        // Returns the permit of the first response before it waits for another one.
        let refusal = response.into_error();
        let again = self.send(hop, Some(&shown), &origin.http, true)?;
        match again.reply.status() {
            401 | 403 | 404 => {
                again.discard();
                let tried = [found.source.to_string()];
                Ok(AuthOutcome::Refused(with_sources(&refusal, &tried)))
            }
            _ => {
                self.service.tokens.learn_basic(self.token_scope(origin));
                self.note_shown(&again, Some(&shown), Some(&found.credential));
                Ok(AuthOutcome::Answered(again))
            }
        }
    }

    fn note_shown(
        &self,
        response: &ApiResponse,
        shown: Option<&Authorization>,
        credential: Option<&Credential>,
    ) {
        if let Some(shown) = shown {
            shown.note_accepted();
            if response.is_at_host {
                self.note_accepted(credential);
            }
        }
    }

    /// Sends one hop. The endpoint's own headers are sent to no other host.
    fn send(
        &self,
        hop: Hop<'_>,
        shown: Option<&Authorization>,
        http: &Http,
        is_at_host: bool,
    ) -> Result<ApiResponse, Error> {
        let Hop { endpoint, url, addresses, request } = hop;
        let host = if is_at_host { endpoint.name.clone() } else { authority(url).to_owned() };
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(request.accept.map(|accept| ("accept", accept)));
        headers.extend(request.range.map(|range| ("range", range)));
        if is_at_host {
            // A credential for a challenge replaces a configured header.
            let own = endpoint.host.headers.iter();
            let own = own.filter(|(name, _)| shown.is_none() || !name.eq_ignore_ascii_case("authorization"));
            headers.extend(own.map(|(name, value)| (name.as_str(), value.expose())));
        }
        headers.extend(shown.map(|shown| ("authorization", shown.header.expose())));
        let named = |error: Error| error.with_host(&host);
        let permit = self.service.host_limits.admit(self.cx, &host, request.is_for_blob()).map_err(named)?;
        let asked = Instant::now();
        let within = self.service.settings.response.limit(request.is_for_blob(), request.others_left);
        let call = HttpRequest { url, addresses, headers: &headers, within };
        let mut reply = http.get(self.cx, &call).map_err(named)?;
        reply.share_rate(&self.rate_of(&host));
        if is_at_host && let Some(peer) = reply.peer() {
            *endpoint.origin.peer.lock() = Some(peer);
        }
        Ok(ApiResponse { reply, permit, host, is_at_host, took: asked.elapsed() })
    }

    /// Returns the URL of a request. A URL of a mirror names the registry, as in containerd.
    fn url(&self, endpoint: &HostEndpoint, target: RequestTarget<'_>) -> Result<(Uri, AddressRule), Error> {
        let path = match target {
            RequestTarget::Api(path) => path,
            RequestTarget::Link(path, link) => {
                let (base, addresses) = self.url(endpoint, RequestTarget::Api(path))?;
                return url_policy::next_page(&base, link)
                    .map(|page| (page, addresses))
                    .ok_or_else(|| final_protocol_error("the link to the next page leads elsewhere"));
            }
            RequestTarget::Foreign(url) => return foreign_url(url, endpoint),
        };
        let mut url = format!("{}/{}/{path}", endpoint.host.location, self.reference.repository());
        if !endpoint.host.is_registry_itself {
            url.push_str(if path.contains('?') { "&ns=" } else { "?ns=" });
            url.push_str(self.reference.domain());
        }
        let url = url.parse().map_err(|_| final_protocol_error("the image has no URL at this host"))?;
        Ok((url, AddressRule::Any))
    }
}

/// Returns the target of an earlier redirect of the same blob. It is checked again, since the rule depends on the
/// endpoint's address.
fn known_redirect(endpoint: &HostEndpoint, request: &ApiRequest<'_>) -> Option<(Uri, AddressRule)> {
    let url = endpoint.redirects.lock().get(blob_path(request)?).cloned()?;
    let addresses = endpoint.url_policy().check(&url).ok()?;
    Some((url, addresses))
}

fn remember_redirect(endpoint: &HostEndpoint, request: &ApiRequest<'_>, url: Uri) {
    if let Some(path) = blob_path(request) {
        endpoint.remember_redirect(path, url);
    }
}

fn forget_redirect(endpoint: &HostEndpoint, request: &ApiRequest<'_>) {
    if let Some(path) = blob_path(request) {
        endpoint.redirects.lock().remove(path);
    }
}

/// Returns the path of a blob, which may be requested in chunks. A manifest is requested once.
fn blob_path<'a>(request: &ApiRequest<'a>) -> Option<&'a str> {
    match request.target {
        RequestTarget::Api(path) if request.is_for_blob() => Some(path),
        _ => None,
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied)
}

/// Adds the sources of the credentials that were tried.
fn with_sources(refusal: &Error, refused: &[String]) -> Error {
    let tried = if refused.is_empty() { "no credentials".to_owned() } else { refused.join(", ") };
    refusal.clone().with_message(format!("{} (tried: {tried})", refusal.message()))
}

/// Adds that the challenge is not supported.
fn not_understood(refusal: &Error) -> Error {
    let message =
        format!("{}; the host asks for a kind of authentication that is not supported", refusal.message());
    refusal.clone().with_message(message)
}

/// Returns the URL that a layer's descriptor names, if it may be fetched for this registry.
fn foreign_url(url: &str, endpoint: &HostEndpoint) -> Result<(Uri, AddressRule), Error> {
    let url: Uri = url.parse().map_err(|_| final_protocol_error("a layer's own URL cannot be read"))?;
    let addresses = endpoint.url_policy().for_foreign_layers().check(&url).map_err(refused_url)?;
    Ok((url, addresses))
}

/// Returns the error for a URL of a server that is not asked.
fn refused_url(refusal: UrlRefusal) -> Error {
    final_protocol_error(&refusal.to_string())
}

/// Returns the error of a wrong response, which a retry does not change.
fn final_protocol_error(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message).with_retryable(false)
}

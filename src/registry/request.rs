//! One request to one host: admitted, authorised, redirected, and its refusal made an error.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::address::{AddressRule, Refusal};
use super::auth::{Authorization, ChallengeOutcome, TokenScope};
use super::client::Service;
use super::error_response;
use super::host_limits::HostPermit;
use super::hosts::Host;
use super::http::{Body, Http, Reply, Uri};
use super::url_policy::{self, MAX_REDIRECTS, UrlPolicy};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialQuery, Found};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::reference::Reference;
use crate::service::{CredentialFingerprint, PullSecret};

/// A repository at the hosts that serve it, for one pull.
pub(super) struct PullSession<'a> {
    pub(super) service: &'a Service,
    pub(super) cx: &'a PullContext,
    pub(super) reference: &'a Reference,
    pub(super) endpoints: Vec<Endpoint>,
    pull_secrets: &'a [PullSecret],
    /// The credential that a host took last.
    accepted: Mutex<Option<CredentialFingerprint>>,
}

/// A host, and what this pull has learned of it.
pub(super) struct Endpoint {
    pub(super) host: Host,
    /// `HOST[:PORT]`, for errors and progress.
    pub(super) name: String,
    http: Http,
    /// For the hosts that this one redirects to: none of its own TLS settings, and no client certificate.
    elsewhere: Http,
    /// For token servers on other hosts: none of this host's own TLS settings.
    token_server: Http,
    /// The root of the host's API.
    root: Uri,
    /// The address that it answered from last; unknown behind a proxy.
    peer: Mutex<Option<IpAddr>>,
    access: Mutex<Access>,
    /// It refused this pull, or answered nonsense: its other blobs are sought elsewhere first.
    pub(super) has_failed: AtomicBool,
}

/// The credentials that were found, less those that were refused.
#[derive(Default)]
struct Access {
    left: Option<VecDeque<Found>>,
    /// Helpers that could not tell, and why.
    failed: Vec<String>,
}

/// What is asked of a host.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) target: Target<'a>,
    /// The `Accept` header.
    pub(super) accept: Option<&'a str>,
    /// The `Range` header: `bytes=…`.
    pub(super) range: Option<&'a str>,
    pub(super) phase: Phase,
    /// The statuses that are no error, besides 200, and 206 and 416 for a range.
    pub(super) tolerated: &'a [u16],
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A path of the host's API below the repository's name, like `manifests/latest`.
    Api(&'a str),
    /// A link that the host answered for a path of its API, for the next page of a list.
    Link(&'a str, &'a str),
    /// A URL of a layer's descriptor.
    Foreign(&'a str),
}

impl<'a> Request<'a> {
    pub(super) fn new(target: Target<'a>, phase: Phase) -> Self {
        Request { target, accept: None, range: None, phase, tolerated: &[] }
    }

    pub(super) fn accepting(self, media_types: &'a str) -> Self {
        Request { accept: Some(media_types), ..self }
    }

    fn is_for_blob(&self) -> bool {
        matches!(self.phase, Phase::Config | Phase::Layer)
    }

    fn accept_status(&self, response: Response) -> Result<Response, Error> {
        match response.reply.status() {
            200 => Ok(response),
            206 | 416 if self.range.is_some() => Ok(response),
            status if self.tolerated.contains(&status) => Ok(response),
            _ => Err(response.refusal()),
        }
    }
}

/// What a host answered.
pub(super) struct Response {
    pub(super) reply: Reply,
    permit: HostPermit,
    /// Who gave it, after redirects.
    host: String,
    is_at_host: bool,
    /// From the request to the response's head, without the wait for a slot; redirects included.
    took: Duration,
}

impl Response {
    /// The body, and the leave to use its connection.
    pub(super) fn into_body(self) -> (Body, HostPermit) {
        (self.reply.into_body(), self.permit)
    }

    /// Passes over the body.
    pub(super) fn discard(self) {
        self.reply.discard();
    }

    fn refusal(self) -> Error {
        error_response::error_of(self.reply).with_host(self.host)
    }

    fn is_refused_elsewhere(&self) -> bool {
        !self.is_at_host && matches!(self.reply.status(), 401 | 403 | 410)
    }
}

impl<'a> PullSession<'a> {
    /// Finds the hosts. Asks no network, but fails for settings and secrets that are wrong.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn open(
        service: &'a Service,
        cx: &'a PullContext,
        reference: &'a Reference,
        pull_secrets: &'a [PullSecret],
    ) -> Result<Self, Error> {
        service.credentials.check(pull_secrets)?;
        let hosts = service.hosts.for_registry(reference.domain())?;
        let endpoints =
            hosts.into_iter().map(|host| Endpoint::open(service, host)).collect::<Result<_, _>>()?;
        Ok(PullSession { service, cx, reference, endpoints, pull_secrets, accepted: Mutex::default() })
    }

    /// The credential that the images' hosts took; `None` if they asked for none.
    pub(super) fn accepted(&self) -> Option<CredentialFingerprint> {
        self.accepted.lock().clone()
    }

    /// Asks one host. Where it asks to be left alone, every pull of the service heeds it.
    ///
    /// # Errors
    /// By status: `Unauthorized`, `Denied`, `NotFound`, `RateLimited`, `Unavailable`, `Timeout`,
    /// `Protocol`; and what the connection fails with.
    pub(super) fn request(&self, endpoint: &Endpoint, request: Request<'_>) -> Result<Response, Error> {
        let asked = match request.target {
            Target::Api(_) | Target::Link(..) => self.with_credentials(endpoint, request),
            Target::Foreign(_) => self.anonymously(endpoint, request),
        };
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

    /// Shows one credential after the other, nobody's last, until the host takes one. When all are
    /// refused, the refusal of the best is told.
    fn with_credentials(&self, endpoint: &Endpoint, request: Request<'_>) -> Result<Response, Error> {
        let mut challenge = None;
        let mut told: Option<Error> = None;
        let mut tried = Vec::new();
        loop {
            let found = self.next_credential(endpoint)?;
            let credential = found.as_ref().map(|found| &found.credential);
            let refusal = match self.with_token(endpoint, request, credential, challenge.as_ref())? {
                AuthOutcome::Answered(response) => return Ok(response),
                AuthOutcome::Challenged(refusal) => {
                    challenge = Some(refusal);
                    continue;
                }
                AuthOutcome::Refused(refusal) => refusal,
            };
            let told = &*told.get_or_insert(refusal);
            let Some(found) = found else {
                tried.append(&mut endpoint.access.lock().failed);
                return Err(with_sources(told, &tried));
            };
            tried.push(found.source.to_string());
            endpoint.access.lock().refuse(&found);
        }
    }

    /// Shows one credential, or none. A challenge is learned from once, and a token that was good
    /// before is renewed once.
    fn with_token(
        &self,
        endpoint: &Endpoint,
        request: Request<'_>,
        credential: Option<&Credential>,
        challenge: Option<&Error>,
    ) -> Result<AuthOutcome, Error> {
        let tokens = &self.service.tokens;
        let token_scope = self.token_scope(endpoint);
        let mut has_renewed = false;
        loop {
            let shown = match tokens.authorize(self.cx, token_scope, credential) {
                Ok(shown) => shown,
                Err(error) if is_refusal(&error) => return Ok(AuthOutcome::Refused(error)),
                Err(error) => return Err(error),
            };
            // Nothing to show is what the host has refused already.
            if let (None, Some(refusal)) = (&shown, challenge) {
                return Ok(AuthOutcome::Refused(refusal.clone()));
            }
            let response = self.with_fresh_redirect(endpoint, request, shown.as_ref())?;
            match response.reply.status() {
                401 | 403 => {}
                _ => {
                    let response = request.accept_status(response)?;
                    self.note_accepted(shown.as_ref(), credential);
                    return Ok(AuthOutcome::Answered(response));
                }
            }
            let learned = tokens.learn(token_scope, &response.reply);
            let is_challenge = response.reply.status() == 401 && challenge.is_none();
            let refusal = response.refusal();
            match (&shown, learned) {
                (_, ChallengeOutcome::New) if is_challenge => return Ok(AuthOutcome::Challenged(refusal)),
                // Another thread was the first to learn of it.
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

    /// Nothing of ours is shown to the hosts of others.
    fn anonymously(&self, endpoint: &Endpoint, request: Request<'_>) -> Result<Response, Error> {
        request.accept_status(self.follow_redirects(endpoint, request, None)?)
    }

    /// The best credential that was not refused; `None` for nobody's, also while the host has not
    /// asked who we are: many never do.
    fn next_credential(&self, endpoint: &Endpoint) -> Result<Option<Found>, Error> {
        if !self.service.tokens.knows(self.token_scope(endpoint)) {
            return Ok(None);
        }
        if let Some(found) = &endpoint.access.lock().left {
            return Ok(found.front().cloned());
        }
        let domain = if endpoint.host.is_registry_itself { self.reference.domain() } else { &endpoint.name };
        let query = CredentialQuery::new(domain, self.reference.repository())
            .with_plain_http(endpoint.root.scheme_str() == Some("http"));
        let found = self.service.credentials.lookup(self.cx, self.pull_secrets, &query);
        let found = found.map_err(|error| error.with_phase(Phase::Credentials))?;
        let mut access = endpoint.access.lock();
        if access.left.is_none() {
            access.failed = found
                .failed
                .into_iter()
                .map(|(source, error)| format!("{source}: {}", error.message()))
                .collect();
        }
        Ok(access.left.get_or_insert(found.found.into()).front().cloned())
    }

    fn note_accepted(&self, shown: Option<&Authorization>, credential: Option<&Credential>) {
        if let Some(shown) = shown {
            shown.note_accepted();
            *self.accepted.lock() = credential.map(Credential::fingerprint);
        }
    }

    /// Asks, and follows where the host sends us. A signed URL expires: what it refuses is asked for
    /// anew, once.
    fn with_fresh_redirect(
        &self,
        endpoint: &Endpoint,
        request: Request<'_>,
        shown: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let response = self.follow_redirects(endpoint, request, shown)?;
        if !response.is_refused_elsewhere() {
            return Ok(response);
        }
        response.discard();
        let again = self.follow_redirects(endpoint, request, shown)?;
        if again.is_refused_elsewhere() {
            // It says nothing about our credentials.
            let refusal = again.refusal();
            let message = format!("where it redirects to refuses: {}", refusal.message());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(again)
    }

    fn follow_redirects(
        &self,
        endpoint: &Endpoint,
        request: Request<'_>,
        shown: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let (mut url, mut addresses) = self.url(endpoint, request.target)?;
        let mut took = Duration::ZERO;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(endpoint, (&url, addresses), request, shown)?;
            took += response.took;
            if !url_policy::is_redirect(response.reply.status()) {
                return Ok(Response { took, ..response });
            }
            let policy = endpoint.url_policy(request.target);
            let next = policy.next_hop(&url, response.reply.header_bytes("location"));
            (url, addresses) = next.map_err(|refusal| refused_url(refusal).with_host(&response.host))?;
            response.discard();
        }
        Err(final_protocol_error(&format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// One request. What is for the endpoint is shown to no other host.
    fn send(
        &self,
        endpoint: &Endpoint,
        (url, addresses): (&Uri, AddressRule),
        request: Request<'_>,
        shown: Option<&Authorization>,
    ) -> Result<Response, Error> {
        let is_at_host =
            !matches!(request.target, Target::Foreign(_)) && url_policy::same_origin(url, &endpoint.root);
        let host = if is_at_host {
            endpoint.name.clone()
        } else {
            url.authority().map_or_else(String::new, |authority| authority.as_str().to_owned())
        };
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(request.accept.map(|accept| ("accept", accept)));
        headers.extend(request.range.map(|range| ("range", range)));
        if is_at_host {
            let own = endpoint.host.headers.iter();
            headers.extend(own.map(|(name, value)| (name.as_str(), value.expose())));
            headers.extend(shown.map(|shown| ("authorization", shown.header.expose())));
        }
        let http = if is_at_host { &endpoint.http } else { &endpoint.elsewhere };
        let named = |error: Error| error.with_host(&host);
        let permit = self.service.host_limits.admit(self.cx, &host, request.is_for_blob()).map_err(named)?;
        let asked = Instant::now();
        let reply = http.get(self.cx, url, addresses, &headers).map_err(named)?;
        if is_at_host && let Some(peer) = reply.peer() {
            *endpoint.peer.lock() = Some(peer);
        }
        Ok(Response { reply, permit, host, is_at_host, took: asked.elapsed() })
    }

    /// A mirror is told whose image it is, as containerd tells it.
    fn url(&self, endpoint: &Endpoint, target: Target<'_>) -> Result<(Uri, AddressRule), Error> {
        let path = match target {
            Target::Api(path) => path,
            Target::Link(path, link) => {
                let (base, addresses) = self.url(endpoint, Target::Api(path))?;
                return url_policy::next_page(&base, link)
                    .map(|page| (page, addresses))
                    .ok_or_else(|| final_protocol_error("the link to the next page leads elsewhere"));
            }
            Target::Foreign(url) => return foreign_url(url, endpoint),
        };
        let mut url = format!("{}/{}/{path}", endpoint.host.location, self.reference.repository());
        if !endpoint.host.is_registry_itself {
            url.push_str("?ns=");
            url.push_str(self.reference.domain());
        }
        let url = url.parse().map_err(|_| final_protocol_error("the image has no URL at this host"))?;
        Ok((url, AddressRule::Any))
    }

    fn token_scope<'e>(&'e self, endpoint: &'e Endpoint) -> TokenScope<'e> {
        TokenScope {
            http: &endpoint.http,
            token_server: &endpoint.token_server,
            host_limits: &self.service.host_limits,
            root: &endpoint.root,
            peer: *endpoint.peer.lock(),
            repository: self.reference.repository(),
        }
    }
}

/// What came of a credential.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum AuthOutcome {
    Answered(Response),
    /// The host told, for the first time, how it wants to be asked.
    Challenged(Error),
    Refused(Error),
}

impl Endpoint {
    /// Returns the rules for the URLs that this host, or a layer's descriptor, names.
    fn url_policy(&self, target: Target<'_>) -> UrlPolicy<'_> {
        let policy = UrlPolicy::new(&self.root, *self.peer.lock());
        match target {
            Target::Api(_) | Target::Link(..) => policy,
            Target::Foreign(_) => policy.for_foreign_layers(),
        }
    }

    fn open(service: &Service, host: Host) -> Result<Self, Error> {
        let root = host.location.to_string().parse().map_err(|_| {
            Error::new(ErrorKind::InvalidConfig, format!("{} is no URL of a registry", host.location))
        })?;
        Ok(Endpoint {
            name: host.location.authority().to_owned(),
            http: service.clients.for_host(&host)?,
            elsewhere: service.clients.for_others()?,
            token_server: service.clients.for_token_servers()?,
            root,
            peer: Mutex::default(),
            access: Mutex::default(),
            has_failed: AtomicBool::new(false),
            host,
        })
    }
}

impl Access {
    /// Passes over a credential, unless another thread did already.
    fn refuse(&mut self, refused: &Found) {
        if let Some(left) = &mut self.left
            && left.front().is_some_and(|first| first.credential == refused.credential)
        {
            left.pop_front();
        }
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied)
}

/// Says which kinds of credentials were refused.
fn with_sources(refusal: &Error, refused: &[String]) -> Error {
    let tried = if refused.is_empty() { "no credentials".to_owned() } else { refused.join(", ") };
    let told = Error::new(refusal.kind(), format!("{} (tried: {tried})", refusal.message()));
    match (refusal.phase(), refusal.host()) {
        (Some(phase), Some(host)) => told.with_phase(phase).with_host(host),
        _ => told,
    }
}

/// Says what to look for: a challenge that is not understood is no request of credentials.
fn not_understood(refusal: &Error) -> Error {
    let message =
        format!("{}; the host wants credentials in a way that is not known here", refusal.message());
    Error::new(refusal.kind(), message)
}

/// The URL that a layer's descriptor names, if it may be fetched for this registry.
fn foreign_url(url: &str, endpoint: &Endpoint) -> Result<(Uri, AddressRule), Error> {
    let url: Uri = url.parse().map_err(|_| final_protocol_error("a layer's own URL cannot be read"))?;
    let addresses = endpoint.url_policy(Target::Foreign("")).check(&url).map_err(refused_url)?;
    Ok((url, addresses))
}

/// Returns the error for a URL of a server that is not asked.
fn refused_url(refusal: Refusal) -> Error {
    final_protocol_error(&refusal.to_string())
}

/// What a server wrote will be no better in a moment.
fn final_protocol_error(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message).with_retryable(false)
}

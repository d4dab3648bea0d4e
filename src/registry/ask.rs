//! One question to one host: admitted, authorised, redirected, and its refusal made an error.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::Service;
use super::auth::{Audience, Authorization};
use super::governor::Slot;
use super::hosts::Host;
use super::http::{Body, Http, Reply, Uri};
use super::policy;
use super::refusal::refusal;
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialQuery, Found};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::reference::Reference;
use crate::service::{CredentialFingerprint, PullSecret};

const MAX_REDIRECTS: usize = 5;

/// A repository at the hosts that serve it, for one pull.
pub(super) struct Repository<'a> {
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
    /// For where the host redirects to: as much trust, but nothing of ours is shown.
    elsewhere: Http,
    /// The root of the host's API.
    root: Uri,
    access: Mutex<Access>,
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
pub(super) struct Question<'a> {
    /// Below the repository's name, like `manifests/latest`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// `bytes=…`.
    pub(super) range: Option<&'a str>,
    pub(super) phase: Phase,
}

/// What a host answered to a question that it did not refuse: a 2xx, or the 416 of a range.
pub(super) struct Answer {
    pub(super) reply: Reply,
    slot: Slot,
}

impl Answer {
    /// The body, and the leave to use its connection.
    pub(super) fn into_body(self) -> (Body, Slot) {
        (self.reply.into_body(), self.slot)
    }
}

impl<'a> Repository<'a> {
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
        Ok(Repository { service, cx, reference, endpoints, pull_secrets, accepted: Mutex::default() })
    }

    /// The credential that the images' hosts took; `None` if they asked for none.
    pub(super) fn accepted(&self) -> Option<CredentialFingerprint> {
        self.accepted.lock().clone()
    }

    /// Asks one host.
    ///
    /// # Errors
    /// By status: `Unauthorized`, `Denied`, `NotFound`, `RateLimited`, `Unavailable`, `Timeout`,
    /// `Protocol`; and what the connection fails with.
    pub(super) fn ask(&self, endpoint: &Endpoint, question: Question<'_>) -> Result<Answer, Error> {
        let named = |error: Error| error.with_phase(question.phase).with_host(&endpoint.name);
        let slot = self.service.governor.admit(self.cx, &endpoint.name).map_err(named)?;
        let asked = self.ask_authorised(endpoint, question);
        if let Err(refusal) = &asked
            && let Some(delay) = refusal.retry_after()
        {
            let delay = delay.min(self.service.settings.patience.max_retry_after);
            self.service.governor.close(&endpoint.name, delay, refusal.message());
        }
        asked.map(|reply| Answer { reply, slot }).map_err(named)
    }

    /// Shows one credential after the other, nobody's last, until the host takes one. A challenge is
    /// learned from once, and a token that was good before is renewed once.
    fn ask_authorised(&self, endpoint: &Endpoint, question: Question<'_>) -> Result<Reply, Error> {
        let authority = &self.service.authority;
        let audience = self.audience(endpoint);
        let (mut has_learned, mut has_renewed) = (false, false);
        let mut refused = Vec::new();
        loop {
            let found = self.next_credential(endpoint)?;
            let credential = found.as_ref().map(|found| &found.credential);
            let refusal = match authority.authorize(self.cx, audience, credential) {
                Ok(shown) => {
                    let reply = self.ask_as(endpoint, question, shown.as_ref())?;
                    match reply.status() {
                        200..=299 | 416 => {
                            self.note_accepted(shown.as_ref(), credential);
                            return Ok(reply);
                        }
                        401 if !has_learned && authority.learn(audience, &reply)? => {
                            has_learned = true;
                            continue;
                        }
                        401 | 403 => {
                            if !has_renewed && shown.is_some_and(|shown| authority.renew(&shown)) {
                                has_renewed = true;
                                continue;
                            }
                            refusal(reply)
                        }
                        _ => return Err(refusal(reply)),
                    }
                }
                Err(error) if is_refusal(&error) => error,
                Err(error) => return Err(error),
            };
            let Some(found) = found else {
                refused.append(&mut endpoint.access.lock().failed);
                return Err(with_sources(&refusal, &refused));
            };
            refused.push(found.source.to_string());
            endpoint.access.lock().refuse(&found);
            has_renewed = false;
        }
    }

    /// The best credential that was not refused; `None` for nobody's, also while the host has not
    /// asked who we are: many never do.
    fn next_credential(&self, endpoint: &Endpoint) -> Result<Option<Found>, Error> {
        if !self.service.authority.knows(self.audience(endpoint)) {
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

    /// Asks, and follows where the host sends us. Where a signed URL leads to has no patience: what it
    /// refuses is asked for anew, once.
    fn ask_as(
        &self,
        endpoint: &Endpoint,
        question: Question<'_>,
        shown: Option<&Authorization>,
    ) -> Result<Reply, Error> {
        let reply = match self.follow(endpoint, question, shown)? {
            Arrival::AtHost(reply) => reply,
            Arrival::Elsewhere(reply) if matches!(reply.status(), 401 | 403 | 410) => {
                match self.follow(endpoint, question, shown)? {
                    Arrival::AtHost(reply) => reply,
                    Arrival::Elsewhere(reply) => not_our_refusal(reply)?,
                }
            }
            Arrival::Elsewhere(reply) => reply,
        };
        match reply.header("content-encoding") {
            Some(encoding) if !encoding.eq_ignore_ascii_case("identity") && reply.status() < 300 => {
                Err(Error::new(ErrorKind::Protocol, "the answer is encoded, which was not asked for"))
            }
            _ => Ok(reply),
        }
    }

    fn follow(
        &self,
        endpoint: &Endpoint,
        question: Question<'_>,
        shown: Option<&Authorization>,
    ) -> Result<Arrival, Error> {
        let mut url = self.url(endpoint, question.path)?;
        for _ in 0..=MAX_REDIRECTS {
            let is_at_host = policy::same_origin(&url, &endpoint.root);
            let mut headers: Vec<(&str, &str)> = Vec::new();
            headers.extend(question.accept.map(|accept| ("accept", accept)));
            headers.extend(question.range.map(|range| ("range", range)));
            let http = if is_at_host {
                headers.extend(
                    endpoint.host.headers.iter().map(|(name, value)| (name.as_str(), value.expose())),
                );
                headers.extend(shown.map(|shown| ("authorization", shown.header.expose())));
                &endpoint.http
            } else {
                &endpoint.elsewhere
            };
            let reply = http.get(self.cx, &url, &headers)?;
            if !matches!(reply.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(if is_at_host { Arrival::AtHost(reply) } else { Arrival::Elsewhere(reply) });
            }
            let next = reply.header("location").and_then(|location| policy::resolve(&url, location));
            let next = next.ok_or_else(|| Error::new(ErrorKind::Protocol, "a redirect leads nowhere"))?;
            policy::may_redirect(&url, &next).map_err(|refusal| Error::new(ErrorKind::Protocol, refusal))?;
            url = next;
        }
        Err(Error::new(ErrorKind::Protocol, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// A mirror is told whose image it is, as containerd tells it.
    fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Uri, Error> {
        let mut url = format!("{}/{}/{path}", endpoint.host.location, self.reference.repository());
        if !endpoint.host.is_registry_itself {
            url.push_str("?ns=");
            url.push_str(self.reference.domain());
        }
        url.parse().map_err(|_| Error::new(ErrorKind::Protocol, "the image has no URL at this host"))
    }

    fn audience<'e>(&'e self, endpoint: &'e Endpoint) -> Audience<'e> {
        Audience { http: &endpoint.http, root: &endpoint.root, repository: self.reference.repository() }
    }
}

/// Where a question ended up.
enum Arrival {
    AtHost(Reply),
    Elsewhere(Reply),
}

impl Endpoint {
    fn open(service: &Service, host: Host) -> Result<Self, Error> {
        let root = host.location.to_string().parse().map_err(|_| {
            Error::new(ErrorKind::InvalidConfig, format!("{} is no URL of a registry", host.location))
        })?;
        Ok(Endpoint {
            name: host.location.authority().to_owned(),
            http: service.http_for(&host)?,
            elsewhere: service.http_beyond(&host)?,
            root,
            access: Mutex::default(),
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

/// What another host refuses says nothing about our credentials.
fn not_our_refusal(reply: Reply) -> Result<Reply, Error> {
    match reply.status() {
        401 | 403 | 410 => {
            let refusal = refusal(reply);
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("the host it redirects to refuses: {}", refusal.message()),
            ))
        }
        _ => Ok(reply),
    }
}

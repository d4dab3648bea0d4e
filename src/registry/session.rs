//! One pull's view of the hosts that serve its repository: where they are, and which credentials are left.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::auth::TokenScope;
use super::client::Service;
use super::hosts::Host;
use super::http::{Http, SharedRate, Uri};
use super::url_policy::{self, UrlPolicy};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialQuery, FoundCredential};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::reference::Reference;
use crate::service::{CredentialFingerprint, PullSecret};

/// Maximum number of hosts whose redirects, and of paths whose redirect, an endpoint remembers.
const MAX_REMEMBERED: usize = 256;

/// A repository at the hosts that serve it, for one pull.
pub(super) struct PullSession<'a> {
    pub(super) service: &'a Service,
    pub(super) cx: &'a PullContext,
    pub(super) reference: &'a Reference,
    pub(super) endpoints: Arc<[HostEndpoint]>,
    pull_secrets: &'a [PullSecret],
    /// The credential that a host accepted last.
    accepted: Arc<Mutex<Option<CredentialFingerprint>>>,
    /// The rates of this pull, by host.
    rates: Arc<Mutex<HashMap<String, Arc<SharedRate>>>>,
}

/// A configured host.
pub(super) struct HostEndpoint {
    pub(super) host: Host,
    /// `HOST[:PORT]`, for errors and progress.
    pub(super) name: String,
    /// The origin of its API.
    pub(super) origin: Arc<Origin>,
    /// The hosts that it redirected to, by scheme, host and port.
    redirect_origins: Mutex<HashMap<String, Arc<Origin>>>,
    /// The targets of redirects by path of its API, while they answer.
    pub(super) redirects: Mutex<HashMap<String, Uri>>,
    /// Whether it refused this pull or sent a wrong response: then other hosts are tried first.
    pub(super) has_failed: AtomicBool,
}

/// A host that is asked, among those that may serve the same.
#[derive(Clone, Copy)]
pub(super) struct HostTurn<'a> {
    pub(super) endpoint: &'a HostEndpoint,
    /// Whether another host was not tried yet.
    pub(super) others_left: bool,
}

impl std::ops::Deref for HostTurn<'_> {
    type Target = HostEndpoint;

    fn deref(&self) -> &HostEndpoint {
        self.endpoint
    }
}

/// A scheme, host and port that has challenges, credentials and tokens of its own.
pub(super) struct Origin {
    /// The root of the endpoint's API; of another host scheme, host and port.
    pub(super) root: Uri,
    pub(super) http: Http,
    /// For token servers on other hosts: none of this host's own TLS settings.
    token_server: Http,
    /// The hosts that it may name at any address: the configured ones, and the exceptions.
    allowed_hosts: Arc<[String]>,
    /// The address that it answered from last; unknown behind a proxy.
    pub(super) peer: Mutex<Option<IpAddr>>,
    /// The host by which credentials are looked up.
    domain: String,
    repository: String,
    /// Whether it is the registry itself, which may be sent credentials without a challenge.
    is_registry_itself: bool,
    access: Mutex<RemainingCredentials>,
}

/// The credentials that were found, less those that were refused.
#[derive(Default)]
struct RemainingCredentials {
    left: Option<VecDeque<FoundCredential>>,
    /// The credential helpers that failed, and why.
    failed: Vec<String>,
    /// Whether a credential was sent without a challenge.
    was_unsolicited: bool,
}

impl<'a> PullSession<'a> {
    /// Finds the hosts, without a request to any.
    ///
    /// # Errors
    /// `InvalidConfig` for settings and secrets that are wrong.
    pub(super) fn open(
        service: &'a Service,
        cx: &'a PullContext,
        reference: &'a Reference,
        pull_secrets: &'a [PullSecret],
    ) -> Result<Self, Error> {
        service.credentials.check(pull_secrets)?;
        let hosts = service.hosts.for_registry(reference.domain())?;
        let roots = hosts.iter().filter_map(|host| host.location.to_string().parse::<Uri>().ok());
        let configured = roots.map(|root| url_policy::host_and_port(&root));
        let allowed: Arc<[String]> =
            configured.chain(service.settings.allowed_redirects.iter().cloned()).collect();
        let endpoints = hosts
            .into_iter()
            .map(|host| HostEndpoint::open(service, host, reference, &allowed))
            .collect::<Result<_, _>>()?;
        let (accepted, rates) = (Arc::default(), Arc::default());
        Ok(PullSession { service, cx, reference, endpoints, pull_secrets, accepted, rates })
    }

    /// Returns the same session for requests that end with `cx`.
    #[cfg(feature = "signatures")]
    pub(super) fn with_context<'b>(&'b self, cx: &'b PullContext) -> PullSession<'b> {
        PullSession {
            service: self.service,
            cx,
            reference: self.reference,
            endpoints: Arc::clone(&self.endpoints),
            pull_secrets: self.pull_secrets,
            accepted: Arc::clone(&self.accepted),
            rates: Arc::clone(&self.rates),
        }
    }

    /// Counts that a host is tried again.
    pub(super) fn count_retry(&self, host: &str) {
        self.service.clients.counters.of_host(host).count_retry();
    }

    /// Returns the shared rate of this pull from a host.
    pub(super) fn rate_of(&self, host: &str) -> Arc<SharedRate> {
        Arc::clone(self.rates.lock().entry(host.to_owned()).or_default())
    }

    /// Returns the credential that the hosts accepted last; `None` if the pull was anonymous.
    pub(super) fn accepted(&self) -> Option<CredentialFingerprint> {
        self.accepted.lock().clone()
    }

    pub(super) fn note_accepted(&self, credential: Option<&Credential>) {
        *self.accepted.lock() = credential.map(Credential::fingerprint);
    }

    /// Returns the best credential that was not refused; `None` for an anonymous request, and before the first
    /// challenge of the host.
    pub(super) fn next_credential(&self, origin: &Origin) -> Result<Option<FoundCredential>, Error> {
        if !self.service.tokens.knows(self.token_scope(origin)) {
            return Ok(None);
        }
        self.look_up(origin)?;
        Ok(origin.access.lock().left.as_ref().and_then(|left| left.front().cloned()))
    }

    /// Returns a user and a password for the registry itself that were not sent yet; once for a pull.
    pub(super) fn unsolicited_credential(&self, origin: &Origin) -> Result<Option<FoundCredential>, Error> {
        if !origin.is_registry_itself || self.service.tokens.knows(self.token_scope(origin)) {
            return Ok(None);
        }
        if std::mem::replace(&mut origin.access.lock().was_unsolicited, true) {
            return Ok(None);
        }
        self.look_up(origin)?;
        let access = origin.access.lock();
        let mut left = access.left.iter().flatten();
        Ok(left.find(|found| found.credential.is_basic()).cloned())
    }

    fn look_up(&self, origin: &Origin) -> Result<(), Error> {
        if origin.access.lock().left.is_some() {
            return Ok(());
        }
        let query = CredentialQuery::new(&origin.domain, &origin.repository)
            .with_plain_http(origin.root.scheme_str() == Some("http"));
        let found = self.service.credentials.lookup(self.cx, self.pull_secrets, &query);
        let found = found.map_err(|error| error.with_phase(Phase::Credentials))?;
        let mut access = origin.access.lock();
        if access.left.is_none() {
            access.failed = found
                .failed
                .into_iter()
                // The message of a helper begins with its name.
                .map(|(source, error)| match error.message().starts_with(&source.to_string()) {
                    true => error.message().to_owned(),
                    false => format!("{source}: {}", error.message()),
                })
                .collect();
            access.left = Some(found.found.into());
        }
        Ok(())
    }

    pub(super) fn token_scope<'o>(&'o self, origin: &'o Origin) -> TokenScope<'o> {
        TokenScope {
            http: &origin.http,
            token_server: &origin.token_server,
            host_limits: &self.service.host_limits,
            root: &origin.root,
            peer: *origin.peer.lock(),
            repository: &origin.repository,
            response_timeout: self.service.settings.response.of_token_server(),
            allowed_hosts: &origin.allowed_hosts,
            allowed_realms: self.service.settings.token_realms.as_deref(),
        }
    }

    /// Returns the origin of a URL that `endpoint` redirected to.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn redirect_origin(&self, endpoint: &HostEndpoint, url: &Uri) -> Result<Arc<Origin>, Error> {
        let (scheme, name) = (url.scheme_str().unwrap_or_default(), authority(url));
        let key = format!("{scheme}://{name}");
        let mut known = endpoint.redirect_origins.lock();
        if let Some(origin) = known.get(&key) {
            return Ok(Arc::clone(origin));
        }
        let origin = Arc::new(Origin {
            root: key.parse().map_err(|_| Error::new(ErrorKind::Protocol, "a redirect names no host"))?,
            http: self.service.clients.for_others()?,
            token_server: self.service.clients.for_token_servers()?,
            allowed_hosts: Arc::clone(&endpoint.origin.allowed_hosts),
            peer: Mutex::default(),
            domain: name.to_owned(),
            repository: repository_in(url.path()).unwrap_or(self.reference.repository()).to_owned(),
            is_registry_itself: false,
            access: Mutex::default(),
        });
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key, Arc::clone(&origin));
        Ok(origin)
    }
}

impl HostEndpoint {
    fn open(
        service: &Service,
        host: Host,
        reference: &Reference,
        allowed: &Arc<[String]>,
    ) -> Result<Self, Error> {
        let root = host.location.to_string().parse().map_err(|_| {
            Error::new(ErrorKind::InvalidConfig, format!("{} is no URL of a registry", host.location))
        })?;
        let name = host.location.authority().to_owned();
        let origin = Origin {
            root,
            http: service.clients.for_host(&host)?,
            token_server: service.clients.for_token_servers()?,
            allowed_hosts: Arc::clone(allowed),
            peer: Mutex::default(),
            domain: if host.is_registry_itself { reference.domain().to_owned() } else { name.clone() },
            repository: reference.repository().to_owned(),
            is_registry_itself: host.is_registry_itself,
            access: Mutex::default(),
        };
        Ok(HostEndpoint {
            name,
            origin: Arc::new(origin),
            redirect_origins: Mutex::default(),
            redirects: Mutex::default(),
            has_failed: AtomicBool::new(false),
            host,
        })
    }

    /// Returns the rules for the URLs that this host names.
    pub(super) fn url_policy(&self) -> UrlPolicy<'_> {
        UrlPolicy::new(&self.origin.root, *self.origin.peer.lock()).allowing(&self.origin.allowed_hosts)
    }

    /// Remembers where a path of the API is redirected to.
    pub(super) fn remember_redirect(&self, path: &str, url: Uri) {
        let mut redirects = self.redirects.lock();
        if redirects.len() >= MAX_REMEMBERED {
            redirects.clear();
        }
        redirects.insert(path.to_owned(), url);
    }
}

impl Origin {
    /// Passes over a credential, unless another thread did already.
    pub(super) fn refuse(&self, refused: &FoundCredential) {
        if let Some(left) = &mut self.access.lock().left
            && left.front().is_some_and(|first| first.credential == refused.credential)
        {
            left.pop_front();
        }
    }

    /// Returns the credential helpers that failed, and why; once.
    pub(super) fn take_failed_helpers(&self) -> Vec<String> {
        std::mem::take(&mut self.access.lock().failed)
    }
}

pub(super) fn authority(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

/// Returns the repository in a path of the registry API.
fn repository_in(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/", "/referrers/"].iter().filter_map(|part| path.rfind(part)).max()?;
    path.get(..end).filter(|repository| !repository.is_empty())
}

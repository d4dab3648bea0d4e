//! The shared state of all pulls of a service, with its connections: one pool for each distinct TLS setting.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::auth::TokenCache;
use super::client_metrics::ClientCounters;
use super::host_limits::HostLimits;
use super::hosts::{Host, Hosts};
use super::http::{Http, HttpLimits, Proxies, Resolver, Trust, use_threads};
use super::settings::RegistrySettings;
use crate::credentials::Credentials;
use crate::credentials::config_file;
use crate::error::{Error, ErrorKind};
use crate::store::Store;
use crate::sync::{FairShare, PoolUser, RateLimit};

/// Largest certificate or key file, bytes.
const MAX_PEM: u64 = 1024 * 1024;

/// Maximum number of connection pools.
const MAX_POOLS: usize = 64;

/// The shared state of all pulls of a service.
pub(super) struct Service {
    pub(super) settings: RegistrySettings,
    pub(super) hosts: Hosts,
    pub(super) credentials: Credentials,
    pub(super) tokens: TokenCache,
    pub(super) host_limits: HostLimits,
    /// The pulls that may have open files, which the registries share.
    pub(super) pulls: FairShare,
    pub(super) store: Store,
    /// The store that images are unpacked into.
    #[cfg(feature = "unpack")]
    pub(super) layers: Option<crate::unpack::LayerStore>,
    pub(super) clients: Clients,
}

/// The connections of a service.
pub(super) struct Clients {
    limits: HttpLimits,
    /// The trust for hosts without settings of their own.
    trust: Trust,
    proxies: Proxies,
    resolver: Arc<dyn Resolver>,
    /// Of all bodies, bytes per second.
    pub(super) bandwidth: Arc<RateLimit>,
    pub(super) counters: Arc<ClientCounters>,
    pools: Mutex<Vec<Pool>>,
    /// Keeps the lookup threads.
    _threads: PoolUser,
}

/// The connections with the same settings.
struct Pool {
    trust: Trust,
    connect: Duration,
    http: Http,
}

impl Clients {
    /// Creates the connections of a service.
    ///
    /// # Errors
    /// `InvalidConfig` if a certificate, a key or the proxy cannot be used.
    pub(super) fn new(settings: &RegistrySettings, resolver: Arc<dyn Resolver>) -> Result<Self, Error> {
        let clients = Clients {
            limits: settings.limits.clone(),
            trust: settings.trust.clone(),
            proxies: Proxies::new(&settings.proxy)?,
            resolver,
            bandwidth: Arc::new(RateLimit::new(settings.bandwidth)),
            counters: Arc::default(),
            pools: Mutex::default(),
            _threads: use_threads(),
        };
        clients.pool(clients.trust.clone(), clients.limits.connect)?;
        Ok(clients)
    }

    /// Returns the connections to a host, with its own TLS settings.
    ///
    /// # Errors
    /// `InvalidConfig` if a certificate or a key cannot be read or used.
    pub(super) fn for_host(&self, host: &Host) -> Result<Http, Error> {
        let mut trust = self.trust.clone();
        for path in &host.tls.ca {
            trust.authorities.push(read_pem(path)?);
        }
        trust.skip_verify = host.tls.skip_verify;
        if let Some((certificate, key)) = host.tls.client.first() {
            let chain = read_pem(certificate)?;
            let key = key.as_ref().map_or_else(|| Ok(chain.clone()), |key| read_pem(key))?;
            trust.client = Some((chain, key));
        }
        self.pool(trust, host.dial_timeout.unwrap_or(self.limits.connect))
    }

    /// Returns the connections to hosts that another server named. A host's TLS settings are for that
    /// host and port alone, and no client certificate is shown.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn for_others(&self) -> Result<Http, Error> {
        self.pool(Trust { client: None, ..self.trust.clone() }, self.limits.connect)
    }

    /// Returns the connections to token servers that are not on a registry's own host and port.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn for_token_servers(&self) -> Result<Http, Error> {
        self.pool(self.trust.clone(), self.limits.connect)
    }

    fn pool(&self, trust: Trust, connect: Duration) -> Result<Http, Error> {
        let mut pools = self.pools.lock();
        if let Some(known) = pools.iter().find(|known| known.trust == trust && known.connect == connect) {
            return Ok(known.http.clone());
        }
        let limits = HttpLimits { connect, ..self.limits.clone() };
        let proxy_trust = Trust { client: None, ..self.trust.clone() };
        let (resolver, bandwidth) = (Arc::clone(&self.resolver), Arc::clone(&self.bandwidth));
        let counters = Arc::clone(&self.counters);
        let http = Http::new(&limits, &trust, &proxy_trust, &self.proxies, resolver, bandwidth, counters)?;
        if pools.len() >= MAX_POOLS {
            pools.remove(0);
        }
        pools.push(Pool { trust, connect, http: http.clone() });
        Ok(http)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Error> {
    config_file::read(path, MAX_PEM)
        .map_err(|error| Error::new(ErrorKind::InvalidConfig, format!("{}: {error}", path.display())))
}

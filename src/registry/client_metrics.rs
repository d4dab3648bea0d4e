//! What a service counts of its requests, by host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::prometheus::PrometheusText;

/// Maximum number of hosts with counts of their own: redirects can name any number of hosts.
const MAX_HOSTS: usize = 64;

/// The name under which all further hosts are counted.
const OTHER: &str = "other";

/// Counts since the service was built, of all its pulls and look-ups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientMetrics {
    /// The counts by host: `HOST` or `HOST:PORT`, as in the URLs of the requests. Registries, mirrors, the targets of
    /// redirects and token servers are hosts; a proxy is not. The first 64 hosts have counts of their own, and
    /// all further ones are counted under `other`.
    pub hosts: BTreeMap<String, HostMetrics>,
}

/// The counts of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostMetrics {
    /// Requests, also those that the host did not answer. Each hop of a redirect is a request.
    pub requests: u64,
    /// How often the host was tried again for the same manifest, blob or part of a blob after a try there had failed. One
    /// try may take several requests: of a token, of a redirect.
    pub retries: u64,
    /// Bytes of bodies that were received, those of errors and tokens included; heads are not counted.
    pub body_bytes: u64,
}

impl ClientMetrics {
    /// Returns the metrics in the
    /// [text format of Prometheus](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format). No
    /// name is also one of [`ManagerMetrics`](crate::manager::ManagerMetrics), so that one page may hold both texts.
    pub fn to_prometheus(&self) -> String {
        type Count = fn(&HostMetrics) -> u64;
        let counters: [(&str, &str, Count); 3] = [
            ("oci_puller_http_requests_total", "Requests to the host.", |host| host.requests),
            ("oci_puller_http_retries_total", "Tries of the host after one that failed.", |host| {
                host.retries
            }),
            (
                "oci_puller_http_body_bytes_total",
                "Bytes of bodies that were received from the host.",
                |host| host.body_bytes,
            ),
        ];
        let mut text = PrometheusText::default();
        for (name, help, count) in counters {
            text.head(name, help, "counter");
            for (host, counts) in &self.hosts {
                text.sample(name, &[("host", host)], count(counts));
            }
        }
        text.into_text()
    }
}

/// The counters of a service.
#[derive(Debug, Default)]
pub(super) struct ClientCounters {
    hosts: Mutex<BTreeMap<String, Arc<HostCounters>>>,
}

/// The counters of one host.
#[derive(Debug, Default)]
pub(super) struct HostCounters {
    requests: AtomicU64,
    retries: AtomicU64,
    body_bytes: AtomicU64,
}

impl ClientCounters {
    /// Returns the counters of a host.
    pub(super) fn of_host(&self, host: &str) -> Arc<HostCounters> {
        let mut hosts = self.hosts.lock();
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        let name = if hosts.len() < MAX_HOSTS { host } else { OTHER };
        Arc::clone(hosts.entry(name.to_owned()).or_default())
    }

    pub(super) fn metrics(&self) -> ClientMetrics {
        let hosts = self.hosts.lock();
        let counts = |counters: &HostCounters| HostMetrics {
            requests: counters.requests.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            body_bytes: counters.body_bytes.load(Ordering::Relaxed),
        };
        let hosts = hosts.iter().map(|(host, counters)| (host.clone(), counts(counters))).collect();
        ClientMetrics { hosts }
    }
}

impl HostCounters {
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_body_bytes(&self, bytes: usize) {
        self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_count_of_each_host() {
        let counters = ClientCounters::default();
        let mirror = counters.of_host("mirror:5000");
        mirror.count_request();
        mirror.count_request();
        mirror.count_retry();
        mirror.count_body_bytes(70_000);
        counters.of_host("auth.example.com").count_request();
        let expected = r#"# HELP oci_puller_http_requests_total Requests to the host.
# TYPE oci_puller_http_requests_total counter
oci_puller_http_requests_total{host="auth.example.com"} 1
oci_puller_http_requests_total{host="mirror:5000"} 2
# HELP oci_puller_http_retries_total Tries of the host after one that failed.
# TYPE oci_puller_http_retries_total counter
oci_puller_http_retries_total{host="auth.example.com"} 0
oci_puller_http_retries_total{host="mirror:5000"} 1
# HELP oci_puller_http_body_bytes_total Bytes of bodies that were received from the host.
# TYPE oci_puller_http_body_bytes_total counter
oci_puller_http_body_bytes_total{host="auth.example.com"} 0
oci_puller_http_body_bytes_total{host="mirror:5000"} 70000
"#;
        assert_eq!(counters.metrics().to_prometheus(), expected);
    }

    #[test]
    fn hosts_beyond_the_bound_are_counted_together() {
        let counters = ClientCounters::default();
        for _ in 0..2 {
            for host in 0..MAX_HOSTS + 10 {
                counters.of_host(&format!("host{host}")).count_request();
            }
        }
        let ClientMetrics { hosts } = counters.metrics();
        assert_eq!(hosts.len(), MAX_HOSTS + 1);
        assert_eq!(hosts["host0"].requests, 2);
        assert_eq!(hosts[OTHER].requests, 20);
    }
}

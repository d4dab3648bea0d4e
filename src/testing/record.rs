//! The registry's counters, and its record of requests.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The kind of resource that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// `/v2/`, which shows the authentication scheme.
    Ping,
    /// A manifest or an index.
    Manifest,
    /// A blob: a config or a layer.
    Blob,
    /// The referrers of a manifest.
    Referrers,
    /// The tags of a repository.
    Tags,
    /// A bearer token.
    Token,
    /// Anything else.
    Other,
}

/// A received request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeenRequest {
    /// The number of its connection; the first one is 0.
    pub connection: u64,
    /// The kind of resource.
    pub target: Target,
    /// The method, in upper case.
    pub method: String,
    /// The path, percent-decoded.
    pub path: String,
    /// The query after the `?`, as received; empty without one.
    pub query: String,
    /// The headers in order, as received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl SeenRequest {
    /// Returns the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// The counters since the registry started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStats {
    /// All requests.
    pub requests: u64,
    /// Those with the method HEAD, which the counts by target have too.
    pub heads: u64,
    /// Requests for `/v2/`.
    pub pings: u64,
    /// Requests for manifests and indexes.
    pub manifests: u64,
    /// Requests for blobs.
    pub blobs: u64,
    /// Requests for referrers.
    pub referrers: u64,
    /// Requests for tokens.
    pub tokens: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Bytes of the bodies of all responses.
    pub body_bytes: u64,
    /// Bytes of the bodies of responses to requests for blobs.
    pub blob_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    state: Mutex<RecordState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct RecordState {
    stats: RegistryStats,
    requests: Vec<SeenRequest>,
}

impl Record {
    pub(super) fn connection_opened(&self) {
        self.count(|stats| {
            stats.connections_accepted += 1;
            stats.connections_open += 1;
        });
    }

    pub(super) fn connection_closed(&self) {
        self.count(|stats| stats.connections_open -= 1);
    }

    pub(super) fn body_sent(&self, target: Target, bytes: usize) {
        self.count(|stats| {
            stats.body_bytes += bytes as u64;
            if target == Target::Blob {
                stats.blob_bytes += bytes as u64;
            }
        });
    }

    pub(super) fn request(&self, request: &SeenRequest) {
        let request = request.clone();
        self.count_in(|state| {
            let stats = &mut state.stats;
            stats.requests += 1;
            stats.heads += u64::from(request.method == "HEAD");
            match request.target {
                Target::Ping => stats.pings += 1,
                Target::Manifest => stats.manifests += 1,
                Target::Blob => stats.blobs += 1,
                Target::Referrers => stats.referrers += 1,
                Target::Token => stats.tokens += 1,
                Target::Tags | Target::Other => {}
            }
            state.requests.push(request);
        });
    }

    pub(super) fn stats(&self) -> RegistryStats {
        self.state.lock().stats
    }

    pub(super) fn requests(&self) -> Vec<SeenRequest> {
        self.state.lock().requests.clone()
    }

    pub(super) fn forget_requests(&self) {
        self.state.lock().requests.clear();
    }

    /// Waits until `reached` is true. Returns false after `timeout`.
    pub(super) fn wait_until(
        &self,
        mut reached: impl FnMut(&RegistryStats) -> bool,
        timeout: Duration,
    ) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !reached(&state.stats), timeout);
        reached(&state.stats)
    }

    fn count(&self, change: impl FnOnce(&mut RegistryStats)) {
        self.count_in(|state| change(&mut state.stats));
    }

    fn count_in(&self, change: impl FnOnce(&mut RecordState)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

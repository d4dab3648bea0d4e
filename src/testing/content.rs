//! The registry's manifests and blobs, and the replies with them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::http::form_pairs;
use super::record::{SeenRequest, Target};
use super::reply::Reply;
use crate::image::digest::Digest;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Manifest { repository: String, reference: String },
    Blob { repository: String, digest: String },
    Referrers { repository: String, digest: String },
    Tags { repository: String },
    Token,
    Other,
}

impl Route {
    /// Parses a path; `api_root` is the prefix of the API's paths, like `/v2`.
    pub(super) fn of(path: &str, api_root: &str) -> Self {
        if path == "/token" {
            return Route::Token;
        }
        let Some(path) = path.strip_prefix(api_root).and_then(|path| path.strip_prefix('/')) else {
            return if path == api_root { Route::Ping } else { Route::Other };
        };
        if path.is_empty() {
            return Route::Ping;
        }
        // From the right: a repository's name may have these words in it.
        let mut words = path.rsplitn(3, '/').map(str::to_owned);
        match (words.next(), words.next().as_deref(), words.next()) {
            (Some(reference), Some("manifests"), Some(repository)) => {
                Route::Manifest { repository, reference }
            }
            (Some(digest), Some("blobs"), Some(repository)) => Route::Blob { repository, digest },
            (Some(digest), Some("referrers"), Some(repository)) => Route::Referrers { repository, digest },
            (Some(list), Some("tags"), Some(repository)) if list == "list" => Route::Tags { repository },
            _ => Route::Other,
        }
    }

    pub(super) fn target(&self) -> Target {
        match self {
            Route::Ping => Target::Ping,
            Route::Manifest { .. } => Target::Manifest,
            Route::Blob { .. } => Target::Blob,
            Route::Referrers { .. } => Target::Referrers,
            Route::Tags { .. } => Target::Tags,
            Route::Token => Target::Token,
            Route::Other => Target::Other,
        }
    }

    /// The repository that it is about.
    pub(super) fn repository(&self) -> Option<&str> {
        match self {
            Route::Manifest { repository, .. }
            | Route::Blob { repository, .. }
            | Route::Referrers { repository, .. }
            | Route::Tags { repository } => Some(repository),
            _ => None,
        }
    }
}

/// Manifests, blobs and files, by name.
#[derive(Debug, Default)]
pub(super) struct RegistryContent(Mutex<ContentState>);

#[derive(Debug, Default)]
struct ContentState {
    /// By repository, and tag or digest.
    manifests: HashMap<(String, String), StoredManifest>,
    /// By repository and digest.
    blobs: HashMap<(String, String), Arc<[u8]>>,
    /// By path.
    files: HashMap<String, Arc<[u8]>>,
}

#[derive(Clone, Debug)]
struct StoredManifest {
    media_type: String,
    digest: Digest,
    data: Arc<[u8]>,
}

impl RegistryContent {
    /// A manifest goes by its digest and by `reference`.
    pub(super) fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        digest: Digest,
        data: Arc<[u8]>,
    ) {
        let manifest = StoredManifest { media_type: media_type.to_owned(), digest, data };
        let mut state = self.0.lock();
        for name in [manifest.digest.as_str(), reference] {
            state.manifests.insert((repository.to_owned(), name.to_owned()), manifest.clone());
        }
    }

    pub(super) fn put_blob(&self, repository: &str, digest: &str, data: Arc<[u8]>) {
        self.0.lock().blobs.insert((repository.to_owned(), digest.to_owned()), data);
    }

    pub(super) fn put_file(&self, path: &str, data: Arc<[u8]>) {
        self.0.lock().files.insert(path.to_owned(), data);
    }

    /// What a healthy registry answers; `range` is the request's `Range`, where it is heeded.
    pub(super) fn answer(&self, route: &Route, request: &SeenRequest, range: Option<&str>) -> Reply {
        match route {
            Route::Manifest { repository, reference } => self.manifest(repository, reference),
            Route::Blob { repository, digest } => self.blob(repository, digest, range),
            Route::Referrers { repository, digest } => self.referrers(repository, digest, &request.query),
            Route::Tags { repository } => self.tags(repository, &request.query),
            Route::Ping => Reply::json(200, &json!({})),
            Route::Token | Route::Other => self.file(&request.path, range),
        }
    }

    fn manifest(&self, repository: &str, reference: &str) -> Reply {
        let key = (repository.to_owned(), reference.to_owned());
        match self.0.lock().manifests.get(&key) {
            Some(manifest) => Reply::new(200, &manifest.media_type, manifest.data.clone())
                .with("Docker-Content-Digest", manifest.digest.as_str()),
            None => Reply::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn blob(&self, repository: &str, digest: &str, range: Option<&str>) -> Reply {
        let key = (repository.to_owned(), digest.to_owned());
        match self.0.lock().blobs.get(&key) {
            Some(data) => Reply::new(200, "application/octet-stream", data.clone())
                .with("Docker-Content-Digest", digest)
                .ranged(range),
            None => Reply::error(404, "BLOB_UNKNOWN"),
        }
    }

    fn file(&self, path: &str, range: Option<&str>) -> Reply {
        match self.0.lock().files.get(path) {
            Some(data) => Reply::new(200, "application/octet-stream", data.clone()).ranged(range),
            None => Reply::status(404),
        }
    }

    /// See the spec's [referrers](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers).
    fn referrers(&self, repository: &str, subject: &str, query: &str) -> Reply {
        let wanted = form_pairs(query).find(|(name, _)| name == "artifactType").map(|(_, value)| value);
        let mut descriptors: Vec<_> = self.of_subject(repository, subject);
        if let Some(wanted) = &wanted {
            descriptors.retain(|descriptor| descriptor["artifactType"] == wanted.as_str());
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors });
        let reply = Reply::new(200, INDEX, index.to_string().into_bytes().into());
        if wanted.is_some() { reply.with("OCI-Filters-Applied", "artifactType") } else { reply }
    }

    /// Lists at most `n` tags behind `last`, in lexical order. See the spec's
    /// [tags](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags).
    fn tags(&self, repository: &str, query: &str) -> Reply {
        let parameter =
            |wanted: &str| form_pairs(query).find(|(name, _)| name == wanted).map(|(_, value)| value);
        let state = self.0.lock();
        let names = state.manifests.keys().filter(|(known, _)| known == repository).map(|(_, name)| name);
        let mut tags: Vec<_> = names.filter(|name| !name.contains(':')).cloned().collect();
        if tags.is_empty() {
            return Reply::error(404, "NAME_UNKNOWN");
        }
        tags.sort();
        tags.retain(|tag| parameter("last").is_none_or(|last| *tag > last));
        let limit = parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let is_last = tags.len() <= limit;
        tags.truncate(limit);
        let reply = Reply::json(200, &json!({ "name": repository, "tags": tags }));
        match tags.last().filter(|_| !is_last) {
            Some(last) => {
                let next = format!("</v2/{repository}/tags/list?n={limit}&last={last}>; rel=\"next\"");
                reply.with("Link", next)
            }
            None => reply,
        }
    }

    /// Descriptors of the manifests that name `subject`, in the order of their digests.
    fn of_subject(&self, repository: &str, subject: &str) -> Vec<Value> {
        let state = self.0.lock();
        let mut found: Vec<_> = state
            .manifests
            .iter()
            .filter(|((known, name), manifest)| known == repository && *name == manifest.digest.as_str())
            .filter_map(|(_, manifest)| {
                let json: Value = serde_json::from_slice(&manifest.data).ok()?;
                (json["subject"]["digest"] == subject).then(|| manifest.descriptor(&json))
            })
            .collect();
        found.sort_by_key(|descriptor| descriptor["digest"].to_string());
        found
    }
}

impl StoredManifest {
    fn descriptor(&self, json: &Value) -> Value {
        let artifact_type = json.get("artifactType").unwrap_or(&json["config"]["mediaType"]);
        json!({
            "mediaType": self.media_type,
            "digest": self.digest.as_str(),
            "size": self.data.len(),
            "artifactType": artifact_type,
            "annotations": json.get("annotations").unwrap_or(&json!({})),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let manifest = |repository: &str, reference: &str| Route::Manifest {
            repository: repository.to_owned(),
            reference: reference.to_owned(),
        };
        for (path, route) in [
            ("/v2/", Route::Ping),
            ("/v2", Route::Ping),
            ("/token", Route::Token),
            ("/v2/a/manifests/latest", manifest("a", "latest")),
            ("/v2/a/b/manifests/sha256:0", manifest("a/b", "sha256:0")),
            ("/v2/manifests/blobs/manifests/x", manifest("manifests/blobs", "x")),
            ("/v2/a/tags/list", Route::Tags { repository: "a".to_owned() }),
            ("/v2/a/tags/other", Route::Other),
            ("/v3/a/manifests/x", Route::Other),
            ("/", Route::Other),
        ] {
            assert_eq!(Route::of(path, "/v2"), route, "{path}");
        }
        assert_eq!(Route::of("/mirror/a/manifests/x", "/mirror"), manifest("a", "x"));
    }
}

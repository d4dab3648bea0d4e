//! Requests to image services.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

/// Names an image: the image spec of CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ImageSpec {
    /// The image as the user typed it, like `alpine` or `registry.example.com/app@sha256:…`.
    pub image: String,
    /// The runtime handler that the image is for. Services without runtime handlers ignore it. Default: none.
    pub runtime_handler: Option<String>,
    /// Annotations for the service. Default: none.
    pub annotations: BTreeMap<String, String>,
}

impl ImageSpec {
    /// Creates a spec of `image`, as typed, without runtime handler and annotations.
    pub fn new(image: impl Into<String>) -> Self {
        ImageSpec { image: image.into(), ..ImageSpec::default() }
    }

    /// Sets the runtime handler that the image is for. Default: none.
    #[must_use]
    pub fn with_runtime_handler(mut self, handler: impl Into<String>) -> Self {
        self.runtime_handler = Some(handler.into());
        self
    }

    /// Adds an annotation for the service, or replaces the one of the same key. Default: none.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

impl<T: Into<String>> From<T> for ImageSpec {
    fn from(image: T) -> Self {
        ImageSpec::new(image)
    }
}

/// A request to pull one image.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PullRequest {
    /// The caller's number for the request, which comes back in the result.
    pub id: u64,
    /// The image.
    pub image: ImageSpec,
    /// Credentials for this pull, tried before all others. Default: none.
    pub pull_secrets: Vec<PullSecret>,
    /// The pod sandbox that the image is for. Services without pods ignore it. Default: none.
    pub pod_sandbox_config: Option<PodSandboxConfig>,
    /// The type of the artifact to choose from an index of artifacts. `None`, the default, pulls an image for
    /// the platform, or the index's only entry.
    pub artifact_type: Option<String>,
}

impl PullRequest {
    /// Creates a request for `image`, without secrets.
    pub fn new(id: u64, image: impl Into<ImageSpec>) -> Self {
        PullRequest { id, image: image.into(), ..PullRequest::default() }
    }

    /// Sets the pull secrets: credentials for this pull, tried before all others. Default: none.
    #[must_use]
    pub fn with_pull_secrets(mut self, secrets: impl IntoIterator<Item = PullSecret>) -> Self {
        self.pull_secrets = secrets.into_iter().collect();
        self
    }

    /// Sets the pod sandbox that the image is for. Default: none.
    #[must_use]
    pub fn with_pod_sandbox_config(mut self, config: PodSandboxConfig) -> Self {
        self.pod_sandbox_config = Some(config);
        self
    }

    /// Chooses the artifact of this type from an index, instead of the image for the platform. Default: none.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }
}

/// A Kubernetes secret that holds registry credentials, as the Kubernetes API has it.
///
/// Its data is wiped when it is dropped, and prints as `…`.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct PullSecret {
    /// The secret's `type`, like `kubernetes.io/dockerconfigjson`.
    pub kind: String,
    /// The secret's `data` by key, decoded from the API's base64.
    pub data: BTreeMap<String, Zeroed>,
    /// The secret's namespace; empty, the default, if it did not come from an API server. Namespace, name and
    /// uid enter the records of which secrets pulled an image.
    pub namespace: String,
    /// The secret's name, with the namespace.
    pub name: String,
    /// The secret's uid, with the namespace.
    pub uid: String,
}

impl PullSecret {
    /// Creates a secret of the type `kind`, without data.
    pub fn new(kind: impl Into<String>) -> Self {
        PullSecret { kind: kind.into(), ..PullSecret::default() }
    }

    /// Creates a secret of type `kubernetes.io/dockerconfigjson` from the bytes of a Docker `config.json`.
    pub fn docker_config_json(config: impl Into<Vec<u8>>) -> Self {
        PullSecret::new("kubernetes.io/dockerconfigjson").with_data(".dockerconfigjson", config)
    }

    /// Creates a secret of the older type `kubernetes.io/dockercfg` from the bytes of a `.dockercfg`.
    pub fn docker_cfg(config: impl Into<Vec<u8>>) -> Self {
        PullSecret::new("kubernetes.io/dockercfg").with_data(".dockercfg", config)
    }

    /// Adds data under a key, or replaces it; `data` is decoded from the API's base64.
    #[must_use]
    pub fn with_data(mut self, key: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.data.insert(key.into(), Zeroed::from(data.into()));
        self
    }

    /// Sets the namespace, the name and the uid that the secret has in the Kubernetes API. Default: empty.
    #[must_use]
    pub fn with_object(
        mut self,
        namespace: impl Into<String>,
        name: impl Into<String>,
        uid: impl Into<String>,
    ) -> Self {
        (self.namespace, self.name, self.uid) = (namespace.into(), name.into(), uid.into());
        self
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret").field("kind", &self.kind).field("data", &"…").finish_non_exhaustive()
    }
}

/// Bytes that are wiped when they are dropped, and print as `…`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Zeroed(Zeroizing<Vec<u8>>);

impl Zeroed {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Zeroed {
    fn from(bytes: Vec<u8>) -> Self {
        Zeroed(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Zeroed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The pod sandbox that an image is for, as CRI has it. The crate passes it to the service, and does not use it
/// itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodSandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// How many attempts to create the sandbox came before this one. Default: 0.
    pub attempt: u32,
    /// The pod's labels. Default: none.
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations. Default: none.
    pub annotations: BTreeMap<String, String>,
}

impl PodSandboxConfig {
    /// Creates the config of a pod's first sandbox, without labels and annotations. The parameters stand in the
    /// order of CRI's `PodSandboxMetadata`.
    pub fn new(name: impl Into<String>, uid: impl Into<String>, namespace: impl Into<String>) -> Self {
        PodSandboxConfig {
            name: name.into(),
            uid: uid.into(),
            namespace: namespace.into(),
            ..PodSandboxConfig::default()
        }
    }

    /// Sets how many attempts to create the sandbox came before this one. Default: 0.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Adds a label, or replaces the one of the same key. Default: none.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Adds an annotation, or replaces the one of the same key. Default: none.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }
}

//! Requests to the manager, and their results.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::image::reference::Reference;
use crate::service::{ImageRef, ImageSpec, PodSandboxConfig, PullSecret, PulledImage};

/// When an image is pulled: Kubernetes' `imagePullPolicy`, and `PullIfPossible`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullPolicy {
    /// Pulls each time, without a look at the image that is there.
    Always,
    /// Pulls the image if it is not there. The default.
    #[default]
    IfNotPresent,
    /// Never pulls: an image that is not there is an error.
    Never,
    /// Pulls each time, like `Always`; but if the registry cannot be reached or cannot serve now
    /// (`HostNotFound`, `ConnectionFailed`, `Timeout`, `Unavailable`, `RateLimited`), uses the image that is
    /// there.
    PullIfPossible,
}

impl PullPolicy {
    const ALL: [PullPolicy; 4] =
        [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never, PullPolicy::PullIfPossible];

    /// Returns the policy's name, as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
            PullPolicy::PullIfPossible => "PullIfPossible",
        }
    }

    /// Returns whether to look for the image before it is pulled.
    pub(super) fn looks_first(self) -> bool {
        matches!(self, PullPolicy::IfNotPresent | PullPolicy::Never)
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PullPolicy {
    type Err = Error;

    /// # Errors
    /// `InvalidConfig` for a policy that is unknown.
    fn from_str(text: &str) -> Result<Self, Error> {
        PullPolicy::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("policy is {text:?}; known are Always, IfNotPresent, Never and PullIfPossible"),
            )
        })
    }
}

/// A request to ensure that an image is there.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EnsureRequest {
    /// The caller's number for the request, which comes back in the [`EnsureResult`]. Default: 0.
    pub id: u64,
    /// The owner of the request: for kubelet, the pod's uid. Failures count for an owner and image. Not empty.
    pub owner: String,
    /// The image, as typed.
    pub image: ImageSpec,
    /// When to pull. Default: `IfNotPresent`.
    pub policy: PullPolicy,
    /// Credentials for this pull, before all others. Default: none.
    pub pull_secrets: Vec<PullSecret>,
    /// The pod sandbox that the image is for, for services that use it. Requests that share a pull use that
    /// of the first of them. Default: none.
    pub pod_sandbox_config: Option<PodSandboxConfig>,
    /// A higher priority goes first; a wait raises it (see
    /// [`aging`](super::ImageManagerBuilder::aging)). Default: 0.
    pub priority: i8,
}

impl EnsureRequest {
    /// Creates a request of `owner` for `image`: policy `IfNotPresent`, without secrets, priority 0.
    pub fn new(owner: impl Into<String>, image: impl Into<ImageSpec>) -> Self {
        EnsureRequest { owner: owner.into(), image: image.into(), ..EnsureRequest::default() }
    }

    /// Sets the caller's number for the request. Default: 0.
    #[must_use]
    pub fn with_id(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    /// Sets the policy. Default: `IfNotPresent`.
    #[must_use]
    pub fn with_policy(mut self, policy: PullPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the pull secrets. Default: none.
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

    /// Sets the priority. Default: 0.
    #[must_use]
    pub fn with_priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }
}

/// An image that is there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnsuredImage {
    /// The image's id.
    pub image_ref: ImageRef,
    /// The requested image, with `:latest` if the request has neither tag nor digest.
    pub image: ImageSpec,
    /// How it came to be there.
    pub source: ImageSource,
    /// The message of the event.
    pub message: String,
}

/// How an image came to be there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageSource {
    /// It was there already.
    Present,
    /// It was pulled for this request, or for another one that this one joined.
    #[non_exhaustive]
    Pulled {
        /// The image as the service describes it.
        image: PulledImage,
        /// Its size in bytes, if the service could tell.
        size: Option<u64>,
        /// From the request to the begin of the pull; zero for a request that joined later.
        wait_duration: Duration,
        /// How long the pull took.
        pull_duration: Duration,
    },
    /// The pull failed, and the image that was there is used.
    Fallback {
        /// Why the pull failed, or is not tried again yet.
        cause: Error,
    },
}

/// The result of an [`EnsureRequest`] that was [submitted](crate::ImageManager::submit).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnsureResult {
    /// The request's id.
    pub id: u64,
    /// The request's owner.
    pub owner: String,
    /// The image, as typed.
    pub image: ImageSpec,
    /// The image that is there, or why it is not.
    pub outcome: Result<EnsuredImage, Error>,
}

/// The default priority of a [`PrepullRequest`].
pub const PREPULL_PRIORITY: i8 = -100;

/// A request to have a list of images before they are needed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrepullRequest {
    /// The owner of the requests; see [`EnsureRequest::owner`]. Not empty.
    pub owner: String,
    /// The images, as typed.
    pub images: Vec<ImageSpec>,
    /// Credentials for these pulls, before all others. Default: none.
    pub pull_secrets: Vec<PullSecret>,
    /// When to pull. Default: `IfNotPresent`.
    pub policy: PullPolicy,
    /// A higher priority goes first. Default: [`PREPULL_PRIORITY`].
    pub priority: i8,
}

impl PrepullRequest {
    /// Creates a request of `owner` for `images`: policy `IfNotPresent`, without secrets, at low priority.
    pub fn new<T: Into<ImageSpec>>(owner: impl Into<String>, images: impl IntoIterator<Item = T>) -> Self {
        PrepullRequest {
            owner: owner.into(),
            images: images.into_iter().map(Into::into).collect(),
            pull_secrets: Vec::new(),
            policy: PullPolicy::default(),
            priority: PREPULL_PRIORITY,
        }
    }

    /// Sets the policy. Default: `IfNotPresent`.
    #[must_use]
    pub fn with_policy(mut self, policy: PullPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the pull secrets. Default: none.
    #[must_use]
    pub fn with_pull_secrets(mut self, secrets: impl IntoIterator<Item = PullSecret>) -> Self {
        self.pull_secrets = secrets.into_iter().collect();
        self
    }

    /// Sets the priority. Default: [`PREPULL_PRIORITY`].
    #[must_use]
    pub fn with_priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// Returns one request an image.
    pub(super) fn requests(&self) -> impl Iterator<Item = EnsureRequest> + '_ {
        self.images.iter().zip(0..).map(|(image, id)| EnsureRequest {
            id,
            policy: self.policy,
            pull_secrets: self.pull_secrets.clone(),
            priority: self.priority,
            ..EnsureRequest::new(self.owner.clone(), image.clone())
        })
    }
}

/// The outcome of a [`PrepullRequest`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PrepullSummary {
    /// Images that were there already, as typed.
    pub present: Vec<String>,
    /// Images that were pulled, as typed.
    pub pulled: Vec<String>,
    /// Images that could not be pulled, as typed, and why.
    pub failed: Vec<(String, Error)>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// How long it took.
    pub duration: Duration,
}

impl PrepullSummary {
    pub(super) fn add(&mut self, image: String, outcome: Result<EnsuredImage, Error>) {
        match outcome {
            Ok(EnsuredImage { source: ImageSource::Pulled { image: pulled, .. }, .. }) => {
                self.bytes_fetched += pulled.bytes_fetched;
                self.pulled.push(image);
            }
            Ok(_) => self.present.push(image),
            Err(error) => self.failed.push((image, error)),
        }
    }
}

/// Parses an image name. The error says if it is empty.
pub(super) fn parse_reference(image: &str) -> Result<Reference, Error> {
    if image.is_empty() {
        return Err(Error::new(ErrorKind::InvalidReference, "image is empty"));
    }
    Reference::parse(image)
}

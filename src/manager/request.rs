//! Requests to the manager, and their results.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::image::reference::Reference;
use crate::service::{ImageRef, ImageSpec, PodSandboxConfig, PullSecret, PulledImage};

/// When an image is pulled: Kubernetes' `imagePullPolicy`, and one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullPolicy {
    /// Pulled each time, without a look at what is there.
    Always,
    /// Pulled if it is not there; the default.
    #[default]
    IfNotPresent,
    /// Never pulled: what is not there is an error.
    Never,
    /// Pulled each time, like `Always`; but if the registry cannot be reached or cannot serve now
    /// (`HostNotFound`, `ConnectionFailed`, `Timeout`, `Unavailable`, `RateLimited`), what is there is
    /// used.
    PullIfPossible,
}

impl PullPolicy {
    const ALL: [PullPolicy; 4] =
        [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never, PullPolicy::PullIfPossible];

    /// Its name, as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
            PullPolicy::PullIfPossible => "PullIfPossible",
        }
    }

    /// Whether to look for the image before it is pulled.
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

/// A request to have an image.
#[derive(Clone, Debug, Default)]
pub struct EnsureRequest {
    /// The caller's own; it comes back in an [`EnsureResult`].
    pub id: u64,
    /// Who asks: to kubelet, the pod's uid. Failures are counted by owner and image. Not empty.
    pub owner: String,
    /// The image, as typed.
    pub image: ImageSpec,
    /// When to pull. Default: `IfNotPresent`.
    pub policy: PullPolicy,
    /// Credentials for this pull, before all others.
    pub pull_secrets: Vec<PullSecret>,
    /// The pod sandbox that the image is for; passed on to services that know such. Who asks for a
    /// pull that is under way shares the one of who asked first.
    pub pod_sandbox_config: Option<PodSandboxConfig>,
    /// Higher goes first; a wait raises it (see
    /// [`aging`](super::ImageManagerBuilder::aging)). Default: 0.
    pub priority: i8,
}

impl EnsureRequest {
    /// A request of `owner` for `image`: policy `IfNotPresent`, without secrets, priority 0.
    pub fn new(owner: impl Into<String>, image: impl Into<ImageSpec>) -> Self {
        EnsureRequest { owner: owner.into(), image: image.into(), ..EnsureRequest::default() }
    }

    /// The same request, by `policy`.
    #[must_use]
    pub fn with_policy(mut self, policy: PullPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The same request, with these secrets.
    #[must_use]
    pub fn with_pull_secrets(mut self, secrets: Vec<PullSecret>) -> Self {
        self.pull_secrets = secrets;
        self
    }

    /// The same request, at this priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }
}

/// An image that is there now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnsuredImage {
    /// The image's id.
    pub image_ref: ImageRef,
    /// What was asked for: with `:latest`, if neither tag nor digest was typed.
    pub image: ImageSpec,
    /// How it came to be there.
    pub source: ImageSource,
    /// What the event said of it.
    pub message: String,
}

/// How an image came to be there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ImageSource {
    /// It was there already.
    Present,
    /// It was pulled now; maybe at somebody else's request.
    #[non_exhaustive]
    Pulled {
        /// What the service tells of it.
        image: PulledImage,
        /// Its size in bytes, if the service could tell.
        size: Option<u64>,
        /// From the request to the beginning of the pull: zero for who came later.
        wait_duration: Duration,
        /// How long the pull took.
        pull_duration: Duration,
    },
    /// The pull failed, and what was there is used.
    Fallback {
        /// Why the pull failed, or is not tried yet.
        cause: Error,
    },
}

/// The answer to an [`EnsureRequest`] that was [submitted](super::ImageManager::submit).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnsureResult {
    /// The request's id: the caller's own.
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
    /// Makes a request of `owner` for `images`: policy `IfNotPresent`, without secrets, at low priority.
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
    pub fn with_pull_secrets(mut self, secrets: Vec<PullSecret>) -> Self {
        self.pull_secrets = secrets;
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

//! The methods: the messages that each sends and reads, and the credentials of a pull in kubelet's order.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use zeroize::Zeroize;

use super::api;
use super::endpoint::CriEndpoint;
use super::socket::{self, CallLimits};
use super::{grpc, status};
use crate::context::PullContext;
use crate::credentials::{Credential, CredentialKind, CredentialQuery, Credentials};
use crate::error::{Attempt, Error, ErrorKind, Phase};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::service::{
    ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig, PullRequest, PulledImage,
};

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const PULL_IMAGE: &str = "/runtime.v1.ImageService/PullImage";
const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";
const LIST_IMAGES: &str = "/runtime.v1.ImageService/ListImages";
const REMOVE_IMAGE: &str = "/runtime.v1.ImageService/RemoveImage";
const IMAGE_FS_INFO: &str = "/runtime.v1.ImageService/ImageFsInfo";

/// Pulls images with a node's container runtime, over the
/// [Container Runtime Interface](https://kubernetes.io/docs/concepts/containers/cri/) v1.
///
/// The pullers and the manager use it as kubelet's use a runtime. It starts no thread: each call opens a connection of
/// its own and runs on the caller's thread. A cancelled call returns within 100 ms and closes its connection, upon which
/// the runtime cancels the pull. A pull reports no progress in bytes, which CRI does not have.
///
/// Cheap to clone; clones share their settings.
///
/// ```no_run
/// use oci_puller::cri::CriImageService;
/// use oci_puller::{ImagePuller, PullContext, PullRequest, SerialImagePuller};
///
/// let runtime = CriImageService::builder("unix:///run/containerd/containerd.sock").build()?;
/// let puller = SerialImagePuller::new(runtime)?;
/// let (results, answers) = crossbeam_channel::unbounded();
/// puller.pull_image(PullContext::new(), PullRequest::new(1, "registry.k8s.io/pause:3.10"), results);
/// # Ok::<(), oci_puller::Error>(())
/// ```
#[derive(Clone)]
pub struct CriImageService(Arc<CriSettings>);

pub(super) struct CriSettings {
    pub(super) endpoint: CriEndpoint,
    pub(super) connect_timeout: Duration,
    /// Limits each call except a pull.
    pub(super) call_timeout: Duration,
    pub(super) max_message: usize,
    pub(super) credentials: Credentials,
}

/// The name and version of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CriVersion {
    /// The runtime, such as `containerd`.
    pub runtime_name: String,
    /// Its version, as it writes it.
    pub runtime_version: String,
    /// The version of CRI that it supports, such as `v1`.
    pub api_version: String,
}

impl CriImageService {
    pub(super) fn new(settings: CriSettings) -> Self {
        CriImageService(Arc::new(settings))
    }

    /// Asks the runtime for its name and version.
    ///
    /// # Errors
    /// [`ConnectionFailed`](ErrorKind::ConnectionFailed), [`Denied`](ErrorKind::Denied),
    /// [`Unsupported`](ErrorKind::Unsupported) if it does not support CRI v1, [`Protocol`](ErrorKind::Protocol),
    /// [`Timeout`](ErrorKind::Timeout), [`Cancelled`](ErrorKind::Cancelled).
    pub fn version(&self, cx: &PullContext) -> Result<CriVersion, Error> {
        let version: api::VersionResponse = self.call(cx, VERSION, &api::VersionRequest::default())?;
        Ok(CriVersion {
            runtime_name: version.runtime_name,
            runtime_version: version.runtime_version,
            api_version: version.runtime_api_version,
        })
    }

    fn call<M: Message + Default>(
        &self,
        cx: &PullContext,
        method: &str,
        request: &impl Message,
    ) -> Result<M, Error> {
        let answers = |path: &Path| {
            let request = api::VersionRequest::default();
            self.call_at(path, cx, VERSION, &request).map(|_: api::VersionResponse| ())
        };
        self.0.endpoint.with(answers, |path| self.call_at(path, cx, method, request))
    }

    fn call_at<M: Message + Default>(
        &self,
        path: &Path,
        cx: &PullContext,
        method: &str,
        request: &impl Message,
    ) -> Result<M, Error> {
        let call = (method != PULL_IMAGE).then_some(self.0.call_timeout);
        let timeout = call.into_iter().chain(cx.remaining()).min();
        let exchange = grpc::exchange(method, request, timeout, self.0.max_message);
        let limits = CallLimits { connect: self.0.connect_timeout, call };
        let response = socket::call(path, cx, limits, exchange)?;
        // A runtime that learned of the end first answers with its own words for it.
        grpc::message(response).map_err(|failure| cx.check().err().unwrap_or_else(|| status::error(failure)))
    }

    /// Returns the status of an image; `None` if the runtime does not have it.
    fn status(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<api::Image>, Error> {
        let request = api::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        let status: api::ImageStatusResponse = match self.call(cx, IMAGE_STATUS, &request) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            status => status.map_err(|error| error.with_image(&image.image))?,
        };
        match status.image {
            Some(found) if found.id.is_empty() => Err(empty("the image's id").with_image(&image.image)),
            found => Ok(found),
        }
    }

    /// Pulls once, with this credential or without one.
    fn pull_with(
        &self,
        cx: &PullContext,
        request: &PullRequest,
        credential: Option<&Credential>,
    ) -> Result<ImageRef, Error> {
        let mut message = api::PullImageRequest {
            image: Some(image_spec(&request.image)),
            auth: credential.map(auth_config),
            sandbox_config: request.pod_sandbox_config.as_ref().map(sandbox_config),
        };
        let pulled: Result<api::PullImageResponse, Error> = self.call(cx, PULL_IMAGE, &message);
        if let Some(auth) = &mut message.auth {
            wipe(auth);
        }
        let image_ref = pulled?.image_ref;
        if image_ref.is_empty() { Err(empty("the image ref")) } else { Ok(ImageRef::new(image_ref)) }
    }

    /// Pulls with each matching credential in turn, and at last without one, until a pull succeeds. Returns the image
    /// ref and the credential of that pull.
    fn pull(&self, cx: &PullContext, request: &PullRequest) -> Result<(ImageRef, Option<Credential>), Error> {
        let reference = Reference::parse(&request.image.image)?;
        let query = CredentialQuery::new(reference.domain(), reference.repository());
        let lookup = self
            .0
            .credentials
            .lookup(cx, &request.pull_secrets, &query)
            .map_err(|error| error.with_phase(Phase::Credentials))?;
        let credentials = lookup.found.into_iter().map(|found| Some(found.credential)).chain([None]);
        let mut attempts = Vec::new();
        for credential in credentials {
            match self.pull_with(cx, request, credential.as_ref()) {
                Ok(image_ref) => return Ok((image_ref, credential)),
                Err(error) => {
                    let host = error.host().unwrap_or_default().to_owned();
                    cx.check().map_err(|ended| ended.with_host(&host))?;
                    attempts.push(Attempt::new(host, error));
                }
            }
        }
        // The first credential is the most specific one, so its error says the most.
        let Some(first) = attempts.first() else {
            return Err(Error::new(ErrorKind::Unavailable, "no pull was tried"));
        };
        let error = first.error.clone();
        Err(error.with_attempts(attempts))
    }
}

impl ImageService for CriImageService {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let named = |error: Error| error.with_image(&request.image.image);
        let (image_ref, credential) = self.pull(cx, request).map_err(named)?;
        let mut pulled = PulledImage::new(image_ref);
        pulled.credential = credential.map(|credential| credential.fingerprint());
        // The pull succeeded, even if the runtime cannot tell the digests.
        match self.status(cx, &request.image) {
            Ok(Some(image)) => {
                pulled.repo_digest = image.repo_digests.into_iter().next();
                let digest = pulled.repo_digest.as_deref().and_then(|name| name.rsplit_once('@'));
                pulled.manifest_digest = digest.and_then(|(_, digest)| Digest::parse(digest).ok());
            }
            Ok(None) => {}
            Err(error) => log::debug!("the digests of the pulled image are unknown: {error}"),
        }
        Ok(pulled)
    }

    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        let absent = || Error::new(ErrorKind::NotFound, "the runtime does not have it");
        let named = |error: Error| error.with_image(&image.image);
        let found = self.status(cx, image)?.ok_or_else(absent).map_err(named)?;
        if found.size == 0 { Err(named(empty("the image's size"))) } else { Ok(found.size) }
    }

    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        Ok(self.status(cx, image)?.map(|found| ImageRef::new(found.id)))
    }

    fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        let list: api::ListImagesResponse = self.call(cx, LIST_IMAGES, &api::ListImagesRequest::default())?;
        list.images.into_iter().map(image_info).collect()
    }

    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        let request = api::RemoveImageRequest { image: Some(image_spec(image)) };
        let removed: Result<api::RemoveImageResponse, Error> = self.call(cx, REMOVE_IMAGE, &request);
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.with_image(&image.image)),
            _ => Ok(()),
        }
    }

    fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
        let info: api::ImageFsInfoResponse =
            self.call(cx, IMAGE_FS_INFO, &api::ImageFsInfoRequest::default())?;
        let usage = info.image_filesystems.into_iter().next().ok_or_else(|| empty("the file system"))?;
        let path = PathBuf::from(usage.fs_id.map(|id| id.mountpoint).unwrap_or_default());
        // CRI has no capacity: it is that of the folder, if this process can see it.
        let space = rustix::fs::statvfs(&path).ok();
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            space.as_ref().map_or(0, |space| blocks(space).saturating_mul(space.f_frsize))
        };
        Ok(ImageFsInfo {
            path,
            used_bytes: usage.used_bytes.map_or(0, |bytes| bytes.value),
            inodes_used: usage.inodes_used.map_or(0, |count| count.value),
            capacity_bytes: bytes(|space| space.f_blocks),
            available_bytes: bytes(|space| space.f_bavail),
        })
    }
}

fn image_info(image: api::Image) -> Result<ImageInfo, Error> {
    if image.id.is_empty() {
        return Err(empty("an image's id"));
    }
    let mut info = ImageInfo::new(ImageRef::new(image.id));
    info.manifest_digest = image
        .repo_digests
        .first()
        .and_then(|name| name.rsplit_once('@'))
        .and_then(|(_, digest)| Digest::parse(digest).ok());
    info.names = image.repo_tags.into_iter().chain(image.repo_digests).collect();
    info.size = image.size;
    info.pinned = image.pinned;
    Ok(info)
}

/// Returns the error for an answer without its main part, which kubelet refuses, too.
fn empty(what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the runtime left {what} empty"))
}

fn image_spec(image: &ImageSpec) -> api::ImageSpec {
    api::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone(),
        user_specified_image: image.image.clone(),
        runtime_handler: image.runtime_handler.clone().unwrap_or_default(),
    }
}

fn sandbox_config(sandbox: &PodSandboxConfig) -> api::PodSandboxConfig {
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: sandbox.name.clone(),
            uid: sandbox.uid.clone(),
            namespace: sandbox.namespace.clone(),
            attempt: sandbox.attempt,
        }),
        labels: sandbox.labels.clone(),
        annotations: sandbox.annotations.clone(),
    }
}

/// Returns the message for a credential. The server's address stays empty, as in kubelet: containerd ignores credentials
/// whose address is not the URL of the host that it asks, and that may be a mirror.
fn auth_config(credential: &Credential) -> api::AuthConfig {
    let mut auth = api::AuthConfig::default();
    match credential.kind() {
        CredentialKind::Basic { username, password } => {
            auth.username = username.expose().to_owned();
            auth.password = password.expose().to_owned();
        }
        CredentialKind::IdentityToken(token) => auth.identity_token = token.expose().to_owned(),
        CredentialKind::RegistryToken(token) => auth.registry_token = token.expose().to_owned(),
    }
    auth
}

fn wipe(auth: &mut api::AuthConfig) {
    let api::AuthConfig { username, password, auth, identity_token, registry_token, server_address: _ } =
        auth;
    for secret in [username, password, auth, identity_token, registry_token] {
        secret.zeroize();
    }
}

impl fmt::Debug for CriImageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriImageService").field("endpoint", &self.0.endpoint).finish_non_exhaustive()
    }
}

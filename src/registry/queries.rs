//! Requests that read from a registry and store nothing.

use std::collections::HashSet;

use serde::Deserialize;

use super::client::Service;
use super::document;
use super::link_header;
use super::request::{ApiRequest, HostTurn, PullSession, RequestTarget};
use super::resolve::{self, Resolved};
use super::retry::{self, HostAttempts};
use super::verifier::FetchedManifest;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::config;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::service::PullRequest;

/// The number of tags that a page is asked to have. Some registries refuse more.
const PAGE: usize = 1000;

/// Maximum number of pages that are read.
const MAX_PAGES: usize = 10_000;

/// Maximum size of a page, bytes. Some registries list all tags on one page, with details of each.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// The tags of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TagList {
    /// The tags, in the order of the registry.
    pub tags: Vec<String>,
    /// Whether these are all tags; false if the limit was reached.
    pub is_complete: bool,
}

/// What a pull would bring, as of [`RegistryImageService::plan`](crate::RegistryImageService::plan).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullPlan {
    /// What the name stands for: a manifest, or an index.
    pub root: FetchedManifest,
    /// The images, at least one. Of an index those that the service pulls, for one platform or several.
    pub images: Vec<PlannedImage>,
}

/// An image that a pull would bring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlannedImage {
    /// What it is for, as the index or the config says; `None` if neither does.
    pub platform: Option<Platform>,
    /// Its manifest.
    pub manifest: FetchedManifest,
    /// Size of manifest, config and layers, bytes.
    pub size: u64,
    /// What the store lacks of it, each once, and what no earlier image of the plan lacks, too: indexes, manifest,
    /// config and layers. A blob that an interrupted pull has fetched in part is missing as a whole.
    pub missing: Vec<Descriptor>,
}

/// Returns what a pull would bring.
///
/// # Errors
/// As of [`resolve::resolve`]; `Store`.
pub(super) fn plan(service: &Service, cx: &PullContext, request: &PullRequest) -> Result<PullPlan, Error> {
    let reference = Reference::parse(&request.image.image)?;
    let session = PullSession::open(service, cx, &reference, &request.pull_secrets)?;
    let resolved = resolve::resolve(&session, request.artifact_type.as_deref())?;
    let nothing = || Error::new(ErrorKind::InvalidManifest, "there is no image");
    let root = resolved.first().and_then(|image| image.documents.first()).ok_or_else(nothing)?;
    let root = FetchedManifest::from(root.clone());
    let (mut seen, mut images) = (HashSet::new(), Vec::new());
    for image in &resolved {
        let manifest = image.documents.last().ok_or_else(nothing)?.clone();
        let fetched = image.documents.iter().filter(|document| document.host.is_some());
        let documents = fetched.map(|document| &document.descriptor);
        let mut missing: Vec<_> = documents.filter(|it| seen.insert(it.digest.clone())).cloned().collect();
        for blob in image.manifest.blobs() {
            if seen.insert(blob.digest.clone()) && service.store.has(cx, blob)?.is_none() {
                missing.push(blob.clone());
            }
        }
        images.push(PlannedImage {
            platform: platform_of(&session, image)?,
            size: manifest.descriptor.size.saturating_add(image.manifest.total_size()),
            manifest: manifest.into(),
            missing,
        });
    }
    Ok(PullPlan { root, images })
}

/// Returns what the image is for. Reads the config if no index says it.
fn platform_of(session: &PullSession<'_>, image: &Resolved) -> Result<Option<Platform>, Error> {
    let known = image.platform();
    if known.is_some() || !image.manifest.has_image_config() {
        return Ok(known);
    }
    let blob = document::blob(session, &image.manifest.config, Phase::Config)?;
    Ok(config::platform_of(&blob.bytes).ok())
}

/// Fetches the manifest or the index that a reference names.
///
/// # Errors
/// As of [`document::by_tag`] and [`document::by_digest`].
pub(super) fn manifest(
    service: &Service,
    cx: &PullContext,
    request: &PullRequest,
) -> Result<FetchedManifest, Error> {
    let reference = Reference::parse(&request.image.image)?;
    let session = PullSession::open(service, cx, &reference, &request.pull_secrets)?;
    let fetched = match reference.digest() {
        Some(digest) => document::by_digest(&session, digest, None, MAX_DOCUMENT_BYTES)?,
        None => document::by_tag(&session, reference.tag().unwrap_or("latest"), MAX_DOCUMENT_BYTES)?,
    };
    Ok(fetched.into())
}

/// Fetches a small blob.
///
/// # Errors
/// As of [`document::blob`]; `InvalidManifest` if the blob is too large.
pub(super) fn blob(
    service: &Service,
    cx: &PullContext,
    request: &PullRequest,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, Error> {
    if descriptor.size > MAX_DOCUMENT_BYTES as u64 {
        let Descriptor { digest, size, .. } = descriptor;
        let message = format!("{digest} is {size} bytes, and at most {MAX_DOCUMENT_BYTES} are read");
        return Err(Error::new(ErrorKind::InvalidManifest, message).with_phase(Phase::Config));
    }
    let reference = Reference::parse(&request.image.image)?;
    let session = PullSession::open(service, cx, &reference, &request.pull_secrets)?;
    document::blob(&session, descriptor, Phase::Config).map(|blob| blob.bytes)
}

/// Lists at most `limit` tags of the reference's repository.
///
/// # Errors
/// As of [`retry::over_hosts`]; `Protocol` if the answer is no list of tags.
pub(super) fn tags(
    service: &Service,
    cx: &PullContext,
    request: &PullRequest,
    limit: usize,
) -> Result<TagList, Error> {
    let reference = Reference::parse(&request.image.image)?;
    let session = PullSession::open(service, cx, &reference, &request.pull_secrets)?;
    let attempts = HostAttempts::new(Phase::Tags, |host| host.capabilities.resolve);
    retry::over_hosts(&session, &attempts, |endpoint| {
        tags_of(&session, endpoint, limit).map_err(|error| error.with_host(&endpoint.name))
    })
}

fn tags_of(session: &PullSession<'_>, endpoint: HostTurn<'_>, limit: usize) -> Result<TagList, Error> {
    #[derive(Deserialize)]
    struct Page {
        // Go writes an empty list as null.
        tags: Option<Vec<String>>,
    }
    let path = format!("tags/list?n={}", limit.clamp(1, PAGE));
    let mut list = TagList { tags: Vec::new(), is_complete: true };
    let mut next: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let target =
            next.as_deref().map_or(RequestTarget::Api(&path), |link| RequestTarget::Link(&path, link));
        let response = session.request(endpoint, ApiRequest::new(target, Phase::Tags))?;
        next = link_header::next(response.reply.headers("link")).map(ToOwned::to_owned);
        let (mut body, _permit) = response.into_body();
        let bytes = body.read_to_end(MAX_PAGE_BYTES)?;
        let page: Page = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("the answer is no list of tags: {error}");
            Error::new(ErrorKind::Protocol, message).with_retryable(false)
        })?;
        list.tags.extend(page.tags.unwrap_or_default());
        if next.is_none() || list.tags.len() >= limit {
            break;
        }
    }
    list.is_complete = next.is_none() && list.tags.len() <= limit;
    list.tags.truncate(limit);
    Ok(list)
}

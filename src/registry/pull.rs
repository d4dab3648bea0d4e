//! The steps of one pull.

use std::collections::HashSet;

use super::client::Service;
use super::download::{self, BlobOrder, TransferStats};
use super::host_limits::granted;
use super::request::PullSession;
use super::resolve::{self, Resolved};
use super::settings::Selection;
#[cfg(feature = "unpack")]
use super::unpacking;
use super::verifier::{self, ImageVerifier};
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::config;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::progress::ProgressEvent;
use crate::service::{ImageRef, PullRequest, PulledImage};
use crate::store::{Naming, Signatures, Transaction};

/// Pulls an image into the store: resolves its name to a manifest, fetches the manifest's blobs, and verifies
/// all of them; for several platforms one image after the other. Only then is the image stored under its name.
pub(super) fn pull(
    service: &Service,
    verifier: Option<&dyn ImageVerifier>,
    cx: &PullContext,
    request: &PullRequest,
) -> Result<PulledImage, Error> {
    let reference = Reference::parse(&request.image.image)?;
    let stop = CancelToken::new();
    let own_cx = cx.or_cancelled_by(&stop);
    // What waits here has no open file that another pull needs.
    let _open_files = granted(cx, service.pulls.acquire(reference.domain()).granted())?;
    let transaction = service.store.transaction();

    let session = PullSession::open(service, &own_cx, &reference, &request.pull_secrets)?;
    let images = resolve::resolve(&session, request.artifact_type.as_deref())?;
    let mut signatures = Signatures::default();
    if let Some(verifier) = verifier {
        for image in &images {
            signatures.add_all(&verifier::verify(verifier, &session, image)?);
        }
    }
    hold_all(&session, &transaction, &images).map_err(|error| error.with_phase(Phase::Store))?;
    let mut bytes = ByteCount::default();
    for (at, image) in images.iter().enumerate() {
        put_config(&session, &transaction, image).map_err(|error| error.with_phase(Phase::Store))?;
        bytes.add(image, &fetch(&session, &stop, &transaction, image, at == 0)?);
        warn_of_other_platform(&session, image);
    }
    name(&session, &transaction, &images, &signatures).map_err(|error| error.with_phase(Phase::Store))?;
    let first = images.first().ok_or_else(|| Error::new(ErrorKind::InvalidManifest, "there is no image"))?;
    #[cfg_attr(not(feature = "unpack"), expect(unused_mut, reason = "only an unpacked image has layers"))]
    let mut pulled = pulled(&session, first, &bytes);
    #[cfg(feature = "unpack")]
    if let Some(layers) = unpacking::layers_for(&session, first) {
        pulled.layers = Some(unpacking::unpack_stored(&session, first, layers)?);
    }
    Ok(pulled)
}

/// The bytes of a pull, by where they came from.
#[derive(Default)]
struct ByteCount<'a> {
    fetched: u64,
    reused: u64,
    /// The manifests and indexes that are counted.
    documents: HashSet<&'a Digest>,
}

impl<'a> ByteCount<'a> {
    fn add(&mut self, image: &'a Resolved, stats: &TransferStats) {
        let (mut fetched, mut reused) = (stats.fetched(), stats.reused());
        if image.config.as_ref().is_some_and(|config| config.is_fetched) {
            // The download found it in the store and counted it as reused.
            fetched += image.manifest.config.size;
            reused = reused.saturating_sub(image.manifest.config.size);
        }
        for document in &image.documents {
            if self.documents.insert(&document.descriptor.digest) {
                let counter = if document.host.is_some() { &mut fetched } else { &mut reused };
                *counter += document.descriptor.size;
            }
        }
        self.fetched += fetched;
        self.reused += reused;
    }
}

/// Fetches the blobs of an image; of the first of a pull, unpacks them meanwhile where that is set.
#[cfg_attr(not(feature = "unpack"), expect(unused_variables, reason = "no image is unpacked"))]
fn fetch(
    session: &PullSession<'_>,
    stop: &CancelToken,
    transaction: &Transaction,
    image: &Resolved,
    is_first: bool,
) -> Result<TransferStats, Error> {
    #[cfg(feature = "unpack")]
    if is_first && let Some(layers) = unpacking::layers_for(session, image) {
        return unpacking::fetch_and_unpack(session, stop, transaction, image, layers);
    }
    download::blobs(session, stop, transaction, &image.manifest, BlobOrder::LargestFirst)
}

/// Keeps the store from removing blobs of the images while they are pulled.
fn hold_all(session: &PullSession<'_>, transaction: &Transaction, images: &[Resolved]) -> Result<(), Error> {
    let descriptors = images.iter().flat_map(|image| {
        let documents = image.documents.iter().map(|document| &document.descriptor);
        documents.chain(image.manifest.blobs())
    });
    let digests: Vec<_> = descriptors.map(|descriptor| &descriptor.digest).collect();
    session.service.store.hold(session.cx, transaction, &digests)
}

/// Stores a config that was fetched to learn the platform, so that it is not fetched again.
fn put_config(
    session: &PullSession<'_>,
    transaction: &Transaction,
    resolved: &Resolved,
) -> Result<(), Error> {
    match &resolved.config {
        Some(config) => {
            let descriptor = &resolved.manifest.config;
            session.service.store.put(session.cx, transaction, descriptor, &config.bytes)
        }
        None => Ok(()),
    }
}

/// Warns of an image without an index whose config names another platform than this machine's. The pull goes on, since
/// the caller asked for no platform.
fn warn_of_other_platform(session: &PullSession<'_>, resolved: &Resolved) {
    if resolved.is_platform_known() || !resolved.manifest.has_image_config() {
        return;
    }
    let Ok(bytes) = session.service.store.document(&resolved.manifest.config.digest) else { return };
    let Ok(offered) = config::platform_of(&bytes) else { return };
    let wanted = &session.service.settings.platform;
    let is_named = !offered.os.is_empty() && !offered.architecture.is_empty();
    if is_named && wanted.preference(&offered).is_none() {
        log::warn!("{}: {}", session.reference, resolve::other_platform(&offered, wanted).message());
        session.cx.report(&ProgressEvent::OtherPlatform { offered, wanted: wanted.clone() });
    }
}

/// Stores the manifests, the indexes and the signatures, and gives the image its name. The name stands for the
/// manifest of one platform, or for the index with the manifests of several.
fn name(
    session: &PullSession<'_>,
    transaction: &Transaction,
    images: &[Resolved],
    signatures: &Signatures,
) -> Result<(), Error> {
    let store = &session.service.store;
    let mut stored = HashSet::new();
    for document in images.iter().flat_map(|image| &image.documents) {
        if stored.insert(&document.descriptor.digest) {
            store.put(session.cx, transaction, &document.descriptor, &document.bytes)?;
        }
    }
    let signatures = signatures.to_manifest();
    if let Some((descriptor, bytes)) = &signatures {
        store.put(session.cx, transaction, descriptor, bytes)?;
    }
    let Some(first) = images.first() else { return Ok(()) };
    let keeps_index = !matches!(session.service.settings.selection, Selection::One)
        && first.root.digest != first.manifest_descriptor.digest;
    let mut naming = Naming {
        repo_digest: Some(repo_digest(session.reference, first)),
        signatures: signatures.map(|(descriptor, _)| descriptor.digest),
        ..Naming::default()
    };
    let target = if keeps_index {
        let manifests = images.iter().map(|image| image.manifest_descriptor.digest.clone());
        naming.taken = Some(manifests.collect());
        &first.root
    } else {
        naming.id = Some(first.id().clone());
        naming.size = Some(first.manifest_descriptor.size.saturating_add(first.manifest.total_size()));
        &first.manifest_descriptor
    };
    let names = [stored_name(session.reference)];
    store.tag(session.cx, transaction, &names, target, &naming)
}

fn pulled(session: &PullSession<'_>, image: &Resolved, bytes: &ByteCount<'_>) -> PulledImage {
    let mut pulled = PulledImage::new(ImageRef::new(image.id().as_str()));
    pulled.manifest_digest = Some(image.root.digest.clone());
    pulled.repo_digest = Some(repo_digest(session.reference, image));
    pulled.bytes_fetched = bytes.fetched;
    pulled.bytes_reused = bytes.reused;
    pulled.credential = session.accepted();
    pulled
}

fn repo_digest(reference: &Reference, resolved: &Resolved) -> String {
    format!("{}@{}", reference.name(), resolved.root.digest)
}

/// Returns the name of an image in the store. A tag beside a digest is left out: the digest alone was resolved.
pub(super) fn stored_name(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{}@{digest}", reference.name()),
        (None, Some(tag)) => format!("{}:{tag}", reference.name()),
        (None, None) => reference.name().to_owned(),
    }
}

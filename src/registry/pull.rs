//! The steps of one pull.

use super::client::Service;
use super::download::{self, TransferStats};
use super::request::PullSession;
use super::resolve::{self, Resolved};
use super::verifier::{self, ImageVerifier};
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, Phase};
use crate::image::config;
use crate::image::reference::Reference;
use crate::progress::ProgressEvent;
use crate::service::{ImageRef, PullRequest, PulledImage};
use crate::store::{Naming, Signatures, Transaction};

/// Pulls an image into the store: resolves its name to a manifest, fetches the manifest's blobs, and verifies
/// all of them. Only then is the image stored under its name.
pub(super) fn pull(
    service: &Service,
    verifier: Option<&dyn ImageVerifier>,
    cx: &PullContext,
    request: &PullRequest,
) -> Result<PulledImage, Error> {
    let reference = Reference::parse(&request.image.image)?;
    let stop = CancelToken::new();
    let own_cx = cx.or_cancelled_by(&stop);
    let transaction = service.store.transaction();

    let session = PullSession::open(service, &own_cx, &reference, &request.pull_secrets)?;
    let resolved = resolve::resolve(&session, request.artifact_type.as_deref())?;
    let signatures = match verifier {
        Some(verifier) => verifier::verify(verifier, &session, &resolved)?,
        None => Signatures::default(),
    };
    hold_all(&session, &transaction, &resolved).map_err(|error| error.with_phase(Phase::Store))?;
    put_config(&session, &transaction, &resolved).map_err(|error| error.with_phase(Phase::Store))?;
    let stats = download::blobs(&session, &stop, &transaction, &resolved.manifest)?;
    warn_of_other_platform(&session, &resolved);
    name(&session, &transaction, &resolved, &signatures).map_err(|error| error.with_phase(Phase::Store))?;
    #[cfg_attr(not(feature = "unpack"), expect(unused_mut, reason = "only an unpacked image has layers"))]
    let mut pulled = pulled(&session, &resolved, &stats);
    #[cfg(feature = "unpack")]
    unpack(&session, &resolved, &mut pulled)?;
    Ok(pulled)
}

/// Unpacks the image where that is set. The transaction keeps its blobs meanwhile.
#[cfg(feature = "unpack")]
fn unpack(session: &PullSession<'_>, resolved: &Resolved, pulled: &mut PulledImage) -> Result<(), Error> {
    let Some(layers) = session.service.layers.as_ref().filter(|_| resolved.manifest.has_image_config())
    else {
        return Ok(());
    };
    let store = &session.service.store;
    let key = resolved.manifest_descriptor.digest.as_str();
    let lost =
        || Error::new(crate::error::ErrorKind::NotFound, "the image was removed while it was unpacked");
    let image = store.find(key)?.ok_or_else(lost)?;
    let stack = store.unpack(&image).context(session.cx.clone()).into_layers(layers)?;
    pulled.layers = Some(stack.lower().to_vec());
    Ok(())
}

/// Keeps the store from removing blobs of the image while it is pulled.
fn hold_all(session: &PullSession<'_>, transaction: &Transaction, resolved: &Resolved) -> Result<(), Error> {
    let documents = resolved.documents.iter().map(|document| &document.descriptor);
    let digests: Vec<_> =
        documents.chain(resolved.manifest.blobs()).map(|descriptor| &descriptor.digest).collect();
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

/// Warns of an image without an index whose config names another platform than this machine's. It is pulled
/// all the same, for no platform was asked for.
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
        session.cx.report(&ProgressEvent::OtherPlatform { offered: &offered, wanted });
    }
}

/// Stores the manifest, the indexes and the signatures, and gives the image its name.
fn name(
    session: &PullSession<'_>,
    transaction: &Transaction,
    resolved: &Resolved,
    signatures: &Signatures,
) -> Result<(), Error> {
    let store = &session.service.store;
    for document in &resolved.documents {
        store.put(session.cx, transaction, &document.descriptor, &document.bytes)?;
    }
    let signatures = signatures.to_manifest();
    if let Some((descriptor, bytes)) = &signatures {
        store.put(session.cx, transaction, descriptor, bytes)?;
    }
    let naming = Naming {
        id: Some(resolved.id().clone()),
        repo_digest: Some(repo_digest(session.reference, resolved)),
        size: Some(resolved.manifest_descriptor.size.saturating_add(resolved.manifest.total_size())),
        signatures: signatures.map(|(descriptor, _)| descriptor.digest),
    };
    let names = [stored_name(session.reference)];
    store.tag(session.cx, transaction, &names, &resolved.manifest_descriptor, &naming)
}

fn pulled(session: &PullSession<'_>, resolved: &Resolved, stats: &TransferStats) -> PulledImage {
    let (mut fetched, mut reused) = (stats.fetched(), stats.reused());
    if resolved.config.as_ref().is_some_and(|config| config.is_fetched) {
        // The download found it in the store and counted it as reused.
        fetched += resolved.manifest.config.size;
        reused = reused.saturating_sub(resolved.manifest.config.size);
    }
    for document in &resolved.documents {
        let counter = if document.host.is_some() { &mut fetched } else { &mut reused };
        *counter += document.descriptor.size;
    }
    let mut pulled = PulledImage::new(ImageRef::new(resolved.id().as_str()));
    pulled.manifest_digest = Some(resolved.root.digest.clone());
    pulled.repo_digest = Some(repo_digest(session.reference, resolved));
    pulled.bytes_fetched = fetched;
    pulled.bytes_reused = reused;
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

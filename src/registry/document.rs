//! Fetches what is small: manifests, indexes, configs, and the blobs that a verifier reads.

use super::error_response;
use super::http::HttpBody;
use super::request::{ApiRequest, HostTurn, PullSession, RequestTarget};
use super::retry::{self, HostAttempts};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::{Descriptor, Document, MAX_DOCUMENT_BYTES, media_type};

/// A manifest or an index whose bytes were verified.
#[derive(Clone)]
pub(super) struct FetchedDocument {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
    pub(super) document: Document,
    /// The host that sent it; `None` if the store had it.
    pub(super) host: Option<String>,
}

/// The verified bytes of a small blob.
pub(super) struct SmallBlob {
    pub(super) bytes: Vec<u8>,
    /// Whether a host sent it now.
    pub(super) is_fetched: bool,
}

/// Fetches the document that `tag` names now. A tag may move, so the store is not asked, and only hosts
/// with the capability `resolve` are.
///
/// # Errors
/// As of [`retry::over_hosts`]; `InvalidManifest`, `Unsupported`.
pub(super) fn by_tag(session: &PullSession<'_>, tag: &str, limit: usize) -> Result<FetchedDocument, Error> {
    let path = format!("manifests/{tag}");
    let attempts = HostAttempts::new(Phase::Manifest, |host| host.capabilities.resolve);
    retry::over_hosts(session, &attempts, |endpoint| fetch(session, endpoint, &path, None, None, limit))
}

/// Returns the document with this digest: from the store, or else from a host. `described` is the index
/// entry that points to it, whose size and media type must be the document's own.
///
/// # Errors
/// As of [`by_tag`]; `DigestMismatch`.
pub(super) fn by_digest(
    session: &PullSession<'_>,
    digest: &Digest,
    described: Option<&Descriptor>,
    limit: usize,
) -> Result<FetchedDocument, Error> {
    if let Ok(bytes) = session.service.store.document(digest) {
        return verified(None, bytes, None, Some(digest), described);
    }
    let path = format!("manifests/{digest}");
    let attempts = HostAttempts::new(Phase::Manifest, |host| host.capabilities.pull);
    retry::over_hosts(session, &attempts, |endpoint| {
        fetch(session, endpoint, &path, Some(digest), described, limit)
    })
}

/// Asks `endpoint` for the document that `tag` names, without a retry.
///
/// # Errors
/// As of [`PullSession::request`]; `InvalidManifest`, `Unsupported`.
pub(super) fn by_tag_at(
    session: &PullSession<'_>,
    endpoint: HostTurn<'_>,
    tag: &str,
    limit: usize,
) -> Result<FetchedDocument, Error> {
    fetch(session, endpoint, &format!("manifests/{tag}"), None, None, limit)
}

/// Returns a small blob, verified: from the descriptor, from the store, or from a host.
///
/// # Errors
/// As of [`retry::over_hosts`]; `SizeMismatch`, `DigestMismatch`.
pub(super) fn blob(
    session: &PullSession<'_>,
    descriptor: &Descriptor,
    phase: Phase,
) -> Result<SmallBlob, Error> {
    if let Some(data) = &descriptor.data {
        return Ok(SmallBlob { bytes: data.clone(), is_fetched: false });
    }
    if let Ok(bytes) = session.service.store.document(&descriptor.digest) {
        return Ok(SmallBlob { bytes, is_fetched: false });
    }
    let path = format!("blobs/{}", descriptor.digest);
    let attempts = HostAttempts::new(phase, |host| host.capabilities.pull);
    retry::over_hosts(session, &attempts, |endpoint| {
        let response = session.request(endpoint, ApiRequest::new(RequestTarget::Api(&path), phase))?;
        let host = response.host().to_owned();
        let named = |error: Error| error.with_host(&host);
        let (mut body, _permit) = response.into_body();
        let bytes = read_exactly(&mut body, descriptor).map_err(named)?;
        match descriptor.digest.matches(&bytes) {
            true => Ok(SmallBlob { bytes, is_fetched: true }),
            false => {
                let message = format!("the bytes of {} do not hash to it", descriptor.digest);
                Err(named(Error::new(ErrorKind::DigestMismatch, message)))
            }
        }
    })
}

/// Reads as many bytes as the descriptor says. Stops at the first byte too many.
fn read_exactly(body: &mut HttpBody, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8 * 1024];
    loop {
        let read = body.read(&mut chunk)?;
        let part = chunk.get(..read).unwrap_or_default();
        let Descriptor { digest, size, .. } = descriptor;
        if part.is_empty() {
            if bytes.len() as u64 == *size {
                return Ok(bytes);
            }
            let message = format!("{digest} ended after {} of {size} bytes", bytes.len());
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        if (bytes.len() + part.len()) as u64 > *size {
            let message = format!("{digest} is longer than the {size} bytes that its descriptor says");
            return Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false));
        }
        bytes.extend_from_slice(part);
    }
}

fn fetch(
    session: &PullSession<'_>,
    endpoint: HostTurn<'_>,
    path: &str,
    digest: Option<&Digest>,
    described: Option<&Descriptor>,
    limit: usize,
) -> Result<FetchedDocument, Error> {
    let request = ApiRequest::new(RequestTarget::Api(path), Phase::Manifest).accepting(media_type::ACCEPT);
    let response = session.request(endpoint, request)?;
    let (host, is_redirected) = (response.host().to_owned(), response.is_redirected());
    let named = |error: Error| error.with_phase(Phase::Manifest).with_host(&host);
    let content_type = response.reply.header("content-type").map(ToOwned::to_owned);
    let (mut body, _permit) = response.into_body();
    let bytes = body.read_to_end(limit.min(MAX_DOCUMENT_BYTES)).map_err(named)?;
    let html = error_response::html_instead_of_json(&bytes, is_redirected);
    let fetched = verified(content_type.as_deref(), bytes, Some(&endpoint.name), digest, described);
    fetched.map_err(|error| named(html.unwrap_or_else(|| without_quotes(error, is_redirected))))
}

/// Leaves out the parser's message, which quotes the document, where that came from a redirected host: it may be
/// an inner service's.
fn without_quotes(error: Error, is_redirected: bool) -> Error {
    match error.kind() {
        ErrorKind::InvalidManifest | ErrorKind::Unsupported if is_redirected => error
            .with_message("the answer of the host that was redirected to is no manifest that is supported"),
        _ => error,
    }
}

/// Compares the bytes, and never a header, with the digest; then parses them.
fn verified(
    content_type: Option<&str>,
    bytes: Vec<u8>,
    host: Option<&str>,
    digest: Option<&Digest>,
    described: Option<&Descriptor>,
) -> Result<FetchedDocument, Error> {
    let actual = Digest::of(digest.map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
    if let Some(expected) = digest.filter(|expected| **expected != actual) {
        return Err(Error::new(ErrorKind::DigestMismatch, format!("asked for {expected}, and got {actual}")));
    }
    if let Some(described) = described.filter(|described| described.size != bytes.len() as u64) {
        let message = format!("{actual} is {} bytes, not {} as its index says", bytes.len(), described.size);
        return Err(Error::new(ErrorKind::InvalidManifest, message));
    }
    let document = match described {
        Some(descriptor) => Document::parse_described(descriptor, content_type, &bytes)?,
        None => Document::parse(content_type, &bytes)?,
    };
    let descriptor = Descriptor::new(document.media_type(), actual, bytes.len() as u64);
    Ok(FetchedDocument { descriptor, bytes, document, host: host.map(ToOwned::to_owned) })
}

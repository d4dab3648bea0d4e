//! Fetches what is small: manifests, indexes, configs, and the blobs that a verifier reads.

use super::encoding;
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
        let response = session.request(endpoint, ApiRequest::new(RequestTarget::Api(&path), phase));
        let response = response.map_err(|error| error_response::named_blob(error, &descriptor.digest))?;
        let (host, is_redirected) = (response.host().to_owned(), response.is_redirected());
        let encoding = response.reply.encoding();
        let (mut body, _permit) = response.into_body();
        let bytes = read_small(&mut body, descriptor, encoding.as_deref(), is_redirected);
        bytes.map(|bytes| SmallBlob { bytes, is_fetched: true }).map_err(|error| error.with_host(host))
    })
}

/// Reads the blob, and decodes it if it is encoded.
fn read_small(
    body: &mut HttpBody,
    descriptor: &Descriptor,
    encoding: Option<&str>,
    is_redirected: bool,
) -> Result<Vec<u8>, Error> {
    let size = usize::try_from(descriptor.size).unwrap_or(usize::MAX);
    let is_it = |bytes: &Vec<u8>| bytes.len() == size && descriptor.digest.matches(bytes);
    let mut bytes = Vec::new();
    let read = match encoding {
        None => read_exactly(body, descriptor, &mut bytes),
        Some(_) => {
            let limit = usize::try_from(encoding::max_encoded(descriptor.size)).unwrap_or(usize::MAX);
            body.read_to_end(limit).map(|all| bytes = all)
        }
    };
    let mismatch = || {
        let message = format!("the bytes of {} do not hash to it", descriptor.digest);
        Error::new(ErrorKind::DigestMismatch, message)
    };
    let error = match read {
        Ok(()) if is_it(&bytes) => return Ok(bytes),
        Ok(()) => mismatch(),
        Err(error) if error.kind() == ErrorKind::SizeMismatch => error,
        Err(error) => return Err(error),
    };
    let Some(encoding) = encoding else {
        return Err(error_response::html_instead_of("a blob", &bytes, is_redirected).unwrap_or(error));
    };
    encoding::decode(&bytes, size).filter(is_it).ok_or_else(|| encoding::refused(encoding))
}

/// Reads as many bytes as the descriptor says into `bytes`. Stops when there are too many.
fn read_exactly(body: &mut HttpBody, descriptor: &Descriptor, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let mut chunk = [0; 8 * 1024];
    loop {
        let read = body.read(&mut chunk)?;
        let part = chunk.get(..read).unwrap_or_default();
        let Descriptor { digest, size, .. } = descriptor;
        if part.is_empty() {
            if bytes.len() as u64 == *size {
                return Ok(());
            }
            let message = format!("{digest} ended after {} of {size} bytes", bytes.len());
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        let is_too_long = (bytes.len() + part.len()) as u64 > *size;
        bytes.extend_from_slice(part);
        if is_too_long {
            let message = format!("{digest} is longer than the {size} bytes that its descriptor says");
            return Err(Error::new(ErrorKind::SizeMismatch, message).with_retryable(false));
        }
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
    let encoding = response.reply.encoding();
    let (mut body, _permit) = response.into_body();
    let limit = limit.min(MAX_DOCUMENT_BYTES);
    let bytes = body.read_to_end(limit).map_err(named)?;
    let html = error_response::html_instead_of("JSON", &bytes, is_redirected);
    let verified = |bytes| verified(content_type.as_deref(), bytes, Some(&endpoint.name), digest, described);
    let decoded = encoding.as_ref().and_then(|_| encoding::decode(&bytes, limit));
    let fetched = verified(bytes).or_else(|error| match (decoded, &encoding) {
        (Some(decoded), _) => verified(decoded),
        (None, Some(encoding)) => Err(encoding::refused(encoding)),
        (None, None) => Err(error),
    });
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

//! Lists the manifests that refer to another one.

use super::document;
use super::link_header;
use super::request::{ApiRequest, HostTurn, PullSession, RequestTarget};
use super::retry::{self, HostAttempts};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES, media_type};

const MAX_PAGES: usize = 8;

/// The statuses of hosts without the API.
const UNKNOWN_API: &[u16] = &[400, 404, 405, 406];

/// Manifests that refer to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Referrers {
    /// The manifests, in the order of the host that listed them.
    pub manifests: Vec<Descriptor>,
    /// Whether these are all; false if the host has more than 8 pages or 4,096 entries.
    pub is_complete: bool,
}

/// Lists the referrers of `subject`: those of the first host that has any.
///
/// # Errors
/// As of [`retry::over_hosts`], except `NotFound`.
pub(super) fn list(session: &PullSession<'_>, subject: &Digest) -> Result<Referrers, Error> {
    let attempts = HostAttempts::new(Phase::Manifest, |host| host.capabilities.resolve);
    let listed = retry::over_hosts(session, &attempts, |endpoint| {
        let named = |error: Error| error.with_phase(Phase::Manifest).with_host(&endpoint.name);
        let listed = match by_api(session, endpoint, subject).map_err(named)? {
            Some(listed) => listed,
            None => by_tag(session, endpoint, subject).map_err(named)?,
        };
        // The next host may have some.
        let none = || named(Error::new(ErrorKind::NotFound, "the host lists no referrers"));
        Some(listed).filter(|listed| !listed.manifests.is_empty()).ok_or_else(none)
    });
    match listed {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Referrers { manifests: Vec::new(), is_complete: true })
        }
        listed => listed,
    }
}

/// Reads the pages of the referrers API; `None` if the host does not know it.
fn by_api(
    session: &PullSession<'_>,
    endpoint: HostTurn<'_>,
    subject: &Digest,
) -> Result<Option<Referrers>, Error> {
    let path = format!("referrers/{subject}");
    let mut manifests = Vec::new();
    let mut next: Option<String> = None;
    for page in 1..=MAX_PAGES {
        let target =
            next.as_deref().map_or(RequestTarget::Api(&path), |link| RequestTarget::Link(&path, link));
        let request = ApiRequest::new(target, Phase::Manifest).accepting(media_type::OCI_INDEX);
        let response = session.request(endpoint, ApiRequest { tolerated: UNKNOWN_API, ..request })?;
        let is_index = response.reply.header("content-type").is_some_and(is_index_type);
        if response.reply.status() != 200 || (page == 1 && !is_index) {
            response.discard();
            return if page == 1 {
                Ok(None)
            } else {
                Err(protocol_error("a page of the referrers is missing"))
            };
        }
        next = link_header::next(response.reply.headers("link")).map(ToOwned::to_owned);
        let (mut body, _permit) = response.into_body();
        let bytes = body.read_to_end(MAX_DOCUMENT_BYTES)?;
        manifests.extend(index(Document::parse(Some(media_type::OCI_INDEX), &bytes)?)?.manifests);
        if next.is_none() || manifests.len() > MAX_DESCRIPTORS {
            break;
        }
    }
    let is_complete = next.is_none() && manifests.len() <= MAX_DESCRIPTORS;
    manifests.truncate(MAX_DESCRIPTORS);
    Ok(Some(Referrers { manifests, is_complete }))
}

/// Reads the index under the
/// [referrers tag](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema).
fn by_tag(session: &PullSession<'_>, endpoint: HostTurn<'_>, subject: &Digest) -> Result<Referrers, Error> {
    let hex = subject.hex().get(..64).unwrap_or(subject.hex());
    let tag = format!("{}-{hex}", subject.algorithm().as_str());
    let fetched = document::by_tag_at(session, endpoint, &tag, MAX_DOCUMENT_BYTES)?;
    Ok(Referrers { manifests: index(fetched.document)?.manifests, is_complete: true })
}

fn index(document: Document) -> Result<Index, Error> {
    match document {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(protocol_error("the list of referrers is a manifest, not an index")),
    }
}

fn is_index_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(media_type::OCI_INDEX)
}

fn protocol_error(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message).with_retryable(false)
}

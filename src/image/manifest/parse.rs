//! Tells manifests from indexes, and parses them.

use std::collections::HashMap;

use super::fields::{DescriptorFields, DocumentFields, ParsedEntry};
use super::media_type;
use super::types::{Descriptor, Document, Index, Manifest};
use crate::error::{Error, ErrorKind};
use crate::image::json;
use crate::image::quoted::quoted;

impl Document {
    /// Parses a manifest or an index that came with the header `Content-Type: content_type`.
    ///
    /// Unknown fields are ignored, as the spec wants it. A header that says nothing (`application/json`,
    /// `application/octet-stream`, `text/plain`) counts as none. An optional field that is `null` or empty
    /// is absent, and an entry of an index that cannot be used is left out.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) for schema 1 manifests, other media types, and digests of a config or
    /// a layer by an unknown algorithm. [`InvalidManifest`](ErrorKind::InvalidManifest) for all else that is wrong:
    /// no JSON, more than [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES) or
    /// [`MAX_DESCRIPTORS`](super::MAX_DESCRIPTORS), a key twice or in another case, a required field that is missing,
    /// a value of another type, and media types that disagree.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, Error> {
        parse(None, content_type, bytes)
    }

    /// Parses, as [`parse`](Self::parse) does, the document that `descriptor` points to: its media type must
    /// be the one that was announced.
    ///
    /// # Errors
    /// As of [`parse`](Self::parse).
    pub fn parse_described(
        descriptor: &Descriptor,
        content_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        parse(Some(&descriptor.media_type), content_type, bytes)
    }
}

fn parse(announced: Option<&str>, content_type: Option<&str>, bytes: &[u8]) -> Result<Document, Error> {
    let header = content_type.and_then(media_type::of_header);
    if [announced, header.as_deref()].into_iter().flatten().any(media_type::is_schema_1) {
        return Err(schema_1());
    }
    let fields: DocumentFields = json::parse(bytes)?;
    match fields.schema_version.map(|version| version.0) {
        Some(2) => {}
        Some(1) => return Err(schema_1()),
        Some(version) => return Err(invalid(format!("schemaVersion: is {version}, not 2"))),
        None => return Err(invalid("schemaVersion: is missing")),
    }
    let claims = [
        ("the descriptor", announced),
        ("Content-Type", header.as_deref()),
        ("mediaType", fields.media_type.as_deref()),
    ];
    let media_type = match agreed(&claims)? {
        Some(claimed) => claimed.to_owned(),
        None if fields.manifests.is_some() && fields.config.is_none() => media_type::OCI_INDEX.to_owned(),
        None => media_type::OCI_MANIFEST.to_owned(),
    };
    if media_type::is_index(&media_type) {
        index(media_type, fields).map(Document::Index)
    } else if media_type::is_manifest(&media_type) {
        manifest(media_type, fields).map(Document::Manifest)
    } else if media_type::is_schema_1(&media_type) {
        Err(schema_1())
    } else {
        let message = format!("{} is neither an image manifest nor an index", quoted(&media_type));
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// Returns the media type that all claims agree on.
fn agreed<'a>(claims: &[(&str, Option<&'a str>)]) -> Result<Option<&'a str>, Error> {
    let mut made = claims.iter().filter_map(|(by, media_type)| media_type.map(|it| (by, it)));
    let Some((first_by, first)) = made.next() else { return Ok(None) };
    match made.find(|(_, media_type)| *media_type != first) {
        None => Ok(Some(first)),
        Some((by, other)) => {
            Err(invalid(format!("{first_by} says {}, but {by} says {}", quoted(first), quoted(other))))
        }
    }
}

fn manifest(media_type: String, fields: DocumentFields) -> Result<Manifest, Error> {
    if fields.manifests.is_some_and(|manifests| !manifests.is_empty()) {
        return Err(invalid("manifests: only an index has them, and this is a manifest"));
    }
    let manifest = Manifest {
        media_type,
        artifact_type: fields.artifact_type,
        config: fields.config.ok_or_else(|| invalid("config: is missing"))?,
        layers: fields.layers.unwrap_or_default(),
        subject: fields.subject.and_then(usable),
        annotations: fields.annotations,
    };
    check_sizes(&manifest)?;
    Ok(manifest)
}

fn index(media_type: String, fields: DocumentFields) -> Result<Index, Error> {
    let has_layers = fields.layers.is_some_and(|layers| !layers.is_empty());
    if fields.config.is_some() || has_layers {
        let field = if fields.config.is_some() { "config" } else { "layers" };
        return Err(invalid(format!("{field}: only a manifest has it, and this is an index")));
    }
    let mut index = Index::new(Vec::new()).with_media_type(media_type);
    for entry in fields.manifests.unwrap_or_default() {
        match entry {
            ParsedEntry::Usable(entry) => index.manifests.push(entry),
            ParsedEntry::Unusable(entry) => index.unusable.push(entry),
        }
    }
    index.artifact_type = fields.artifact_type;
    index.subject = fields.subject.and_then(usable);
    index.annotations = fields.annotations;
    Ok(index)
}

/// Nothing is fetched for a subject, so one that cannot be read is no reason to refuse the document.
fn usable(subject: DescriptorFields) -> Option<Descriptor> {
    subject.into_descriptor().ok()
}

/// Checks that a digest that is repeated has one size, and that the sum of all is a possible one.
fn check_sizes(manifest: &Manifest) -> Result<(), Error> {
    let mut sizes = HashMap::with_capacity(1 + manifest.layers.len());
    sizes.insert(&manifest.config.digest, manifest.config.size);
    let mut total = manifest.config.size;
    for (index, layer) in manifest.layers.iter().enumerate() {
        match sizes.insert(&layer.digest, layer.size) {
            None => total = total.saturating_add(layer.size),
            Some(size) if size == layer.size => {}
            Some(size) => {
                let message =
                    format!("layers[{index}].size: is {}, but was {size} for the same digest", layer.size);
                return Err(invalid(message));
            }
        }
    }
    if total > i64::MAX.unsigned_abs() {
        return Err(invalid("layers: all sizes together are more than any image can have"));
    }
    Ok(())
}

fn schema_1() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "it is a Docker manifest of schema 1, which was given up in 2019 because its layers cannot be \
         verified; push the image again with a current tool, or ask the image's publisher to",
    )
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidManifest, message)
}

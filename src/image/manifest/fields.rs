//! The fields of manifests, indexes and descriptors in a document, and their valid values.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, MapAccess};

use super::types::{Descriptor, UnusableEntry};
use crate::image::digest::Digest;
use crate::image::json::{Flaw, Integer, Object, Place, Strict, Value, object};
use crate::image::platform::Platform;
use crate::image::quoted::quoted;

/// All that a manifest or an index may have: which of the two a document is shows only when it was read.
#[derive(Default)]
pub(super) struct DocumentFields {
    pub(super) schema_version: Option<Integer>,
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Option<Vec<Descriptor>>,
    pub(super) manifests: Option<Vec<ParsedEntry>>,
    pub(super) subject: Option<DescriptorFields>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Object for DocumentFields {
    const WHAT: &'static str = "a manifest or an index";
    const FIELDS: &'static [&'static str] = &[
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
    ];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "schemaVersion" => self.schema_version = value.read()?,
            "mediaType" => self.media_type = value.read()?,
            "artifactType" => self.artifact_type = value.read()?,
            "config" => self.config = value.read()?,
            "layers" => self.layers = value.read()?,
            "manifests" => self.manifests = value.read()?,
            "subject" => self.subject = value.read()?,
            _ => self.annotations = value.read_or_default()?,
        }
        Ok(())
    }
}

impl Strict for DocumentFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let mut fields: Self = object(json, place)?;
        drop_if_empty(&mut fields.media_type);
        drop_if_empty(&mut fields.artifact_type);
        Ok(fields)
    }
}

/// The fields of a [descriptor](https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#properties).
#[derive(Default)]
pub(super) struct DescriptorFields {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<Integer>,
    urls: Vec<String>,
    data: Option<String>,
    platform: Option<PlatformFields>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

impl Object for DescriptorFields {
    const WHAT: &'static str = "a descriptor";
    const FIELDS: &'static [&'static str] =
        &["mediaType", "digest", "size", "urls", "data", "platform", "artifactType", "annotations"];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "mediaType" => self.media_type = value.read()?,
            "digest" => self.digest = value.read()?,
            "size" => self.size = value.read()?,
            "urls" => self.urls = value.read_or_default()?,
            "data" => self.data = value.read()?,
            "platform" => self.platform = value.read()?,
            "artifactType" => self.artifact_type = value.read()?,
            _ => self.annotations = value.read_or_default()?,
        }
        Ok(())
    }
}

impl Strict for DescriptorFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let mut fields: Self = object(json, place)?;
        for text in [&mut fields.media_type, &mut fields.digest, &mut fields.data, &mut fields.artifact_type]
        {
            drop_if_empty(text);
        }
        fields.platform.take_if(|platform| platform.is_empty());
        Ok(fields)
    }
}

/// A descriptor of a config or a layer: one that is fetched.
impl Strict for Descriptor {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let mut fields = DescriptorFields::read(json, place)?;
        // Only an index is chosen from by platform.
        fields.platform.take_if(|platform| platform.check().is_err());
        fields.into_descriptor().map_err(|flaw| place.refuse(flaw))
    }
}

/// An entry of an index. What is wrong with it is trouble only if it is chosen.
pub(super) enum ParsedEntry {
    Usable(Descriptor),
    Unusable(UnusableEntry),
}

impl Strict for ParsedEntry {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let fields = DescriptorFields::read(json, place)?;
        let platform = fields.platform.as_ref().and_then(|platform| platform.check().ok());
        Ok(match fields.into_descriptor() {
            Ok(descriptor) => ParsedEntry::Usable(descriptor),
            Err(flaw) => ParsedEntry::Unusable(UnusableEntry {
                platform,
                kind: flaw.kind,
                why: format!("{}.{flaw}", place.to_string().trim_end_matches(": ")),
            }),
        })
    }
}

impl DescriptorFields {
    pub(super) fn into_descriptor(self) -> Result<Descriptor, Flaw> {
        let digest = self.digest.as_deref().ok_or_else(|| Flaw::missing("digest"))?;
        let digest = Digest::parse(digest).map_err(|error| Flaw::of("digest", &error))?;
        let descriptor = Descriptor {
            media_type: self.media_type.ok_or_else(|| Flaw::missing("mediaType"))?,
            size: self.size.ok_or_else(|| Flaw::missing("size")).and_then(size)?,
            urls: urls(self.urls)?,
            data: self.data.map(|data| base64(&data)).transpose()?,
            platform: self.platform.as_ref().map(PlatformFields::check).transpose()?,
            artifact_type: self.artifact_type,
            annotations: self.annotations,
            digest,
        };
        check_emptiness(&descriptor)?;
        check_data(&descriptor)?;
        Ok(descriptor)
    }
}

/// Other readers hold a size in 64 bits with a sign.
fn size(Integer(size): Integer) -> Result<u64, Flaw> {
    if size < 0 {
        return Err(Flaw::new("size", format!("{size} is negative")));
    }
    let fits = u64::try_from(size).ok().filter(|size| *size <= i64::MAX.unsigned_abs());
    fits.ok_or_else(|| Flaw::new("size", format!("{size} is more than any size can be")))
}

/// Accepts text that can stand in a request.
fn urls(urls: Vec<String>) -> Result<Vec<String>, Flaw> {
    let is_url_byte = |byte: u8| byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte);
    let is_url = |url: &&String| url.contains(':') && url.bytes().all(is_url_byte);
    match urls.iter().find(|url| !is_url(url)) {
        Some(url) => Err(Flaw::new("urls", format!("{} is no URL", quoted(url)))),
        None => Ok(urls),
    }
}

/// Decodes base64 with padding, as the spec wants it.
fn base64(data: &str) -> Result<Vec<u8>, Flaw> {
    STANDARD.decode(data).map_err(|error| Flaw::new("data", format!("is not base64: {error}")))
}

fn check_emptiness(descriptor: &Descriptor) -> Result<(), Flaw> {
    if descriptor.size == 0 && !descriptor.digest.matches(b"") {
        return Err(Flaw::new("size", format!("is 0, but {} is not the hash of nothing", descriptor.digest)));
    }
    Ok(())
}

fn check_data(descriptor: &Descriptor) -> Result<(), Flaw> {
    let Some(data) = &descriptor.data else { return Ok(()) };
    let why = if data.len() as u64 != descriptor.size {
        format!("is {} bytes, but the size says {}", data.len(), descriptor.size)
    } else if !descriptor.digest.matches(data) {
        format!("does not hash to {}", descriptor.digest)
    } else {
        return Ok(());
    };
    Err(Flaw::new("data", why))
}

#[derive(Default)]
struct PlatformFields {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    os_version: Option<String>,
    os_features: Vec<String>,
}

impl Object for PlatformFields {
    const WHAT: &'static str = "a platform";
    const FIELDS: &'static [&'static str] = &["os", "architecture", "variant", "os.version", "os.features"];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "os" => self.os = value.read()?,
            "architecture" => self.architecture = value.read()?,
            "variant" => self.variant = value.read()?,
            "os.version" => self.os_version = value.read()?,
            _ => self.os_features = value.read_or_default()?,
        }
        Ok(())
    }
}

impl Strict for PlatformFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let mut fields: Self = object(json, place)?;
        for text in [&mut fields.os, &mut fields.architecture, &mut fields.variant, &mut fields.os_version] {
            drop_if_empty(text);
        }
        Ok(fields)
    }
}

impl PlatformFields {
    fn is_empty(&self) -> bool {
        let PlatformFields { os, architecture, variant, os_version, os_features } = self;
        [os, architecture, variant, os_version].into_iter().all(Option::is_none) && os_features.is_empty()
    }

    fn check(&self) -> Result<Platform, Flaw> {
        let required = |field: &Option<String>, name: &str| {
            field.clone().ok_or_else(|| Flaw::new("platform", format!("{name} is missing")))
        };
        let mut platform =
            Platform::new(required(&self.os, "os")?, required(&self.architecture, "architecture")?);
        platform.variant.clone_from(&self.variant);
        platform.os_version.clone_from(&self.os_version);
        platform.os_features.clone_from(&self.os_features);
        Ok(platform)
    }
}

/// An optional text that is empty is absent.
fn drop_if_empty(text: &mut Option<String>) {
    text.take_if(|text| text.is_empty());
}

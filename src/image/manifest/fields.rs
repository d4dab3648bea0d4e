//! Which fields manifests, indexes and descriptors have, and what may stand in them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, MapAccess};

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::quoted::quoted;

use super::Descriptor;
use super::media_type;
use super::strict::{Count, Flaw, Object, Place, Strict, Value, object, text};

/// All that a manifest or an index may have: which of the two it is shows only when it was read.
#[derive(Default)]
pub(super) struct DocumentFields {
    pub(super) schema_version: Option<Count>,
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<MediaType>,
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Option<Vec<Descriptor>>,
    pub(super) manifests: Option<Vec<Descriptor>>,
    pub(super) subject: Option<Descriptor>,
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
            "schemaVersion" => self.schema_version = Some(value.read()?),
            "mediaType" => self.media_type = Some(value.read()?),
            "artifactType" => self.artifact_type = Some(value.read()?),
            "config" => self.config = Some(value.read()?),
            "layers" => self.layers = Some(value.read()?),
            "manifests" => self.manifests = Some(value.read()?),
            "subject" => self.subject = Some(value.read()?),
            _ => self.annotations = value.read()?,
        }
        Ok(())
    }
}

impl Strict for DocumentFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

/// The fields of a [descriptor](https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#properties).
#[derive(Default)]
struct DescriptorFields {
    media_type: Option<MediaType>,
    digest: Option<Digest>,
    size: Option<Count>,
    urls: Vec<Url>,
    data: Option<Base64>,
    platform: Option<Platform>,
    artifact_type: Option<MediaType>,
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
            "mediaType" => self.media_type = Some(value.read()?),
            "digest" => self.digest = Some(value.read()?),
            "size" => self.size = Some(value.read()?),
            "urls" => self.urls = value.read()?,
            "data" => self.data = Some(value.read()?),
            "platform" => self.platform = Some(value.read()?),
            "artifactType" => self.artifact_type = Some(value.read()?),
            _ => self.annotations = value.read()?,
        }
        Ok(())
    }
}

impl Strict for Descriptor {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let fields: DescriptorFields = object(json, place)?;
        fields.into_descriptor().map_err(|flaw| place.flawed(flaw))
    }
}

impl DescriptorFields {
    fn into_descriptor(self) -> Result<Descriptor, Flaw> {
        let descriptor = Descriptor {
            media_type: self.media_type.ok_or_else(|| Flaw::missing("mediaType"))?.0,
            digest: self.digest.ok_or_else(|| Flaw::missing("digest"))?,
            size: self.size.ok_or_else(|| Flaw::missing("size"))?.0,
            urls: self.urls.into_iter().map(|url| url.0).collect(),
            data: self.data.map(|data| data.0),
            platform: self.platform,
            artifact_type: self.artifact_type.map(|artifact_type| artifact_type.0),
            annotations: self.annotations,
        };
        check_emptiness(&descriptor)?;
        check_data(&descriptor)?;
        Ok(descriptor)
    }
}

fn check_emptiness(descriptor: &Descriptor) -> Result<(), Flaw> {
    if descriptor.size == 0 && !descriptor.digest.matches(b"") {
        let why = format!("is 0, but {} is not the hash of nothing", descriptor.digest);
        return Err(Flaw { field: "size", why });
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
    Err(Flaw { field: "data", why })
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
            "os" => self.os = Some(value.read()?),
            "architecture" => self.architecture = Some(value.read()?),
            "variant" => self.variant = Some(value.read()?),
            "os.version" => self.os_version = Some(value.read()?),
            _ => self.os_features = value.read()?,
        }
        Ok(())
    }
}

impl Strict for Platform {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let fields: PlatformFields = object(json, place)?;
        fields.into_platform().map_err(|flaw| place.flawed(flaw))
    }
}

impl PlatformFields {
    fn into_platform(self) -> Result<Platform, Flaw> {
        Ok(Platform {
            os: self.os.ok_or_else(|| Flaw::missing("os"))?,
            architecture: self.architecture.ok_or_else(|| Flaw::missing("architecture"))?,
            variant: self.variant.filter(|variant| !variant.is_empty()),
            os_version: self.os_version.filter(|version| !version.is_empty()),
            os_features: self.os_features,
        })
    }
}

impl Strict for Digest {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        text(json, place, "a digest", Digest::parse)
    }
}

/// A well-formed media type.
pub(super) struct MediaType(pub(super) String);

impl Strict for MediaType {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        text(json, place, "a media type", |text| match media_type::is_well_formed(text) {
            true => Ok(MediaType(text.to_owned())),
            false => Err(invalid(format!("{} is no media type", quoted(text)))),
        })
    }
}

/// Text that can stand in a request.
struct Url(String);

impl Strict for Url {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        text(json, place, "a URL", |text| match text.contains(':') && text.bytes().all(is_url_byte) {
            true => Ok(Url(text.to_owned())),
            false => Err(invalid(format!("{} is no URL", quoted(text)))),
        })
    }
}

fn is_url_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&byte)
}

/// Bytes, written with padding as the spec wants it.
struct Base64(Vec<u8>);

impl Strict for Base64 {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        text(json, place, "base64", |text| {
            STANDARD.decode(text).map(Base64).map_err(|error| invalid(format!("is not base64: {error}")))
        })
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidManifest, message)
}

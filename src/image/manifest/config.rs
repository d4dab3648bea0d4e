//! The image config, as far as a pull needs it.

use serde::de::{Deserializer, MapAccess};

use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::platform::Platform;

use super::strict::{self, Object, Place, Strict, Value, object};

/// What a pull reads of an
/// [image's config](https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#properties).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// What the image was built for; what the config leaves out is empty.
    pub platform: Platform,
    /// The digests of the layers, unpacked, in the manifest's order.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a config. What a pull does not need may be anything, but no key stands twice.
    ///
    /// # Errors
    /// `InvalidManifest` if it is not JSON, is longer than 4 MiB, or a field that is read is wrong;
    /// `Unsupported` for a layer's digest by an unknown algorithm.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        strict::parse::<ConfigFields>(bytes).map(|fields| ImageConfig {
            platform: Platform {
                os: fields.os,
                architecture: fields.architecture,
                variant: fields.variant.filter(|variant| !variant.is_empty()),
                os_version: fields.os_version.filter(|version| !version.is_empty()),
                os_features: fields.os_features,
            },
            diff_ids: fields.rootfs.diff_ids,
        })
    }
}

#[derive(Default)]
struct ConfigFields {
    os: String,
    architecture: String,
    variant: Option<String>,
    os_version: Option<String>,
    os_features: Vec<String>,
    rootfs: RootfsFields,
}

impl Object for ConfigFields {
    const WHAT: &'static str = "an image config";
    const FIELDS: &'static [&'static str] =
        &["os", "architecture", "variant", "os.version", "os.features", "rootfs"];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "os" => self.os = value.read()?,
            "architecture" => self.architecture = value.read()?,
            "variant" => self.variant = Some(value.read()?),
            "os.version" => self.os_version = Some(value.read()?),
            "os.features" => self.os_features = value.read()?,
            _ => self.rootfs = value.read()?,
        }
        Ok(())
    }
}

impl Strict for ConfigFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

#[derive(Default)]
struct RootfsFields {
    diff_ids: Vec<Digest>,
}

impl Object for RootfsFields {
    const WHAT: &'static str = "a rootfs";
    const FIELDS: &'static [&'static str] = &["diff_ids"];

    fn read_field<'de, A: MapAccess<'de>>(&mut self, _: &str, value: Value<'_, A>) -> Result<(), A::Error> {
        self.diff_ids = value.read()?;
        Ok(())
    }
}

impl Strict for RootfsFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

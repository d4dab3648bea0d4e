//! The image config.

use std::collections::BTreeMap;

use serde::de::{Deserializer, MapAccess};

use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::json::{self, Flaw, Names, Object, Place, Strict, Value, object};
use crate::image::platform::Platform;

/// An [image config](https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#properties): the
/// platform, the layers, and how to run the image. What a config leaves out is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// The platform that the image was built for.
    pub platform: Platform,
    /// The digests of the uncompressed layers, in the manifest's order.
    pub diff_ids: Vec<Digest>,
    /// The command to execute when the container starts.
    pub entrypoint: Vec<String>,
    /// The default arguments of the entrypoint, or the command itself where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment variables: `NAME=VALUE`.
    pub env: Vec<String>,
    /// User name or uid, with an optional group name or gid: `USER[:GROUP]`. `None` is root.
    pub user: Option<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The signal that stops the container: `SIGTERM`, `SIGRTMIN+3`, or a number.
    pub stop_signal: Option<String>,
    /// Paths to mount volumes at.
    pub volumes: Vec<String>,
    /// Ports that the container listens on: `PORT[/PROTOCOL]`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How each layer was made, the base first.
    pub history: Vec<HistoryEntry>,
    /// When the image was made, as [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339#section-5.6) has it.
    pub created: Option<String>,
}

/// How one layer was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// When, as RFC 3339 has it.
    pub created: Option<String>,
    /// The command that made it.
    pub created_by: Option<String>,
    /// The author.
    pub author: Option<String>,
    /// A comment.
    pub comment: Option<String>,
    /// Whether the step changed no file, so that no layer stands for it.
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Creates a config with a platform and layers, which does not say how to run the image.
    pub fn new(platform: Platform, diff_ids: Vec<Digest>) -> Self {
        ImageConfig { platform, diff_ids, ..ImageConfig::default() }
    }

    /// Sets the command to execute when the container starts. Default: empty.
    #[must_use]
    pub fn with_entrypoint<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the default arguments of the entrypoint, or the command where there is no entrypoint. Default: empty.
    #[must_use]
    pub fn with_cmd<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.cmd = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the environment variables, each `NAME=VALUE`. Default: empty.
    #[must_use]
    pub fn with_env<T: Into<String>>(mut self, variables: impl IntoIterator<Item = T>) -> Self {
        self.env = variables.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the user, `USER[:GROUP]` by name or number. Default: root.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the working directory. Default: none.
    #[must_use]
    pub fn with_working_dir(mut self, dir: impl Into<String>) -> Self {
        self.working_dir = Some(dir.into());
        self
    }

    /// Sets the signal that stops the container. Default: none.
    #[must_use]
    pub fn with_stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.stop_signal = Some(signal.into());
        self
    }

    /// Adds a label, or replaces the one of the same key. Default: none.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Parses a config. Fields that are `null` or empty are absent; unknown ones are ignored.
    ///
    /// # Errors
    /// [`InvalidManifest`](crate::ErrorKind::InvalidManifest) if it is not JSON, is longer than 4 MiB, has a key
    /// twice or in another case, or a field of another type than the spec says;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for the digest of a layer by an unknown algorithm.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let ConfigFields { platform, run, rootfs, history, created } = json::parse(bytes)?;
        Ok(ImageConfig {
            platform: platform.into_platform(),
            diff_ids: rootfs.0,
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            env: run.env,
            user: filled(run.user),
            working_dir: filled(run.working_dir),
            stop_signal: filled(run.stop_signal),
            volumes: run.volumes.0,
            exposed_ports: run.exposed_ports.0,
            labels: run.labels,
            history,
            created: filled(created),
        })
    }
}

/// Parses the platform of a config, which is all that a pull needs: the rest may be odd.
///
/// # Errors
/// As of [`ImageConfig::parse`].
pub(crate) fn platform_of(config: &[u8]) -> Result<Platform, Error> {
    json::parse::<ConfigPlatform>(config).map(ConfigPlatform::into_platform)
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Default)]
struct ConfigPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    os_version: Option<String>,
    os_features: Vec<String>,
}

const PLATFORM_FIELDS: [&str; 5] = ["os", "architecture", "variant", "os.version", "os.features"];

impl ConfigPlatform {
    fn into_platform(self) -> Platform {
        let mut platform = Platform::new(self.os.unwrap_or_default(), self.architecture.unwrap_or_default());
        platform.variant = filled(self.variant);
        platform.os_version = filled(self.os_version);
        platform.os_features = self.os_features;
        platform
    }
}

impl Object for ConfigPlatform {
    const WHAT: &'static str = "an image config";
    const FIELDS: &'static [&'static str] = &PLATFORM_FIELDS;

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

impl Strict for ConfigPlatform {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

#[derive(Default)]
struct ConfigFields {
    platform: ConfigPlatform,
    run: RunFields,
    rootfs: Rootfs,
    history: Vec<HistoryEntry>,
    created: Option<String>,
}

impl Object for ConfigFields {
    const WHAT: &'static str = "an image config";
    const FIELDS: &'static [&'static str] = &[
        "os",
        "architecture",
        "variant",
        "os.version",
        "os.features",
        "config",
        "rootfs",
        "history",
        "created",
    ];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "config" => self.run = value.read_or_default()?,
            "rootfs" => self.rootfs = value.read_or_default()?,
            "history" => self.history = value.read_or_default()?,
            "created" => self.created = value.read()?,
            _ => self.platform.read_field(name, value)?,
        }
        Ok(())
    }
}

impl Strict for ConfigFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

/// The field `config`: how to run the image.
#[derive(Default)]
struct RunFields {
    user: Option<String>,
    exposed_ports: Names,
    env: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    volumes: Names,
    working_dir: Option<String>,
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

impl Object for RunFields {
    const WHAT: &'static str = "the settings of a container";
    const FIELDS: &'static [&'static str] = &[
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
    ];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "User" => self.user = value.read()?,
            "ExposedPorts" => self.exposed_ports = value.read_or_default()?,
            "Env" => self.env = value.read_or_default()?,
            "Entrypoint" => self.entrypoint = value.read_or_default()?,
            "Cmd" => self.cmd = value.read_or_default()?,
            "Volumes" => self.volumes = value.read_or_default()?,
            "WorkingDir" => self.working_dir = value.read()?,
            "Labels" => self.labels = value.read_or_default()?,
            _ => self.stop_signal = value.read()?,
        }
        Ok(())
    }
}

impl Strict for RunFields {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

/// The field `rootfs`: the layers.
#[derive(Default)]
struct Rootfs(Vec<Digest>);

#[derive(Default)]
struct RootfsFields {
    diff_ids: Vec<String>,
}

impl Object for RootfsFields {
    const WHAT: &'static str = "a rootfs";
    const FIELDS: &'static [&'static str] = &["diff_ids"];

    fn read_field<'de, A: MapAccess<'de>>(&mut self, _: &str, value: Value<'_, A>) -> Result<(), A::Error> {
        self.diff_ids = value.read_or_default()?;
        Ok(())
    }
}

impl Strict for Rootfs {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        let fields: RootfsFields = object(json, place)?;
        let parsed: Result<Vec<Digest>, Error> =
            fields.diff_ids.iter().map(|text| Digest::parse(text)).collect();
        parsed.map(Rootfs).map_err(|error| place.refuse(Flaw::of("diff_ids", &error)))
    }
}

impl Object for HistoryEntry {
    const WHAT: &'static str = "an entry of the history";
    const FIELDS: &'static [&'static str] = &["created", "created_by", "author", "comment", "empty_layer"];

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "created" => self.created = value.read()?,
            "created_by" => self.created_by = value.read()?,
            "author" => self.author = value.read()?,
            "comment" => self.comment = value.read()?,
            _ => self.empty_layer = value.read_or_default()?,
        }
        Ok(())
    }
}

impl Strict for HistoryEntry {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        object(json, place)
    }
}

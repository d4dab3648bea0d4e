//! Images as `docker save` lists them, in `manifest.json`.

use std::collections::HashMap;

use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest, media_type};
use crate::image::platform::Platform;
use crate::image::quoted;
use crate::image::reference::Reference;
use crate::store::error::refused;
use crate::store::import::archive::Contents;
use crate::store::import::catalog::{Taken, TakenManifest};
use crate::store::import::error::invalid;
use crate::store::import::session::Import;
use crate::store::layout::DOCKER_MANIFEST;
use crate::store::names;

/// An image of a `docker save` archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An image that is taken, and its names.
pub(super) struct NamedImage {
    pub(super) names: Vec<String>,
    pub(super) taken: Taken,
}

/// A config that was read.
#[derive(Clone)]
struct Config {
    diff_ids: Vec<Digest>,
    platform: Option<Platform>,
}

/// What is known of the images that were found so far, and of blobs that they share.
#[derive(Default)]
struct Known {
    /// The place of the first image with each id among all that are found.
    parts: HashMap<Digest, (usize, TakenManifest)>,
    configs: HashMap<Digest, Config>,
    layer_types: HashMap<Digest, &'static str>,
}

impl Known {
    fn of(images: &[NamedImage]) -> Self {
        let mut known = Known::default();
        for (place, image) in images.iter().enumerate() {
            for part in image.taken.manifests.iter().filter(|part| !part.is_attestation) {
                known.parts.entry(part.id.clone()).or_insert_with(|| (place, part.clone()));
            }
        }
        known
    }

    /// Adds an image that is one manifest; returns its place.
    fn add(&mut self, images: &mut Vec<NamedImage>, part: TakenManifest) -> usize {
        self.parts.insert(part.id.clone(), (images.len(), part.clone()));
        images.push(NamedImage { names: Vec::new(), taken: Taken::image(part) });
        images.len() - 1
    }
}

fn check_names(names: &[String], part: &TakenManifest) -> Result<(), Error> {
    names.iter().try_for_each(|name| names::check_digest(name, &part.descriptor.digest)).map_err(invalid)
}

impl Import<'_> {
    /// Adds the images of `manifest.json` to those that `index.json` lists. The two may list the same
    /// ones: an image of both has one manifest, and the names of both.
    pub(super) fn add_docker_images(
        &mut self,
        text: &[u8],
        contents: &Contents,
        images: &mut Vec<NamedImage>,
    ) -> Result<(), Error> {
        let listed: Option<Vec<DockerImage>> =
            serde_json::from_slice(text).map_err(|error| invalid(format!("{DOCKER_MANIFEST}: {error}")))?;
        let mut known = Known::of(images);
        for image in listed.unwrap_or_default() {
            let layers = image.layers.unwrap_or_default();
            let mut names = self.docker_names(&image.repo_tags.unwrap_or_default())?;
            self.limits.count(self.cx, 1 + layers.len())?;
            let (id, _) = file(contents, &image.config)?;
            let place = match known.parts.get(id) {
                Some((place, part)) => {
                    let (place, part) = (*place, part.clone());
                    check_names(&names, &part)?;
                    match images.get(place).is_some_and(|it| it.taken.root.digest == part.descriptor.digest) {
                        true => place,
                        false if names.is_empty() => continue,
                        false => known.add(images, part),
                    }
                }
                None => {
                    let part = self.docker_image(&image.config, &layers, contents, &mut known)?;
                    check_names(&names, &part)?;
                    known.add(images, part)
                }
            };
            if let Some(image) = images.get_mut(place) {
                image.names.append(&mut names);
            }
        }
        Ok(())
    }

    /// Reads the names of one image, which must be references.
    fn docker_names(&mut self, tags: &[String]) -> Result<Vec<String>, Error> {
        self.limits.count(self.cx, tags.len())?;
        let mut names = Vec::new();
        for tag in tags {
            self.limits.keep(tag)?;
            if names::is_like_a_digest(tag) {
                let tag = quoted(tag);
                return Err(invalid(format!("the name {tag} is a digest, which no image may be called")));
            }
            names.push(Reference::parse(tag)?.to_string());
        }
        Ok(names)
    }

    /// Makes a manifest of what `docker save` has written: the layers stay as they are.
    fn docker_image(
        &mut self,
        config_path: &str,
        layer_paths: &[String],
        contents: &Contents,
        known: &mut Known,
    ) -> Result<TakenManifest, Error> {
        let (id, config_size) = file(contents, config_path)?;
        check_file_name(config_path, id)?;
        let Config { diff_ids, platform } = self.docker_config(id, known)?;
        if diff_ids.len() != layer_paths.len() {
            return Err(invalid(format!(
                "{config_path:.160} lists {} layers, and {DOCKER_MANIFEST} {}",
                diff_ids.len(),
                layer_paths.len()
            )));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in layer_paths.iter().zip(&diff_ids) {
            let (digest, size) = file(contents, path)?;
            let media_type = match known.layer_types.get(digest) {
                Some(known) => known,
                None => {
                    let found = self.layer_type(digest)?;
                    known.layer_types.insert(digest.clone(), found);
                    found
                }
            };
            // What is compressed would have to be unpacked to be compared.
            if media_type == media_type::OCI_LAYER && digest != diff_id {
                let text = format!("{path:.160} hashes to {digest}, and the config says {diff_id}");
                return Err(Error::new(ErrorKind::DigestMismatch, text));
            }
            layers.push(Descriptor::new(media_type, digest.clone(), size));
        }
        let config = Descriptor::new(media_type::OCI_CONFIG, id.clone(), config_size);
        let manifest = Manifest::new(config, layers);
        let text = manifest.to_json();
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(&text), text.len() as u64);
        Document::parse_described(&descriptor, None, &text)?;
        self.copy(&descriptor, &mut &text[..])?;
        Ok(TakenManifest { descriptor, id: id.clone(), platform, is_attestation: false })
    }

    fn docker_config(&mut self, id: &Digest, known: &mut Known) -> Result<Config, Error> {
        if let Some(known) = known.configs.get(id) {
            return Ok(known.clone());
        }
        let config = self.store.config(id)?;
        self.limits.count(self.cx, config.diff_ids.len())?;
        self.limits.keep_platform(&config.platform)?;
        let platform = Some(config.platform).filter(|platform| !platform.os.is_empty());
        let config = Config { diff_ids: config.diff_ids, platform };
        known.configs.insert(id.clone(), config.clone());
        Ok(config)
    }

    /// Layers may be compressed or not: their first bytes tell.
    fn layer_type(&self, digest: &Digest) -> Result<&'static str, Error> {
        use std::io::Read;
        let mut magic = Vec::new();
        let content = self.store.open_blob(digest)?;
        content.take(4).read_to_end(&mut magic).map_err(|error| refused(&error, format!("read {digest}")))?;
        Ok(match &magic[..] {
            [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER,
        })
    }
}

fn file<'c>(contents: &'c Contents, path: &str) -> Result<(&'c Digest, u64), Error> {
    let missing = || Error::new(ErrorKind::NotFound, format!("{path:.160?} is missing in the archive"));
    contents.blob(path).ok_or_else(missing)
}

/// Checks the digest in a config's file name, if it has one: Docker names the file after it.
fn check_file_name(path: &str, digest: &Digest) -> Result<(), Error> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let named = Digest::parse(&format!("sha256:{}", name.trim_end_matches(".json")));
    match named {
        Ok(named) if named != *digest => {
            Err(Error::new(ErrorKind::DigestMismatch, format!("{path:.160} hashes to {digest}")))
        }
        _ => Ok(()),
    }
}

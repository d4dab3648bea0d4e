//! Taking images in from archives and folders, for machines without a network.
//!
//! An archive is read once, from its beginning to its end, and may be a pipe. Every file in it becomes
//! a blob at once, under the digest that its bytes have or must have; which of them make images is
//! known when all was read. What no image uses then goes again, as all does if anything is wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use crate::context::PullContext;
use crate::durable::{Disk, OpenMode, RealDisk, read_limited};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, MAX_DOCUMENT_BYTES, Manifest, media_type};
use crate::image::reference::Reference;
use crate::store::error::refused;
use crate::store::gc::ReferenceGraph;
use crate::store::handle::Store;
use crate::store::index::{self, StoreIndex};
use crate::store::ingest::BeginIngest;
use crate::store::ingest::READ;
use crate::store::layout::{self, BLOBS, INDEX, LAYOUT};
use crate::store::read::Blob;
use crate::store::tar;
use crate::store::transaction::Transaction;

/// What `docker save` lists its images in.
const DOCKER_MANIFEST: &str = "manifest.json";
/// How deep indexes may stand in one another.
const MAX_DEPTH: usize = 4;

impl Store {
    /// Takes in the images of an OCI archive or of a `docker save` archive, not compressed: their
    /// names, or for an image without one, its manifest's digest. Each byte is verified as in a pull.
    ///
    /// # Errors
    /// `InvalidManifest` for what is no such archive, or one with absolute paths, `..`, links, or a
    /// path twice; `DigestMismatch`, `SizeMismatch`, `NotFound` for blobs that are wrong or missing;
    /// `Unsupported`; `DiskFull`; `Cancelled`, `Timeout`; `Store`. Nothing of it is left then.
    pub fn import(&self, cx: &PullContext, archive: impl Read) -> Result<Vec<String>, Error> {
        self.importing(|import| import.archive(cx, archive))
    }

    /// Takes in the images of the OCI image layout in `dir`, which is only read.
    ///
    /// # Errors
    /// As of [`import`](Self::import); `InvalidConfig` if the folder is no image layout.
    pub fn import_layout(&self, cx: &PullContext, dir: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        let dir = dir.as_ref();
        let disk = RealDisk::open(dir).map_err(|error| refused(&error, format!("open {}", dir.display())))?;
        layout::check(&disk, dir)?;
        let (index, _) = layout::read_index(&disk)?;
        self.importing(|import| {
            import.layout(cx, &disk, &index)?;
            import.transaction.wait_durable(cx)?;
            import.name_listed(cx, &index)
        })
    }

    /// Runs an import, and takes away what it brought that no image uses.
    fn importing<T>(&self, import: impl FnOnce(&mut Import<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = Import { store: self, transaction: self.transaction(), brought: HashSet::new() };
        let outcome = import(&mut state);
        // Their flushes may be under way: what is removed must be under its name by then.
        let Import { transaction, brought, .. } = state;
        let _ = transaction.wait_durable(&PullContext::new());
        drop(transaction);
        if let Err(error) = self.collect(&PullContext::new(), brought, &mut ReferenceGraph::default()) {
            log::warn!("what an import left over was not removed: {error}");
        }
        outcome
    }
}

/// An import under way.
struct Import<'a> {
    store: &'a Store,
    transaction: Transaction,
    /// Blobs that it put into the store.
    brought: HashSet<Digest>,
}

/// What an archive held beside its blobs.
#[derive(Default)]
struct Contents {
    /// The few files that say what the others are.
    documents: HashMap<String, Vec<u8>>,
    files: HashMap<String, (Digest, u64)>,
    aliases: HashMap<String, String>,
}

impl Contents {
    /// The file at `path`, or at the path that it is another name of.
    fn file(&self, path: &str) -> Option<&(Digest, u64)> {
        self.files.get(path).or_else(|| self.files.get(self.aliases.get(path)?))
    }
}

impl Import<'_> {
    fn archive(&mut self, cx: &PullContext, archive: impl Read) -> Result<Vec<String>, Error> {
        let mut contents = Contents::default();
        let mut reader = tar::Reader::new(archive);
        while let Some(entry) = reader.next_entry().map_err(bad_archive)? {
            cx.check()?;
            match entry {
                tar::Entry::Alias { path, target } => drop(contents.aliases.insert(path, target)),
                tar::Entry::File { path, size } => self.file(cx, path, size, &mut reader, &mut contents)?,
            }
        }
        self.transaction.wait_durable(cx)?;
        if let Some(text) = contents.documents.get(INDEX) {
            let marker = contents.documents.get(LAYOUT);
            layout::check_marker(marker.map_or(&[], Vec::as_slice)).map_err(invalid)?;
            return self.name_listed(cx, &StoreIndex::parse(text)?);
        }
        let Some(text) = contents.documents.get(DOCKER_MANIFEST) else {
            return Err(invalid(format!(
                "the archive has neither {INDEX} nor {DOCKER_MANIFEST}: it holds no image"
            )));
        };
        let listed: Vec<DockerImage> =
            serde_json::from_slice(text).map_err(|error| invalid(format!("{DOCKER_MANIFEST}: {error}")))?;
        let images: Result<Vec<_>, _> =
            listed.iter().map(|image| self.docker_image(cx, image, &contents)).collect();
        self.name(cx, images?)
    }

    fn file(
        &mut self,
        cx: &PullContext,
        path: String,
        size: u64,
        content: &mut impl Read,
        contents: &mut Contents,
    ) -> Result<(), Error> {
        if matches!(&*path, LAYOUT | INDEX | DOCKER_MANIFEST) {
            if size > MAX_DOCUMENT_BYTES as u64 {
                return Err(invalid(format!("{path} is {size} bytes long")));
            }
            let mut text = Vec::new();
            content.read_to_end(&mut text).map_err(bad_archive)?;
            contents.documents.insert(path, text);
            return Ok(());
        }
        let digest = match path.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/')?.rsplit_once('/'))
        {
            Some((algorithm, name)) => {
                let digest = layout::digest_in(algorithm, name)
                    .ok_or_else(|| invalid(format!("{path} stands among the blobs, and is none")))?;
                self.copy(cx, &Descriptor::new("", digest.clone(), size), content)?;
                digest
            }
            None => self.copy_computing_digest(cx, size, content)?,
        };
        contents.files.insert(path, (digest, size));
        Ok(())
    }

    /// Brings a blob into the store, unless it is there.
    fn copy(&mut self, cx: &PullContext, blob: &Descriptor, content: &mut impl Read) -> Result<(), Error> {
        self.store.require_space(blob.size)?;
        let BeginIngest::Fetch(mut ingest) = self.store.begin(cx, &self.transaction, blob)? else {
            return Ok(());
        };
        let outcome = ingest.restart().and_then(|()| {
            let mut buffer = vec![0; usize::try_from(blob.size).unwrap_or(READ).min(READ)];
            loop {
                cx.check()?;
                let read = content.read(&mut buffer).map_err(bad_archive)?;
                match buffer.get(..read) {
                    None | Some([]) => return Ok(()),
                    Some(bytes) => ingest.write(bytes)?,
                }
            }
        });
        match outcome {
            Ok(()) => {
                self.brought.insert(blob.digest.clone());
                ingest.commit()
            }
            Err(error) => {
                ingest.discard();
                Err(error)
            }
        }
    }

    fn copy_computing_digest(
        &mut self,
        cx: &PullContext,
        size: u64,
        content: &mut impl Read,
    ) -> Result<Digest, Error> {
        self.store.require_space(size)?;
        let (digest, _) = self.store.put_computing_digest(cx, &self.transaction, content)?;
        self.brought.insert(digest.clone());
        Ok(digest)
    }

    /// Copies what the index of another layout lists.
    fn layout(&mut self, cx: &PullContext, disk: &RealDisk, index: &StoreIndex) -> Result<(), Error> {
        for entry in index.entries() {
            if let Some(digest) = &entry.digest {
                let listed = Descriptor::new(&entry.media_type, digest.clone(), entry.size);
                self.tree(cx, disk, &listed, 0)?;
            }
        }
        Ok(())
    }

    /// Copies a blob, and all that it names if it is a manifest or an index.
    fn tree(
        &mut self,
        cx: &PullContext,
        disk: &RealDisk,
        blob: &Descriptor,
        depth: usize,
    ) -> Result<(), Error> {
        let path = layout::blob_path(&blob.digest);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{} is not in the layout", blob.digest))
            }
            _ => refused(&error, format!("read {path}")),
        };
        let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let is_index = media_type::is_index(&blob.media_type);
        if !is_index && !media_type::is_manifest(&blob.media_type) {
            return self.copy(cx, blob, &mut Blob::new(file, blob.size));
        }
        let bytes = read_limited(&*file, MAX_DOCUMENT_BYTES as u64).map_err(failed)?;
        self.copy(cx, blob, &mut &bytes[..])?;
        match Document::parse_described(blob, None, &bytes)? {
            Document::Manifest(manifest) => {
                manifest.blobs().into_iter().try_for_each(|part| self.tree(cx, disk, part, depth))
            }
            Document::Index(_) if depth == MAX_DEPTH => {
                Err(invalid(format!("indexes stand in one another, {MAX_DEPTH} deep")))
            }
            Document::Index(index) => {
                // A layout may hold some platforms only.
                let is_there = |part: &&Descriptor| disk.metadata(&layout::blob_path(&part.digest)).is_ok();
                let parts = index.manifests.iter().filter(is_there);
                parts.into_iter().try_for_each(|part| self.tree(cx, disk, part, depth + 1))
            }
        }
    }

    /// Gives the images that an index lists their names, once it is sure that all of them are whole.
    fn name_listed(&mut self, cx: &PullContext, index: &StoreIndex) -> Result<Vec<String>, Error> {
        let mut images = Vec::new();
        for entry in index.entries() {
            let digest =
                entry.digest.as_ref().ok_or_else(|| invalid(format!("{INDEX} lists something unknown")))?;
            let listed = Descriptor::new(&entry.media_type, digest.clone(), entry.size);
            images.push((entry.whole_name().into_iter().collect(), self.checked(cx, &listed, 0)?));
        }
        if images.is_empty() {
            return Err(invalid(format!("{INDEX} lists no image")));
        }
        self.name(cx, images)
    }

    /// What to list: the manifest, or of an index, the one manifest that is there, or else the index.
    fn checked(&mut self, cx: &PullContext, listed: &Descriptor, depth: usize) -> Result<Descriptor, Error> {
        if !self.is_there(cx, listed)? {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is missing", listed.digest)));
        }
        match Document::parse_described(listed, None, &self.store.document(&listed.digest)?)? {
            Document::Manifest(manifest) => {
                self.check_image(cx, &manifest)?;
                Ok(listed.clone())
            }
            Document::Index(_) if depth == MAX_DEPTH => {
                Err(invalid(format!("indexes stand in one another, {MAX_DEPTH} deep")))
            }
            Document::Index(index) => {
                let mut found = Vec::new();
                for part in &index.manifests {
                    if self.is_there(cx, part)? {
                        found.push(self.checked(cx, part, depth + 1)?);
                    }
                }
                match &found[..] {
                    [] => Err(Error::new(
                        ErrorKind::NotFound,
                        format!("no image of {} is there", listed.digest),
                    )),
                    [only] => Ok(only.clone()),
                    _ => Ok(listed.clone()),
                }
            }
        }
    }

    fn check_image(&mut self, cx: &PullContext, manifest: &Manifest) -> Result<(), Error> {
        for blob in manifest.blobs() {
            if !self.is_there(cx, blob)? {
                return Err(Error::new(ErrorKind::NotFound, format!("the blob {} is missing", blob.digest)));
            }
        }
        if media_type::is_image_config(&manifest.config.media_type) {
            self.store.config(&manifest.config.digest)?;
        }
        Ok(())
    }

    /// Whether the blob is in the store; from now on the import counts on it.
    fn is_there(&self, cx: &PullContext, blob: &Descriptor) -> Result<bool, Error> {
        match self.store.begin(cx, &self.transaction, blob)? {
            BeginIngest::Present => Ok(true),
            BeginIngest::Fetch(ingest) => {
                ingest.discard();
                Ok(false)
            }
        }
    }

    /// Makes an image of what `docker save` has written: its layers stay as they are.
    fn docker_image(
        &mut self,
        cx: &PullContext,
        image: &DockerImage,
        contents: &Contents,
    ) -> Result<(Vec<String>, Descriptor), Error> {
        let file = |path: &String| {
            let missing = || Error::new(ErrorKind::NotFound, format!("{path} is missing in the archive"));
            contents.file(path).cloned().ok_or_else(missing)
        };
        let (id, config_size) = file(&image.config)?;
        check_file_name(&image.config, &id)?;
        let diff_ids = self.store.config(&id)?.diff_ids;
        if diff_ids.len() != image.layers.len() {
            let text = format!(
                "{} lists {} layers, and {DOCKER_MANIFEST} {}",
                image.config,
                diff_ids.len(),
                image.layers.len()
            );
            return Err(invalid(text));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().zip(&diff_ids) {
            let (digest, size) = file(path)?;
            let media_type = self.layer_type(&digest)?;
            // What is compressed would have to be unpacked to be compared.
            if media_type == media_type::OCI_LAYER && digest != *diff_id {
                let text = format!("{path} hashes to {digest}, and the config says {diff_id}");
                return Err(Error::new(ErrorKind::DigestMismatch, text));
            }
            layers.push(Descriptor::new(media_type, digest, size));
        }
        let manifest = Manifest {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, id, config_size),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let text = manifest.to_json();
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(&text), text.len() as u64);
        Document::parse_described(&manifest, None, &text)?;
        self.copy(cx, &manifest, &mut &text[..])?;
        let names = image.repo_tags.iter().flatten().map(|tag| Ok(Reference::parse(tag)?.to_string()));
        Ok((names.collect::<Result<_, Error>>()?, manifest))
    }

    /// Layers may be compressed or not: their first bytes tell.
    fn layer_type(&self, digest: &Digest) -> Result<&'static str, Error> {
        let mut magic = Vec::new();
        let content = self.store.open_blob(digest)?;
        content.take(4).read_to_end(&mut magic).map_err(|error| refused(&error, format!("read {digest}")))?;
        Ok(match &magic[..] {
            [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER,
        })
    }

    /// Lists the images, each under its names or without one, by one change: all or none. Answers what
    /// they can be found by.
    fn name(
        &mut self,
        cx: &PullContext,
        images: Vec<(Vec<String>, Descriptor)>,
    ) -> Result<Vec<String>, Error> {
        self.transaction.wait_durable(cx)?;
        let (mut found_by, mut entries) = (Vec::new(), Vec::new());
        for (names, target) in images {
            let id = self.id_of(&target)?;
            let entry = |name| index::IndexEntry::new(name, &target, id.as_ref(), None);
            if names.is_empty() {
                entries.push(entry(None));
                found_by.push(target.digest.to_string());
            }
            entries.extend(names.iter().map(|name| entry(Some(name.as_str()))));
            found_by.extend(names);
        }
        let (mut used, mut references) = (HashSet::new(), ReferenceGraph::default());
        for entry in &entries {
            references.follow(self.store, cx, entry, &mut used)?;
        }
        self.store.0.group_commit.change_index(cx, self.transaction.pending(), move |index| {
            entries.into_iter().fold(false, |changed, entry| index.put(entry) | changed)
        })?;
        self.brought.retain(|blob| !used.contains(blob));
        Ok(found_by)
    }

    /// An image's id; an index has none.
    fn id_of(&self, target: &Descriptor) -> Result<Option<Digest>, Error> {
        match media_type::is_manifest(&target.media_type) {
            true => self
                .store
                .manifest(&target.digest)
                .map(|manifest| Some(manifest.image_id(&target.digest).clone())),
            false => Ok(None),
        }
    }
}

/// An image of a `docker save` archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Docker names a config's file after its digest: where it does, that must be right.
fn check_file_name(path: &str, digest: &Digest) -> Result<(), Error> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let named = Digest::parse(&format!("sha256:{}", name.trim_end_matches(".json")));
    match named {
        Ok(named) if named != *digest => {
            Err(Error::new(ErrorKind::DigestMismatch, format!("{path} hashes to {digest}")))
        }
        _ => Ok(()),
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidManifest, why)
}

/// What the archive's reader stumbled over.
fn bad_archive(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            invalid(format!("the archive cannot be used: {error}"))
        }
        _ => Error::new(ErrorKind::Store, format!("cannot read the archive: {error}")).with_source(error),
    }
}

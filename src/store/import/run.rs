//! An import from its beginning to its end.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::context::PullContext;
use crate::durable::{Disk, RealDisk};
use crate::error::{Error, ErrorKind};
use crate::image::manifest::{Descriptor, Document, media_type};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::import::catalog::Catalog;
use crate::store::import::docker::NamedImage;
use crate::store::import::error::{invalid, lacking};
use crate::store::import::limits::Limits;
use crate::store::import::options::{ImportOptions, Imported, SkippedImage};
use crate::store::import::session::{FoundSignatures, Import};
use crate::store::import::source::{ArchiveBlobs, ImportSource, LayoutFolder};
use crate::store::index::StoreIndex;
use crate::store::layout::{self, DOCKER_MANIFEST, INDEX, LAYOUT};
use crate::store::names;
use crate::store::references::{ReferenceGraph, Used};

/// The longest `index.json` of a layout that is imported, bytes.
const MAX_INDEX: u64 = 16 << 20;
/// How long the blobs of an import that was cancelled are tidied up; what is left then, the next
/// collection removes.
const TIDYING: Duration = Duration::from_millis(50);

impl Store {
    /// Takes in the images of an OCI archive or of a `docker save` archive: their names, or for an
    /// image without one, its digest. With the feature `unpack` it may be compressed with gzip or zstd, and is
    /// read to the end of the compressed stream. Each byte is verified as in a pull.
    ///
    /// # Errors
    /// As of [`import_with`](Self::import_with).
    pub fn import(&self, cx: &PullContext, archive: impl Read) -> Result<Vec<String>, Error> {
        Ok(self.import_with(cx, archive, &ImportOptions::new())?.names)
    }

    /// Does as [`import`](Self::import), with options. The context is looked at before each read; a read
    /// that blocks, of a pipe for example, ends with it if `archive` is a
    /// [`Cancellable`](crate::store::Cancellable).
    ///
    /// # Errors
    /// [`InvalidManifest`](ErrorKind::InvalidManifest) for what is no such archive, or is compressed with what is not
    /// read, or has more than 16 MiB after its end within the compressed stream; for absolute paths, `..`, links, or
    /// a path twice; for more than 100,000 entries, or as many descriptors in all documents, or 16 MiB of names and
    /// paths; for a name with a digest that is not its content's, or one that stands for two images of one platform.
    /// [`DigestMismatch`](ErrorKind::DigestMismatch), [`SizeMismatch`](ErrorKind::SizeMismatch),
    /// [`NotFound`](ErrorKind::NotFound) for blobs that are wrong or missing, but for those of other platforms;
    /// [`NoMatchingPlatform`](ErrorKind::NoMatchingPlatform); [`Unsupported`](ErrorKind::Unsupported);
    /// [`DiskFull`](ErrorKind::DiskFull); [`Store`](ErrorKind::Store). Nothing of it is left then.
    /// [`Cancelled`](ErrorKind::Cancelled), [`Timeout`](ErrorKind::Timeout): the next collection may have to remove
    /// blobs of it.
    pub fn import_with(
        &self,
        cx: &PullContext,
        archive: impl Read,
        options: &ImportOptions,
    ) -> Result<Imported, Error> {
        self.importing(cx, options, |import| import.archive(archive))
    }

    /// Takes in the images of the OCI image layout in `dir`, which is only read.
    ///
    /// # Errors
    /// As of [`import_with`](Self::import_with); [`InvalidConfig`](ErrorKind::InvalidConfig) if the folder is no
    /// image layout.
    pub fn import_layout(&self, cx: &PullContext, dir: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        Ok(self.import_layout_with(cx, dir, &ImportOptions::new())?.names)
    }

    /// Does as [`import_layout`](Self::import_layout), with options.
    ///
    /// # Errors
    /// As of [`import_layout`](Self::import_layout).
    pub fn import_layout_with(
        &self,
        cx: &PullContext,
        dir: impl AsRef<Path>,
        options: &ImportOptions,
    ) -> Result<Imported, Error> {
        let dir = dir.as_ref();
        let disk = RealDisk::open(dir).map_err(|error| refused(&error, format!("open {}", dir.display())))?;
        if let Ok(found) = disk.metadata(INDEX)
            && found.len > MAX_INDEX
        {
            let text = format!("{INDEX} is {} bytes, and more than {MAX_INDEX} are not read", found.len);
            return Err(invalid(text));
        }
        layout::check(&disk, dir)?;
        let (index, _) = layout::read_index(&disk)?;
        self.importing(cx, options, |import| {
            let source = LayoutFolder(disk);
            let images = import.listed(&source, &index)?;
            import.finish(&source, images)
        })
    }

    /// Runs an import, and takes away what it brought that no image uses.
    fn importing<T>(
        &self,
        cx: &PullContext,
        options: &ImportOptions,
        import: impl FnOnce(&mut Import<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = Import {
            store: self,
            cx,
            options,
            transaction: self.transaction(),
            brought: HashSet::new(),
            limits: Limits::default(),
            signatures: FoundSignatures::default(),
        };
        let outcome = import(&mut state);
        let Import { transaction, brought, .. } = state;
        let tidying = match cx.check() {
            Ok(()) => {
                // What is removed must be under its name, and a flush may be under way.
                let _ = transaction.wait_durable(cx);
                cx.clone()
            }
            Err(_) => PullContext::new().with_timeout(TIDYING),
        };
        drop(transaction);
        if let Err(error) = self.collect(&tidying, brought, &mut ReferenceGraph::default()) {
            log::warn!("what an import left over was not removed, and is left to the next prune: {error}");
        }
        outcome
    }
}

/// Returns whether an entry of this media type may be an image; the content of one without a type tells.
fn may_be_image(media_type: &str) -> bool {
    media_type.is_empty() || media_type::is_manifest(media_type) || media_type::is_index(media_type)
}

impl Import<'_> {
    fn archive(&mut self, archive: impl Read) -> Result<Imported, Error> {
        let contents = self.unpack(archive)?;
        self.transaction.wait_durable(self.cx)?;
        let mut images = Vec::new();
        let index = contents.document(INDEX);
        if let Some(text) = index {
            layout::check_marker(contents.document(LAYOUT).unwrap_or_default()).map_err(invalid)?;
            images = self
                .listed(&ArchiveBlobs, &StoreIndex::parse(text).map_err(|error| invalid(error.message()))?)?;
        }
        match contents.document(DOCKER_MANIFEST) {
            Some(text) => self.add_docker_images(text, &contents, &mut images)?,
            None if index.is_none() => {
                return Err(invalid(format!(
                    "the archive has neither {INDEX} nor {DOCKER_MANIFEST}: it holds no image"
                )));
            }
            None => {}
        }
        self.finish(&ArchiveBlobs, images)
    }

    /// Returns the images that an index lists, with the names that it gives them.
    fn listed(&mut self, source: &impl ImportSource, index: &StoreIndex) -> Result<Vec<NamedImage>, Error> {
        let mut roots: Vec<(Descriptor, Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        for entry in index.entries() {
            self.limits.count(self.cx, 1)?;
            if self.collect_signatures(source, entry)? {
                continue;
            }
            let Some(digest) = &entry.digest else {
                // What is no image may have any kind of digest.
                if may_be_image(&entry.media_type) {
                    return Err(invalid(format!(
                        "{INDEX} lists an image whose digest is of an unknown kind"
                    )));
                }
                continue;
            };
            let place = *places.entry(digest.clone()).or_insert_with(|| {
                let listed = Descriptor::new(&entry.media_type, digest.clone(), entry.size);
                roots.push((Descriptor { platform: entry.platform.clone(), ..listed }, Vec::new()));
                roots.len() - 1
            });
            if let Some(name) = entry.whole_name()
                && let Some((_, names)) = roots.get_mut(place)
            {
                self.limits.keep(&name)?;
                names.push(name);
            }
        }
        let mut limits = std::mem::take(&mut self.limits);
        let mut images = Vec::new();
        let asked = self.options.platform.as_ref();
        let asked_name = &self.options.name;
        let mut catalog = Catalog::new(self.cx, self, source, &mut limits, asked);
        for (root, names) in roots {
            if let Some(taken) = catalog.take(&root, !names.is_empty())? {
                if asked_name.is_none() {
                    names.iter().try_for_each(|name| names::check(name, &root.digest)).map_err(invalid)?;
                }
                images.push(NamedImage { names, taken });
            }
        }
        self.limits = limits;
        Ok(images)
    }

    /// Puts the images into the store, and lists all of them by one change of its index, or none.
    fn finish(&mut self, source: &impl ImportSource, mut images: Vec<NamedImage>) -> Result<Imported, Error> {
        let left_out = images.iter_mut().flat_map(|image| std::mem::take(&mut image.taken.left_out));
        let left_out: Vec<_> = left_out.collect();
        images.retain(|image| !image.taken.manifests.is_empty());
        if images.is_empty() {
            return Err(self.nothing(&left_out));
        }
        self.rename(&mut images)?;
        self.judge(source, &images)?;
        self.transaction.wait_durable(self.cx)?;
        for NamedImage { taken, .. } in &images {
            for index in &taken.indexes {
                source.bring(self, index)?;
            }
            for part in &taken.manifests {
                self.bring_image(source, &part.descriptor)?;
            }
        }
        let named = self.name_all(&images)?;
        let signatures = self.bring_signatures(&images)?;
        let mut names = Vec::new();
        let mut entries = Vec::new();
        for (name, target) in named {
            // Each name of an index records what was taken of it.
            self.limits.count(self.cx, target.taken.as_ref().map_or(0, Vec::len))?;
            let kept = signatures.get(name.as_deref().unwrap_or(target.root().as_str()));
            entries.push(target.entry(name.as_deref()).with_signatures(kept));
            names.push(name.unwrap_or_else(|| target.descriptor.digest.to_string()));
        }
        self.transaction.wait_durable(self.cx)?;
        let (mut used, mut references) = (Used::default(), ReferenceGraph::default());
        for entry in &entries {
            references.follow(self.store, self.cx, entry, &mut used)?;
        }
        let (needs, lease) = (self.transaction.pending(), Some(self.transaction.lease()));
        self.store.0.group_commit.change_index(self.cx, needs, lease, move |index| index.put_all(entries))?;
        self.brought.retain(|blob| !used.blobs.contains(blob));
        Ok(Imported { names, left_out })
    }

    /// Gives the one image the name that was asked for.
    fn rename(&self, images: &mut [NamedImage]) -> Result<(), Error> {
        let Some(name) = &self.options.name else { return Ok(()) };
        let name = name.to_string();
        match images {
            [only] => {
                names::check_digest(&name, &only.taken.root.digest).map_err(invalid)?;
                only.names = vec![name];
                Ok(())
            }
            several => {
                let text = format!("it holds {} images, and {name} can name one only", several.len());
                Err(Error::new(ErrorKind::InvalidConfig, text))
            }
        }
    }

    /// Returns why there is nothing to import.
    fn nothing(&self, left_out: &[SkippedImage]) -> Error {
        match (&self.options.platform, left_out.first()) {
            (_, None) => invalid("it lists no image"),
            (Some(platform), Some(_)) => {
                Error::new(ErrorKind::NoMatchingPlatform, format!("it has no whole image for {platform}"))
            }
            (None, Some(first)) => {
                let text = format!("no image in it is whole; the first that is not is {}", first.digest);
                Error::new(ErrorKind::NotFound, text)
            }
        }
    }

    /// Puts a manifest and all that it names into the store.
    fn bring_image(&mut self, source: &impl ImportSource, listed: &Descriptor) -> Result<(), Error> {
        source.bring(self, listed)?;
        let bytes = source.document(self, listed)?.ok_or_else(|| lacking(&listed.digest))?;
        if let Document::Manifest(manifest) = Document::parse_described(listed, None, &bytes)? {
            for blob in manifest.blobs() {
                source.bring(self, blob)?;
            }
        }
        Ok(())
    }
}

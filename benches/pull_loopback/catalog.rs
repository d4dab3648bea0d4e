//! The images of a server: a text file that each program reads at negligible cost.
//!
//! The first line is the server's `HOST:PORT`; then come the images, each with the paths of its blobs in
//! lines that begin with a blank.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use oci_puller::testing::images::{Image, Part};

use super::Outcome;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// `HOST:PORT`.
    pub(crate) host: String,
    pub(crate) images: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The reference to pull it by, with the host.
    pub(crate) reference: String,
    /// The paths of config and layers that no image before it has; the largest first.
    pub(crate) blobs: Vec<String>,
}

pub(crate) const TAG: &str = "v1";

impl Catalog {
    pub(crate) fn of(host: &str, images: &[Image]) -> Self {
        let mut known = HashSet::new();
        let entry = |image: &Image| {
            let mut parts: Vec<&Part> =
                image.blobs().filter(|part| known.insert(part.digest.clone())).collect();
            parts.sort_by_key(|part| std::cmp::Reverse(part.size()));
            let repository = image.repository();
            Entry {
                reference: format!("{host}/{repository}:{TAG}"),
                blobs: parts.iter().map(|part| format!("/v2/{repository}/blobs/{}", part.digest)).collect(),
            }
        };
        Catalog { host: host.to_owned(), images: images.iter().map(entry).collect() }
    }

    pub(crate) fn write(&self, path: &Path) -> Outcome<()> {
        let mut text = format!("{}\n", self.host);
        for image in &self.images {
            text += &format!("{}\n", image.reference);
            text.extend(image.blobs.iter().map(|blob| format!(" {blob}\n")));
        }
        Ok(fs::write(path, text)?)
    }

    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path)?;
        let mut lines = text.lines();
        let mut catalog = Catalog { host: lines.next().unwrap_or_default().to_owned(), images: Vec::new() };
        for line in lines {
            match (line.strip_prefix(' '), catalog.images.last_mut()) {
                (Some(blob), Some(image)) => image.blobs.push(blob.to_owned()),
                _ => catalog.images.push(Entry { reference: line.to_owned(), blobs: Vec::new() }),
            }
        }
        Ok(catalog)
    }

    /// Returns the same catalogue for another `HOST:PORT`.
    pub(crate) fn moved_to(&self, host: &str) -> Self {
        let moved = |image: &Entry| Entry {
            reference: image.reference.replacen(&self.host, host, 1),
            blobs: image.blobs.clone(),
        };
        Catalog { host: host.to_owned(), images: self.images.iter().map(moved).collect() }
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &str> {
        self.images.iter().map(|image| image.reference.as_str())
    }
}

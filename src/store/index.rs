//! `index.json`: which names stand for which images.
//!
//! Other tools write it too. Each entry is kept as the text that was read, and so is every field that is
//! not ours: both are written back unchanged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::platform::Platform;

/// The name by which `oci:DIR:NAME` finds an image, in skopeo and its kin.
/// [Image spec, annotations](https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The name that containerd gives the image when it imports the layout.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// `repository@digest` that the image was pulled as; of an index, the index's own digest.
pub(super) const REPO_DIGEST: &str = "io.oci-puller.image.repo-digest";
/// The image's id, so that no manifest need be read to find an image by it.
pub(super) const IMAGE_ID: &str = "io.oci-puller.image.id";
/// The manifests of an image index that an import took, their digests joined by commas; the index's
/// other manifests were left out. Without it, all are meant to be there.
pub(super) const TAKEN: &str = "io.oci-puller.image.taken";
/// The digest of the manifest that holds the image's signatures.
pub(super) const SIGNATURES: &str = "io.oci-puller.image.signatures";
/// Never to be collected; the key and the value that CRI's containerd uses.
pub(super) const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// The index, cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct StoreIndex {
    /// The fields before and after `manifests`, as text.
    fields: Arc<Vec<(String, Box<RawValue>)>>,
    entries: Vec<Arc<IndexEntry>>,
}

/// One image, or something else that another tool listed.
#[derive(Debug)]
pub(super) struct IndexEntry {
    text: Box<str>,
    /// The name that skopeo knows it by, or else containerd.
    pub(super) name: Option<Box<str>>,
    /// `None` if it is of a form or an algorithm that this crate does not know.
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    pub(super) media_type: String,
    pub(super) repo_digest: Option<Box<str>>,
    pub(super) id: Option<Digest>,
    pub(super) platform: Option<Platform>,
    /// The manifests that were taken of an index; `None` means all of them.
    pub(super) taken: Option<Box<[Digest]>>,
    /// The manifest that holds the image's signatures.
    pub(super) signatures: Option<Digest>,
    pub(super) pinned: bool,
}

impl StoreIndex {
    /// Reads the index, of this crate or of another tool.
    ///
    /// # Errors
    /// `Store` if it is no index.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let broken = |why: String| Error::new(ErrorKind::Store, format!("index.json is broken: {why}"));
        let RawFields(fields) = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
        if field("schemaVersion") != Some("2") {
            return Err(broken("its schemaVersion is not 2".to_owned()));
        }
        // Go writes an empty list as null.
        let listed: Option<Vec<Box<RawValue>>> = serde_json::from_str(field("manifests").unwrap_or("null"))
            .map_err(|error| broken(format!("manifests: {error}")))?;
        let entries = listed.unwrap_or_default().into_iter().map(|raw| Arc::new(IndexEntry::read(raw.get())));
        Ok(StoreIndex { entries: entries.collect(), fields: Arc::new(fields) })
    }

    /// Returns the file's text.
    pub(super) fn print(&self) -> Vec<u8> {
        let length: usize = self.entries.iter().map(|entry| entry.text.len() + 1).sum();
        let mut text = String::with_capacity(length + 256);
        let mut separator = '{';
        for (name, value) in self.fields.iter().filter(|(name, _)| name != "manifests") {
            text.push(separator);
            text.push_str(&json!(name).to_string());
            text.push(':');
            text.push_str(value.get());
            separator = ',';
        }
        text.push(separator);
        text.push_str("\"manifests\":[");
        for (at, entry) in self.entries.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&entry.text);
        }
        text.push_str("]}");
        text.into_bytes()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &IndexEntry> {
        self.entries.iter().map(|entry| &**entry)
    }

    /// Puts one entry in, as [`put_all`](Self::put_all) does.
    pub(super) fn put(&mut self, entry: IndexEntry) -> bool {
        self.put_all(vec![entry])
    }

    /// Puts the entries in, each in place of those that have its name; one without a name only if no
    /// other entry says the same. An entry without signatures gets those of an entry of the same image that
    /// it replaces. Returns whether that changed anything. The time is proportional to the
    /// number of entries, for an archive may bring tens of thousands.
    pub(super) fn put_all(&mut self, entries: Vec<IndexEntry>) -> bool {
        let (named, unnamed): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.name.is_some());
        let mut changed = false;
        let mut places: HashMap<Box<str>, Vec<usize>> =
            named.iter().filter_map(|entry| Some((entry.name.clone()?, Vec::new()))).collect();
        for (place, entry) in self.entries.iter().enumerate() {
            if let Some(of_name) = entry.name.as_ref().and_then(|name| places.get_mut(name)) {
                of_name.push(place);
            }
        }
        let mut all: Vec<_> = std::mem::take(&mut self.entries).into_iter().map(Some).collect();
        for mut entry in named {
            let Some(same) = entry.name.as_ref().and_then(|name| places.get_mut(name)) else { continue };
            let others = || same.iter().filter_map(|place| all.get(*place)?.as_ref());
            if others().any(|other| other.pinned) {
                entry = entry.pinned(true);
            }
            if entry.signatures.is_none() {
                let is_same = |other: &&Arc<IndexEntry>| {
                    other.digest == entry.digest && other.taken == entry.taken && other.signatures.is_some()
                };
                let signatures = others().find(is_same).and_then(|other| other.signatures.clone());
                entry = entry.with_signatures(signatures.as_ref());
            }
            if same.len() == 1 && others().all(|other| other.text == entry.text) {
                continue;
            }
            changed = true;
            same.iter().for_each(|place| drop(all.get_mut(*place).and_then(Option::take)));
            let entry = Some(Arc::new(entry));
            match same.first().and_then(|place| all.get_mut(*place)) {
                Some(place) => *place = entry,
                None => all.push(entry),
            }
            // A name that is put twice has one place.
            same.truncate(1);
            if same.is_empty() {
                same.push(all.len() - 1);
            }
        }
        self.entries = all.into_iter().flatten().collect();
        if unnamed.is_empty() {
            return changed;
        }
        let key = |entry: &IndexEntry| (entry.digest.clone(), entry.taken.clone());
        let signed = |entry: &IndexEntry| Some((key(entry), entry.signatures.clone()?));
        let mut said: HashSet<_> = self.entries().map(key).collect();
        let mut said_signed: HashSet<_> = self.entries().filter_map(signed).collect();
        for entry in unnamed {
            let adds_signatures = signed(&entry).is_some_and(|signed| said_signed.insert(signed));
            if said.insert(key(&entry)) || adds_signatures {
                self.entries.push(Arc::new(entry));
                changed = true;
            }
        }
        changed
    }

    /// Takes out the entries for which `goes` holds: whether there were any.
    pub(super) fn remove(&mut self, goes: impl Fn(&IndexEntry) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !goes(entry));
        self.entries.len() != before
    }

    /// Puts other entries in place of those that have these texts: whether there were any.
    pub(super) fn replace(&mut self, mut by_text: HashMap<Box<str>, IndexEntry>) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            if let Some(new) = by_text.remove(entry.text()) {
                *entry = Arc::new(new);
                changed = true;
            }
        }
        changed
    }

    /// Pins or unpins the entries for which `is_meant` holds: whether that changed anything.
    pub(super) fn pin(&mut self, pinned: bool, is_meant: impl Fn(&IndexEntry) -> bool) -> bool {
        let mut changed = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.pinned != pinned && is_meant(entry)) {
            *entry = Arc::new(IndexEntry::read(&entry.text).pinned(pinned));
            changed = true;
        }
        changed
    }
}

impl IndexEntry {
    /// Makes the entry by which `name` stands for `target`, or that lists `target` without a name.
    pub(super) fn new(
        name: Option<&str>,
        target: &Descriptor,
        id: Option<&Digest>,
        repo_digest: Option<&str>,
    ) -> Self {
        Self::with_taken(name, target, id, repo_digest, None)
    }

    /// Makes the same entry of an image index of which only the manifests `taken` are meant to be there.
    pub(super) fn with_taken(
        name: Option<&str>,
        target: &Descriptor,
        id: Option<&Digest>,
        repo_digest: Option<&str>,
        taken: Option<&[Digest]>,
    ) -> Self {
        let joined = taken.map(join);
        let mut annotations = BTreeMap::new();
        annotations.extend(name.map(|name| (REF_NAME, name)));
        annotations.extend(name.map(|name| (CONTAINERD_NAME, name)));
        annotations.extend(id.map(|id| (IMAGE_ID, id.as_str())));
        annotations.extend(repo_digest.map(|text| (REPO_DIGEST, text)));
        annotations.extend(joined.as_deref().map(|text| (TAKEN, text)));
        let written = OwnEntry {
            annotations,
            digest: target.digest.as_str(),
            media_type: &target.media_type,
            platform: target.platform.as_ref().map(|platform| WrittenPlatform {
                architecture: &platform.architecture,
                os: &platform.os,
                variant: platform.variant.as_deref(),
            }),
            size: target.size,
        };
        IndexEntry {
            // Texts and numbers, and keys that are texts: nothing that JSON has no form for.
            text: serde_json::to_string(&written).unwrap_or_default().into(),
            name: name.map(Into::into),
            digest: Some(target.digest.clone()),
            size: target.size,
            media_type: target.media_type.clone(),
            repo_digest: repo_digest.map(Into::into),
            id: id.cloned(),
            platform: target.platform.clone(),
            taken: taken.map(Into::into),
            signatures: None,
            pinned: false,
        }
    }

    /// Returns the entry as it stands in the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the name that containerd gives the image: where a tool writes both, that is the full one.
    pub(super) fn whole_name(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct View {
            annotations: BTreeMap<String, String>,
        }
        let annotations = serde_json::from_str(&self.text).map(|View { annotations }| annotations);
        let whole = annotations.ok().and_then(|mut annotations| annotations.remove(CONTAINERD_NAME));
        whole.or_else(|| self.name.as_deref().map(str::to_owned))
    }

    /// Returns the digest of the image index that the image was pulled by.
    pub(super) fn pulled_index(&self) -> Option<Digest> {
        let (_, digest) = self.repo_digest.as_deref()?.split_once('@')?;
        Digest::parse(digest).ok()
    }

    /// Reads an entry from its text; an unknown form is kept, and has no digest.
    fn read(text: &str) -> Self {
        #[derive(serde::Deserialize, Default)]
        struct View {
            #[serde(rename = "mediaType", default)]
            media_type: String,
            #[serde(default)]
            digest: String,
            #[serde(default)]
            size: u64,
            #[serde(default)]
            platform: Option<PlatformView>,
            #[serde(default)]
            annotations: Option<BTreeMap<String, String>>,
        }
        #[derive(serde::Deserialize)]
        struct PlatformView {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            variant: Option<String>,
        }
        let view: View = serde_json::from_str(text).unwrap_or_default();
        let mut annotations = view.annotations.unwrap_or_default();
        let containerd_name = annotations.remove(CONTAINERD_NAME);
        IndexEntry {
            text: text.into(),
            name: annotations.remove(REF_NAME).or(containerd_name).map(String::into_boxed_str),
            digest: Digest::parse(&view.digest).ok(),
            size: view.size,
            media_type: view.media_type,
            repo_digest: annotations.remove(REPO_DIGEST).map(String::into_boxed_str),
            id: annotations.get(IMAGE_ID).and_then(|id| Digest::parse(id).ok()),
            platform: view.platform.map(|view| Platform {
                variant: view.variant.filter(|variant| !variant.is_empty()),
                ..Platform::new(view.os, view.architecture)
            }),
            // What is no digest here takes nothing along.
            taken: annotations
                .get(TAKEN)
                .map(|text| text.split(',').filter_map(|digest| Digest::parse(digest).ok()).collect()),
            signatures: annotations.get(SIGNATURES).and_then(|digest| Digest::parse(digest).ok()),
            pinned: annotations.get(PINNED.0).is_some_and(|value| value == PINNED.1),
        }
    }

    /// Returns the same entry, pinned or not.
    fn pinned(self, pinned: bool) -> Self {
        self.annotated(PINNED.0, pinned.then(|| PINNED.1.to_owned()))
    }

    /// Returns the same entry, with the manifest that holds the image's signatures.
    pub(super) fn with_signatures(self, signatures: Option<&Digest>) -> Self {
        match signatures {
            Some(signatures) => self.annotated(SIGNATURES, Some(signatures.to_string())),
            None => self,
        }
    }

    /// Returns the same entry, of which only the manifests `taken` are meant to be there.
    pub(super) fn taking(&self, taken: &[Digest]) -> Self {
        IndexEntry::read(&self.text).annotated(TAKEN, Some(join(taken)))
    }

    /// Returns the same entry with this annotation, or without it.
    fn annotated(self, key: &str, text: Option<String>) -> Self {
        let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&self.text) else { return self };
        let Some(fields) = value.as_object_mut() else { return self };
        let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
        // Some tools write `null` for none.
        if annotations.is_null() {
            *annotations = json!({});
        }
        let Some(annotations) = annotations.as_object_mut() else { return self };
        match text {
            Some(text) => annotations.insert(key.to_owned(), json!(text)),
            None => annotations.remove(key),
        };
        IndexEntry::read(&value.to_string())
    }
}

fn join(digests: &[Digest]) -> String {
    digests.iter().map(Digest::as_str).collect::<Vec<_>>().join(",")
}

/// An entry of our own, its fields in the order of their names.
#[derive(Serialize)]
struct OwnEntry<'a> {
    annotations: BTreeMap<&'a str, &'a str>,
    digest: &'a str,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<WrittenPlatform<'a>>,
    size: u64,
}

#[derive(Serialize)]
struct WrittenPlatform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

/// An object's fields in their order, each value as its text.
struct RawFields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for RawFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = RawFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::platform::Platform;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let digest = Digest::sha256(b"manifest");
        let mut target = Descriptor::new("a/\"type\"", digest.clone(), 7);
        let id = Digest::sha256(b"config");
        for platform in [None, Some("linux/arm64"), Some("linux/arm/v7")] {
            target.platform = platform.map(|text| Platform::parse(text).unwrap());
            for (name, id, repo_digest) in [
                (None, None, None),
                (Some("docker.io/library/a:1"), Some(&id), Some("docker.io/library/a@sha256:0")),
            ] {
                for taken in [None, Some(&[id.unwrap_or(&digest).clone(), digest.clone()][..])] {
                    let entry = IndexEntry::with_taken(name, &target, id, repo_digest, taken);
                    assert_eq!(format!("{:?}", IndexEntry::read(entry.text())), format!("{entry:?}"));
                    let value: serde_json::Value = serde_json::from_str(entry.text()).unwrap();
                    assert_eq!(value.to_string(), entry.text(), "the fields are in the order of their names");
                    assert_eq!(entry.whole_name().as_deref(), name);
                }
            }
        }
    }
}

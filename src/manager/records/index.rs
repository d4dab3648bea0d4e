//! The records in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::grant::Grant;

/// The number of records kept for one image, as kubelet has it. The oldest are removed.
const MAX_GRANTS: usize = 100;

/// The name of a record: its subject, and a unique number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileName {
    number: u64,
    /// The hash of an image; or that of an image id, and that of its credentials.
    about: String,
}

impl FileName {
    pub(super) fn new(about: &str, number: u64) -> Self {
        FileName { number, about: about.to_owned() }
    }

    fn parse(name: &str) -> Option<Self> {
        let (about, number) = name.rsplit_once('-')?;
        Some(FileName::new(about, number.parse().ok()?))
    }

    pub(super) fn path(&self, dir: &str) -> String {
        format!("{dir}/{}-{}", self.about, self.number)
    }

    fn image_ref(&self) -> &str {
        self.about.split_once('-').map_or(&self.about, |(image_ref, _)| image_ref)
    }
}

#[derive(Debug, Default)]
pub(super) struct RecordIndex {
    /// By the hash of the image.
    pulling: HashMap<String, BTreeSet<FileName>>,
    /// Those of them that an earlier process began.
    leftovers: BTreeSet<FileName>,
    /// By the hash of the image id, in the order written. A record that could not be read grants nothing.
    pulled: HashMap<String, BTreeMap<FileName, Option<Arc<Grant>>>>,
    highest_number: u64,
}

impl RecordIndex {
    pub(super) fn next_number(&self) -> u64 {
        self.highest_number + 1
    }

    // ---- what is found on the disk ----

    pub(super) fn add_leftover(&mut self, name: &str) {
        let Some(file) = FileName::parse(name) else { return };
        self.highest_number = self.highest_number.max(file.number);
        self.leftovers.insert(file.clone());
        self.add_pulling(&file);
    }

    pub(super) fn add_found(&mut self, name: &str, grant: Option<Grant>) {
        let Some(file) = FileName::parse(name) else { return };
        self.highest_number = self.highest_number.max(file.number);
        let files = self.pulled.entry(file.image_ref().to_owned()).or_default();
        files.insert(file, grant.map(Arc::new));
    }

    pub(super) fn leftovers(&self) -> Vec<FileName> {
        self.leftovers.iter().cloned().collect()
    }

    // ---- pulls ----

    pub(super) fn add_pulling(&mut self, file: &FileName) {
        self.pulling.entry(file.about.clone()).or_default().insert(file.clone());
    }

    pub(super) fn remove_pulling(&mut self, file: &FileName) {
        self.leftovers.remove(file);
        if let Some(files) = self.pulling.get_mut(&file.about) {
            files.remove(file);
            if files.is_empty() {
                self.pulling.remove(&file.about);
            }
        }
    }

    /// Removes a pull that succeeded, and the leftovers of its image; returns their files.
    pub(super) fn take_ended(&mut self, file: &FileName) -> Vec<FileName> {
        let is_like_it = |left: &&FileName| left.about == file.about && *left != file;
        let mut ended: Vec<_> = self.leftovers.iter().filter(is_like_it).cloned().collect();
        ended.push(file.clone());
        for file in &ended {
            self.remove_pulling(file);
        }
        ended
    }

    // ---- grants ----

    pub(super) fn is_known(&self, image_ref: &str, image: &str) -> bool {
        self.pulled.contains_key(image_ref) || self.pulling.contains_key(image)
    }

    pub(super) fn grants(&self, image_ref: &str) -> Vec<Arc<Grant>> {
        self.pulled.get(image_ref).into_iter().flat_map(|files| files.values().flatten().cloned()).collect()
    }

    /// Returns whether an equal grant is recorded.
    pub(super) fn has(&self, file: &FileName, grant: &Grant) -> bool {
        let files = self.pulled.get(file.image_ref());
        files.is_some_and(|files| files.values().flatten().any(|known| **known == *grant))
    }

    /// Adds a grant; returns the files that it replaces.
    pub(super) fn add_grant(&mut self, file: FileName, grant: Grant) -> Vec<FileName> {
        let files = self.pulled.entry(file.image_ref().to_owned()).or_default();
        let is_older = |known: &&FileName| known.about == file.about && known.number < file.number;
        let mut replaced: Vec<_> = files.keys().filter(is_older).cloned().collect();
        files.insert(file, Some(Arc::new(grant)));
        let too_many = (files.len() - replaced.len()).saturating_sub(MAX_GRANTS);
        let oldest: Vec<_> =
            files.keys().filter(|known| !replaced.contains(known)).take(too_many).cloned().collect();
        replaced.extend(oldest);
        for file in &replaced {
            files.remove(file);
        }
        replaced
    }

    /// Removes the images that are not to be kept, except those with records from `mark` on; returns the files.
    pub(super) fn take_unknown(&mut self, keep: &HashSet<String>, mark: u64) -> Vec<FileName> {
        let mut gone = Vec::new();
        self.pulled.retain(|image_ref, files| {
            let is_kept = keep.contains(image_ref) || files.keys().any(|file| file.number >= mark);
            if !is_kept {
                gone.extend(files.keys().cloned());
            }
            is_kept
        });
        gone
    }
}

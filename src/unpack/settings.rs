//! The settings of unpacking, and its results.

use std::path::PathBuf;

use crate::store::Durability;

/// How many entries an image may have by default.
const MAX_ENTRIES: u64 = 4 << 20;

/// To whom the files of an unpacked image belong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owners {
    /// To the users and groups that the image names, which needs root's rights. The default for root.
    AsImage,
    /// To the caller. The default for others.
    Current,
    /// To other ids: each range of the image's ids, users and groups alike, is mapped to ids of the disk.
    /// An id in no range is refused with `InvalidConfig`.
    Mapped(Vec<IdRange>),
    /// To the caller, and what could not be set is recorded in this file outside of the tree: one JSON
    /// object a line, `{"path", "uid", "gid", "mode", "dev": [major, minor], "xattrs": {name: base64}}`, with
    /// `mode` as of `st_mode`; of a path or a name that is no UTF-8, `path_base64`. A layer store
    /// keeps such a record beside each layer, whatever this path is.
    Recorded(PathBuf),
}

/// Ids of the image, and the ids of the disk that they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id in the image.
    pub image: u32,
    /// The first id on the disk.
    pub disk: u32,
    /// How many ids.
    pub count: u32,
}

/// What becomes of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Devices {
    /// They are created, which needs root's rights; it is an error if they cannot be.
    Create,
    /// They are left out, and counted.
    LeaveOut,
}

/// Which extended attributes are set. Those of overlayfs itself (`trusted.overlay.*`, `user.overlay.*`) never
/// are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Xattrs {
    /// `user.*` and `security.capability`. The default.
    #[default]
    Portable,
    /// All that the disk takes.
    All,
    /// None.
    None,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Entries of all layers, markers included.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// What the disk did not take, or was not to have.
    pub left_out: LeftOut,
}

/// What was left out of an unpacked image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// Devices that were not created.
    pub devices: u64,
    /// Extended attributes that the settings ask for, and that could not be set.
    pub xattrs: u64,
}

/// All that is set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `None` stands for the default, here and below.
    pub(super) owners: Option<Owners>,
    pub(super) devices: Option<Devices>,
    pub(super) xattrs: Option<Xattrs>,
    pub(super) max_bytes: u64,
    pub(super) max_entries: u64,
    pub(super) zstd_window: u64,
    pub(super) threads: usize,
    pub(super) durability: Durability,
    pub(super) flushes_singly: bool,
}

impl Settings {
    /// Returns the defaults.
    pub(super) fn new(durability: Durability) -> Self {
        Settings {
            owners: None,
            devices: None,
            xattrs: None,
            max_bytes: u64::MAX,
            max_entries: MAX_ENTRIES,
            zstd_window: crate::decoders::DEFAULT_ZSTD_WINDOW,
            threads: std::thread::available_parallelism().map_or(1, Into::into),
            durability,
            flushes_singly: false,
        }
    }
}

impl Xattrs {
    /// Returns whether an attribute of this name is to be set.
    pub(super) fn takes(self, name: &[u8]) -> bool {
        let is_overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        match self {
            _ if is_overlay => false,
            Xattrs::None => false,
            Xattrs::All => true,
            Xattrs::Portable => name.starts_with(b"user.") || name == b"security.capability",
        }
    }
}

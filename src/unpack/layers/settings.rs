//! The settings that all layers of a store share.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::unpack::settings::{Devices, IdRange, Owners, Xattrs};

/// What all layers of a store have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerSettings {
    pub(super) version: u32,
    /// `image`, `current`, `recorded` or `mapped`.
    pub(super) owners: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ranges: Vec<(u32, u32, u32)>,
    /// `create` or `leave-out`.
    pub(super) devices: String,
    /// `portable`, `all` or `none`.
    pub(super) xattrs: String,
    /// The extended attribute that marks opaque folders.
    pub(super) opaque: String,
}

impl LayerSettings {
    pub(super) fn owners(&self) -> Owners {
        match self.owners.as_str() {
            "image" => Owners::AsImage,
            "recorded" => Owners::Recorded(PathBuf::new()),
            "mapped" => {
                let range = |(image, disk, count): &(u32, u32, u32)| IdRange {
                    image: *image,
                    disk: *disk,
                    count: *count,
                };
                Owners::Mapped(self.ranges.iter().map(range).collect())
            }
            _ => Owners::Current,
        }
    }

    /// `None` if it is not insisted on that devices are created.
    pub(super) fn devices(&self) -> Option<Devices> {
        (self.devices != "create").then_some(Devices::LeaveOut)
    }

    pub(super) fn xattrs(&self) -> Xattrs {
        match self.xattrs.as_str() {
            "all" => Xattrs::All,
            "none" => Xattrs::None,
            _ => Xattrs::Portable,
        }
    }
}

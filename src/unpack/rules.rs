//! The settings as they hold on the disk, and the count of what it does not take.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::error::ErrorKind;
use crate::unpack::fault::UnpackFault;
use crate::unpack::settings::{Devices, LeftOut, Owners};
use crate::unpack::tree::Meta;

/// What holds for all files of an image.
pub(super) struct Rules {
    owners: Owners,
    devices: Option<Devices>,
    is_root: bool,
    left_out_devices: AtomicU64,
    left_out_xattrs: AtomicU64,
}

impl Rules {
    pub(super) fn new(owners: Option<Owners>, devices: Option<Devices>) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let default = if is_root { Owners::AsImage } else { Owners::Current };
        Rules {
            owners: owners.unwrap_or(default),
            devices,
            is_root,
            left_out_devices: AtomicU64::new(0),
            left_out_xattrs: AtomicU64::new(0),
        }
    }

    /// The owner and group that a file gets; `None` for those that it has.
    pub(super) fn owner(&self, meta: &Meta) -> Result<Option<(u32, u32)>, UnpackFault> {
        match &self.owners {
            Owners::AsImage => Ok(Some((meta.uid, meta.gid))),
            Owners::Current | Owners::Recorded(_) => Ok(None),
            Owners::Mapped(ranges) => {
                let map = |id: u32| {
                    let in_range = |range: &&crate::unpack::settings::IdRange| {
                        id.checked_sub(range.image).is_some_and(|offset| offset < range.count)
                    };
                    let range = ranges.iter().find(in_range)?;
                    range.disk.checked_add(id - range.image).filter(|id| *id != u32::MAX)
                };
                match (map(meta.uid), map(meta.gid)) {
                    (Some(uid), Some(gid)) => Ok(Some((uid, gid))),
                    _ => {
                        let text = format!("no range of ids has its owner {}:{}", meta.uid, meta.gid);
                        Err(UnpackFault::new(ErrorKind::InvalidConfig, text))
                    }
                }
            }
        }
    }

    /// Why the owner could not be set.
    pub(super) fn owner_fault(&self, uid: u32, gid: u32, error: Errno) -> UnpackFault {
        let doing = match error {
            Errno::PERM | Errno::INVAL => format!(
                "set the owner {uid}:{gid}, which needs root's rights over these ids (or other `owners`)"
            ),
            _ => format!("set the owner {uid}:{gid}"),
        };
        UnpackFault::disk(&doing, error)
    }

    pub(super) fn creates_devices(&self) -> bool {
        self.devices.map_or(self.is_root, |devices| devices == Devices::Create)
    }

    /// Whether it is an error that a device cannot be created.
    pub(super) fn insists_on_devices(&self) -> bool {
        self.devices == Some(Devices::Create)
    }

    /// The file that what could not be set is recorded in.
    pub(super) fn record(&self) -> Option<&Path> {
        match &self.owners {
            Owners::Recorded(path) => Some(path),
            _ => None,
        }
    }

    /// Whether what could not be set is recorded.
    pub(super) fn records(&self) -> bool {
        matches!(self.owners, Owners::Recorded(_))
    }

    pub(super) fn count_device(&self) {
        self.left_out_devices.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_xattrs(&self, count: usize) {
        self.left_out_xattrs.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn left_out(&self) -> LeftOut {
        LeftOut {
            devices: self.left_out_devices.load(Ordering::Relaxed),
            xattrs: self.left_out_xattrs.load(Ordering::Relaxed),
        }
    }
}

//! Writing that survives power loss.
//!
//! [`Disk`] is the seam: file operations on paths beneath one folder. [`RealDisk`] performs them; the
//! simulated disk of the tests keeps durable state apart from unflushed state, and can lose power at
//! every operation.

mod disk;
mod real;
mod real_file;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod sim_world;
mod write;

pub(crate) use disk::{Disk, DiskFile, FileType, Flush, Lock, Metadata, OpenMode, Space};
#[cfg(feature = "unpack")]
pub(crate) use real::syncfs_reports;
pub(crate) use real::{RealDisk, max_open_files};
pub(crate) use write::{create_dirs, parent, put_in_place, read_limited, remove, replace, write_new};

//! Compares layers with their records.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags};

use crate::context::PullContext;
use crate::error::Error;
use crate::unpack::beneath;
use crate::unpack::fault::shown;
use crate::unpack::layers::handle::{ENTRIES, FS, LayerStore};
use crate::unpack::layers::lease::wait_for_lock;
use crate::unpack::layers::prune::is_layer;
use crate::unpack::path;
use crate::unpack::record::{self, Recorded, kind_of};
use crate::unpack::remove;
use crate::unpack::tree::NodeKind;

/// A layer that is not what it was when it was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedLayer {
    /// Its chain id, in hex: the name of its folder.
    pub chain_id: String,
    /// What is wrong with it first.
    pub reason: String,
}

impl LayerStore {
    /// Compares each layer with its record: which names there are, of which kind, mode, size and time.
    /// Contents are not read. Returns the layers that differ, which an unpack makes anew when they were
    /// removed.
    ///
    /// # Errors
    /// [`Store`](crate::ErrorKind::Store); [`Cancelled`](crate::ErrorKind::Cancelled),
    /// [`Timeout`](crate::ErrorKind::Timeout).
    pub fn verify(&self, cx: &PullContext) -> Result<Vec<DamagedLayer>, Error> {
        let _shared = wait_for_lock(&self.0, cx, false)?;
        let names = remove::names_in(&self.0.root)
            .map_err(|error| self.0.failed("read its layers", &error.into()))?;
        let mut damaged = Vec::new();
        for name in names.into_iter().filter_map(|name| String::from_utf8(name).ok()) {
            if is_layer(&name)
                && let Err(reason) = self.compare(cx, &name)?
            {
                damaged.push(DamagedLayer { chain_id: name, reason });
            }
        }
        Ok(damaged)
    }

    fn compare(&self, cx: &PullContext, layer: &str) -> Result<Result<(), String>, Error> {
        let open =
            |name: &str, flags| beneath::open(&self.0.root, format!("{layer}/{name}").as_bytes(), flags);
        let (Ok(entries), Ok(folder)) =
            (open(ENTRIES, OFlags::RDONLY | OFlags::NONBLOCK), open(FS, beneath::DIR))
        else {
            return Ok(Err("its record or its folder is missing".to_owned()));
        };
        let mut known = HashSet::new();
        for line in record::read(BufReader::new(File::from(entries))) {
            cx.check()?;
            let line = match line {
                Ok(line) => line,
                Err(error) => return Ok(Err(error.to_string())),
            };
            if let Err(what) = differs(&folder, &line) {
                return Ok(Err(format!("{}: {what}", shown(&line.path))));
            }
            known.insert(line.path);
        }
        unknown(cx, &folder, &known)
    }
}

/// Compares a name with its line.
fn differs(folder: &OwnedFd, line: &Recorded) -> Result<(), String> {
    if line.is_left_out {
        return Ok(());
    }
    let (parent, name) = path::split(&line.path);
    let parent = beneath::open(folder, parent, beneath::DIR).map_err(|error| error.to_string())?;
    let name = if name.is_empty() { b"." } else { name };
    let stat =
        rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| error.to_string())?;
    let kind = kind_of(stat.st_mode).map_err(|error| error.to_string())?;
    let Some(expected) = line.kind else {
        let is_whiteout = kind == NodeKind::CharDevice && stat.st_rdev == 0;
        return if is_whiteout { Ok(()) } else { Err("it is no whiteout any more".to_owned()) };
    };
    if kind != expected {
        return Err(format!("it is a {kind:?}, and was a {expected:?}"));
    }
    if kind != NodeKind::Symlink && stat.st_mode & 0o7777 != u32::from(line.meta.mode) {
        return Err(format!("its mode is {:04o}, and was {:04o}", stat.st_mode & 0o7777, line.meta.mode));
    }
    if kind == NodeKind::File && u64::try_from(stat.st_size).ok() != Some(line.size) {
        return Err(format!("it has {} bytes, and had {}", stat.st_size, line.size));
    }
    if stat.st_mtime != line.meta.mtime.seconds {
        return Err("it was changed".to_owned());
    }
    Ok(())
}

/// Looks for names that the record does not have.
fn unknown(
    cx: &PullContext,
    folder: &OwnedFd,
    known: &HashSet<Vec<u8>>,
) -> Result<Result<(), String>, Error> {
    let mut paths = vec![Vec::new()];
    while let Some(at) = paths.pop() {
        cx.check()?;
        let Ok(names) = beneath::open(folder, &at, beneath::DIR).and_then(|dir| remove::names_in(&dir))
        else {
            continue;
        };
        for name in names {
            let path = if at.is_empty() { name } else { [&at[..], b"/", &name].concat() };
            if !known.contains(&path) {
                return Ok(Err(format!("{}: it was not there", shown(&path))));
            }
            paths.push(path);
        }
    }
    Ok(Ok(()))
}

//! The stores that commands read.

use std::path::Path;

use oci_puller::Store;
use oci_puller::image::Platform;

use crate::exit::Exit;
use crate::stderr::say;

/// Returns whether there is a folder with something in it, which may be a store.
pub(crate) fn exists(dir: &Path) -> bool {
    let is_empty = dir.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    dir.exists() && !is_empty
}

/// Opens the store in `dir`. Returns `None` if there is none: a command that only reads creates no store.
pub(crate) fn existing_store(dir: &Path) -> Result<Option<Store>, Exit> {
    existing_store_for(dir, None)
}

/// Opens the store in `dir` for a platform, by default this machine's. Returns `None` if there is no store.
pub(crate) fn existing_store_for(dir: &Path, platform: Option<&Platform>) -> Result<Option<Store>, Exit> {
    if !exists(dir) {
        say(&format!("there is no store at {} yet", dir.display()));
        return Ok(None);
    }
    let builder = Store::builder(dir);
    let builder = match platform {
        Some(platform) => builder.platform(platform.clone()),
        None => builder,
    };
    Ok(Some(builder.build()?))
}

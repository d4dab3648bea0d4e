//! The paths of entries, and the meaning of their names.

use crate::unpack::fault::UnpackFault;

/// The longest path, bytes.
pub(super) const MAX_PATH: usize = 4096;
/// The longest name in a folder, bytes.
const MAX_NAME: usize = 255;
/// A file in a folder that is being unpacked into. It is made first and removed last.
pub(super) const UNFINISHED: &str = ".oci-puller-unfinished";
/// A folder in the same place for files whose place is not known yet.
pub(super) const STAGING: &str = ".oci-puller-staging";

const WHITEOUT: &[u8] = b".wh.";
/// Names of aufs' own files begin with this; nothing of them belongs to the image.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The root itself.
    Root,
    /// An entry at this path.
    Entry(&'a [u8]),
    /// A marker that hides what lower layers have at this path.
    Whiteout(Vec<u8>),
    /// A marker that hides what lower layers have in this folder.
    Opaque(&'a [u8]),
    /// Nothing that belongs to the image.
    Nothing,
}

/// Returns the path without what means nothing: `.`, repeated and outer slashes, and `..` with the name
/// before it. Above the root is the root.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, UnpackFault> {
    if path.is_empty() {
        return Err(UnpackFault::invalid("the name is empty"));
    }
    if path.contains(&0) {
        return Err(UnpackFault::invalid("the name has a NUL in it"));
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => cleaned.truncate(parent(&cleaned).len()),
            _ if name.len() > MAX_NAME => return Err(too_long()),
            _ => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(name);
            }
        }
    }
    if cleaned.len() > MAX_PATH {
        return Err(UnpackFault::invalid(format!("the path is longer than {MAX_PATH} bytes")));
    }
    Ok(cleaned)
}

/// Returns what a cleaned path stands for.
pub(super) fn classify(path: &[u8]) -> Result<Named<'_>, UnpackFault> {
    if path.is_empty() {
        return Ok(Named::Root);
    }
    let (folder, name) = split(path);
    for name in folder.split(|byte| *byte == b'/') {
        if name.starts_with(AUFS) {
            return Ok(Named::Nothing);
        }
        if name.starts_with(WHITEOUT) {
            return Err(UnpackFault::invalid("it stands below a whiteout"));
        }
    }
    if name == OPAQUE {
        return Ok(Named::Opaque(folder));
    }
    if name.starts_with(AUFS) {
        return Ok(Named::Nothing);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Named::Entry(path)),
        Some(b"" | b"." | b"..") => {
            Err(UnpackFault::invalid("the whiteout names nothing that can be hidden"))
        }
        Some(hidden) => Ok(Named::Whiteout(join(folder, hidden))),
    }
}

/// Refuses a name that no entry may make, neither by its own path nor through a symbolic link.
pub(super) fn check_new_name(name: &[u8], is_in_root: bool) -> Result<(), UnpackFault> {
    if name.len() > MAX_NAME {
        return Err(too_long());
    }
    if name.starts_with(WHITEOUT) {
        return Err(UnpackFault::invalid("a symbolic link leads to the name of a whiteout"));
    }
    if is_in_root && (name == UNFINISHED.as_bytes() || name == STAGING.as_bytes()) {
        return Err(UnpackFault::invalid("the name is reserved while an image is unpacked"));
    }
    Ok(())
}

/// Splits a cleaned path into folder and name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

fn parent(path: &[u8]) -> &[u8] {
    split(path).0
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn too_long() -> UnpackFault {
    UnpackFault::invalid(format!("a name is longer than {MAX_NAME} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let cases = [
            ("a/b", "a/b"),
            ("/a//b/", "a/b"),
            ("./a/./b/.", "a/b"),
            ("a/../b", "b"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/b/../..", ""),
            ("/", ""),
            (".", ""),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        let (name, path) = ("n".repeat(256), "1234567/".repeat(513));
        for path in ["", "a\0b", &name, &path] {
            assert!(clean(path.as_bytes()).is_err(), "{path}");
        }
        assert!(clean("1234567/".repeat(512).as_bytes()).is_ok());
    }

    #[test]
    fn markers_are_told_from_entries() {
        let hides = |path: &str| Named::Whiteout(path.as_bytes().to_vec());
        let cases = [
            ("", Named::Root),
            ("a/b", Named::Entry(b"a/b")),
            (".wh.a", hides("a")),
            ("d/.wh.a", hides("d/a")),
            ("d/.wh..a", hides("d/.a")),
            ("d/.wh....", hides("d/...")),
            (".wh..wh..opq", Named::Opaque(b"")),
            ("d/.wh..wh..opq", Named::Opaque(b"d")),
            ("d/.wh..wh.aufs", Named::Nothing),
            (".wh..wh.plnk/1.2", Named::Nothing),
        ];
        for (path, expected) in cases {
            assert_eq!(classify(path.as_bytes()).unwrap(), expected, "{path}");
        }
        for path in [".wh.", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.d/x"] {
            assert!(classify(path.as_bytes()).is_err(), "{path}");
        }
    }
}

//! A tree on the disk, as text: one line a name.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::layers::TIME;

/// What each path is, except for the root, which is `.`:
/// `dir`, `file CONTENT`, `link TARGET`, `char 1:3`, `block 7:0`, `pipe`; then the mode unless it is 0755 of a
/// folder, 0644 of a file or a link's; the owner unless it is 0:0; `& NAME` for another name of an earlier
/// file; `x NAME=HEX` for an attribute; `t SECONDS` for a time other than the usual one.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut inodes = HashMap::new();
    let mut paths = vec![root.to_path_buf()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    check_link_counts(&all);
    for path in all {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let name = if name.is_empty() { ".".to_owned() } else { name };
        lines.insert(name.clone(), line(&path, &name, &mut inodes));
    }
    lines
}

/// Each inode has as many links as names in the tree.
fn check_link_counts(paths: &[PathBuf]) {
    let mut names = HashMap::new();
    for metadata in paths.iter().map(|path| path.symlink_metadata().unwrap()) {
        if !metadata.is_dir() {
            names.entry(metadata.ino()).or_insert((metadata.nlink(), 0)).1 += 1;
        }
    }
    assert!(names.values().all(|(links, names)| links == names), "{names:?} of {paths:?}");
}

fn line(path: &Path, name: &str, inodes: &mut HashMap<u64, String>) -> String {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let device = format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let (mut line, usual) = if kind.is_dir() {
        ("dir".to_owned(), 0o755)
    } else if kind.is_file() {
        let content = fs::read(path).unwrap();
        let shown = content.get(..content.len().min(40)).unwrap().escape_ascii().to_string();
        let len = if content.len() > 40 { format!(" of {}", content.len()) } else { String::new() };
        let sparse = if metadata.blocks() * 512 < metadata.len() { " sparse" } else { "" };
        (format!("file {shown}{len}{sparse}"), 0o644)
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        (format!("link {}", target.as_os_str().as_bytes().escape_ascii()), 0o777)
    } else if kind.is_char_device() {
        (format!("char {device}"), 0o666)
    } else if kind.is_block_device() {
        (format!("block {device}"), 0o660)
    } else {
        ("pipe".to_owned(), 0o600)
    };
    if metadata.mode() & 0o7777 != usual {
        line += &format!(" {:04o}", metadata.mode() & 0o7777);
    }
    if (metadata.uid(), metadata.gid()) != (0, 0) {
        line += &format!(" {}:{}", metadata.uid(), metadata.gid());
    }
    if !kind.is_dir() && metadata.nlink() > 1 {
        let first = inodes.entry(metadata.ino()).or_insert_with(|| name.to_owned());
        if first != name {
            line += &format!(" & {first}");
        }
    }
    for (name, value) in xattrs(path) {
        line += &format!(" x {name}={value}");
    }
    let seconds = metadata.mtime();
    if seconds != TIME || metadata.mtime_nsec() != 0 {
        line += &format!(" t {seconds}");
        if metadata.mtime_nsec() != 0 {
            line += &format!(".{:09}", metadata.mtime_nsec());
        }
    }
    line
}

fn xattrs(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0_u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found = Vec::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        let hex = value[..len].iter().map(|byte| format!("{byte:02x}")).collect();
        found.push((String::from_utf8(name.to_vec()).unwrap(), hex));
    }
    found.sort();
    found
}

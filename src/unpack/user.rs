//! The user that an image's config names, looked up in the root file system's own `passwd` and `group`.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::image::config::ImageConfig;

/// Bytes of `passwd` and of `group` that are read.
const MAX_FILE: u64 = 4 << 20;
/// Symbolic links on the way to one of them, as the kernel counts.
const MAX_LINKS: usize = 40;
/// The largest id: one more stands for no id.
const MAX_ID: u32 = u32::MAX - 1;

/// The user that a container's process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The other groups that the user is in, sorted; empty where the config names a group.
    pub additional_gids: Vec<u32>,
    /// The home folder, if `passwd` has the user.
    pub home: Option<String>,
}

impl ImageConfig {
    /// Looks up the config's user in `etc/passwd` and `etc/group` below `root`, an unpacked image's root. No file
    /// outside of `root` is read, whatever links are in it. A config without a user means root; a number needs no
    /// entry.
    ///
    /// # Errors
    /// [`InvalidManifest`](ErrorKind::InvalidManifest) if a name has no entry or a number is no id;
    /// [`Store`](ErrorKind::Store) if a file cannot be read or is no regular file.
    pub fn resolve_user(&self, root: impl AsFd) -> Result<User, Error> {
        let wanted = self.user.as_deref().unwrap_or_default();
        let (user, group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (wanted, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let passwd = read(&root, "etc/passwd")?;
        let entry = find_user(&passwd, user);
        let uid = match &entry {
            Some(entry) => entry.uid,
            None => id_of(user).ok_or_else(|| unknown("user", user, "etc/passwd"))?,
        };
        let groups = read(&root, "etc/group")?;
        let mut resolved =
            User { uid, home: entry.as_ref().map(|entry| entry.home.clone()), ..User::default() };
        match group {
            Some(group) => {
                let named = groups_in(&groups).find(|entry| entry.name == group).map(|entry| entry.gid);
                resolved.gid =
                    named.or_else(|| id_of(group)).ok_or_else(|| unknown("group", group, "etc/group"))?;
            }
            None => {
                resolved.gid = entry.as_ref().map_or(0, |entry| entry.gid);
                if let Some(entry) = entry {
                    let member = |group: &Group<'_>| group.members.split(',').any(|name| name == entry.name);
                    resolved.additional_gids =
                        groups_in(&groups).filter(member).map(|group| group.gid).collect();
                    resolved.additional_gids.sort_unstable();
                    resolved.additional_gids.dedup();
                }
            }
        }
        Ok(resolved)
    }
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds a user by name, or else by number. Lines that are broken are passed over, as the C library does.
fn find_user(passwd: &str, user: &str) -> Option<Passwd> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let _password = fields.next()?;
            let (uid, gid) = (id_of(fields.next()?)?, id_of(fields.next()?)?);
            let home = fields.nth(1).unwrap_or_default().to_owned();
            Some(Passwd { name, uid, gid, home })
        })
    };
    let by_id = || entries().find(|entry| Some(entry.uid) == id_of(user));
    entries().find(|entry| entry.name == user).or_else(by_id)
}

fn groups_in(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id_of(fields.nth(1)?)?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn id_of(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?.filter(|id| *id <= MAX_ID)
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    let text = format!("the config names the {what} {name:?}, and the image's {file} has none of that name");
    Error::new(ErrorKind::InvalidManifest, text)
}

/// Reads a file of the root file system; one that is absent is empty.
fn read(root: impl AsFd, path: &str) -> Result<String, Error> {
    let failed = |text: String| Error::new(ErrorKind::Store, format!("the image's {path}: {text}"));
    let file = match open_in(&root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        opened => opened.map_err(|error| failed(error.to_string()))?,
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.to_string()))?;
    // A FIFO or a device could keep its reader waiting.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Opens a file as a process with this root would: links stay inside.
fn open_in(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => walk_in(root, path, flags),
        opened => opened,
    }
}

/// Does the same without `openat2`: name by name, links read and followed by hand.
fn walk_in(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(&root, ".", folder, Mode::empty())?;
    // The folders from the root to where the walk stands; `..` in the root stays there.
    let mut at = vec![top];
    let mut left: Vec<Vec<u8>> = path.split('/').rev().map(|name| name.as_bytes().to_vec()).collect();
    let mut links = 0;
    while let Some(name) = left.pop() {
        let here = at.last().ok_or(Errno::NOENT)?;
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            _ => {}
        }
        match rustix::fs::readlinkat(here, name.as_slice(), Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = target.into_bytes();
                if target.first() == Some(&b'/') {
                    at.truncate(1);
                }
                left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
            // No link.
            Err(Errno::INVAL) if left.is_empty() => {
                return rustix::fs::openat(here, name.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty());
            }
            Err(Errno::INVAL) => {
                let next = rustix::fs::openat(here, name.as_slice(), folder, Mode::empty())?;
                at.push(next);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ISDIR)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1\nweb:x:33:34:web:/srv:/bin/false\n\
                          big:x:4294967295:1::/\n1000:x:7:8::/seven:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,other\nadm:x:4:web\nweb:x:34:\nbroken:x\n";

    fn user(root: &Path, user: &str) -> Result<User, Error> {
        let user = Some(user.to_owned()).filter(|user| !user.is_empty());
        let config = ImageConfig { user, ..ImageConfig::default() };
        config.resolve_user(File::open(root).unwrap())
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), PASSWD).unwrap();
        fs::write(root.path().join("etc/group"), GROUP).unwrap();
        root
    }

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        let root = root();
        for (text, uid, gid, more) in [
            ("", 0, 0, &[][..]),
            ("root", 0, 0, &[]),
            ("web", 33, 34, &[4, 50]),
            ("33", 33, 34, &[4, 50]),
            ("web:staff", 33, 50, &[]),
            ("web:7", 33, 7, &[]),
            ("web:", 33, 34, &[4, 50]),
            (":staff", 0, 50, &[]),
            ("1234", 1234, 0, &[]),
            ("1234:5", 1234, 5, &[]),
            // A name wins over a number.
            ("1000", 7, 8, &[]),
            ("4294967294", 4_294_967_294, 0, &[]),
        ] {
            let found = user(root.path(), text).unwrap();
            assert_eq!((found.uid, found.gid, &*found.additional_gids), (uid, gid, more), "{text}");
        }
        assert_eq!(user(root.path(), "web").unwrap().home.as_deref(), Some("/srv"));
        for text in ["nobody", "big", "4294967295", "web:nobody", "-1", "0x1"] {
            assert_eq!(user(root.path(), text).unwrap_err().kind(), ErrorKind::InvalidManifest, "{text}");
        }
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(user(root.path(), "5:6").unwrap().gid, 6);
        assert_eq!(user(root.path(), "").unwrap(), User::default());
        user(root.path(), "web").unwrap_err();
    }

    #[test]
    fn links_stay_inside_and_a_fifo_does_not_block() {
        let root = root();
        let passwd = root.path().join("etc/passwd");
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "web:x:99:99::/:\n").unwrap();
        fs::create_dir_all(root.path().join("nix/store")).unwrap();
        fs::write(root.path().join("nix/store/passwd"), "web:x:77:78::/:\n").unwrap();
        for (target, uid) in [
            ("/nix/store/passwd", Some(77)),
            ("../nix/store/../store/passwd", Some(77)),
            ("../../../../nix/store/passwd", Some(77)),
            (outside.path().join("passwd").to_str().unwrap(), None),
            ("passwd", None),
        ] {
            fs::remove_file(&passwd).unwrap();
            symlink(target, &passwd).unwrap();
            assert_eq!(user(root.path(), "web").ok().map(|user| user.uid), uid, "{target}");
            let folder = File::open(root.path()).unwrap();
            let walked = walk_in(&folder, "etc/passwd", OFlags::RDONLY);
            let opened = open_in(&folder, "etc/passwd");
            assert_eq!(walked.map(drop), opened.map(drop), "{target}");
        }
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert_eq!(user(root.path(), "5").unwrap_err().kind(), ErrorKind::Store);
    }
}

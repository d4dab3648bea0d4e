//! The floor: the least work that any program does to pull these images.
//!
//! Two threads (as many as there may be connections, over a wide area) with a connection each take the blobs, the largest of an image first: GET, a SHA-256 of
//! what comes, a file. No manifests, no index, no retries, no ranges, no locks: that is what the others
//! add.
//!
//! The second floor also puts on disk what full durability must. Each image is one that was answered once
//! it is on disk, and up to eight are answered together, as eight are pulled at a time. So when the blobs
//! of a group of eight images have come, into files with other names:
//!
//! 1. the group's files are flushed: a few with `fsync` each, sixteen and more with one `syncfs`,
//! 2. each is renamed to its digest,
//! 3. their folder is flushed,
//! 4. the list of what is answered is written anew beside them, flushed and renamed,
//! 5. and that folder is flushed.
//!
//! One thread does so while the other goes on with the next group.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::catalog::{Catalog, Entry};
use super::roles::Task;
use super::{AT_ONCE, Outcome};

/// The default.
const THREADS: usize = 2;
/// The longest read, bytes.
const BUFFER: usize = 256 * 1024;
/// From this many files on, one flush of the file system is cheaper than one for each.
const FLUSH_ALL_FROM: usize = 16;

/// Fetches all blobs.
pub(crate) fn fetch(task: &Task) -> Outcome<()> {
    let catalog = Catalog::read(&task.catalog)?;
    let blobs = task.folder.join("blobs");
    fs::create_dir_all(&blobs)?;
    let groups: Vec<_> = catalog.images.chunks(AT_ONCE).map(Group::of).collect();
    let jobs = groups
        .iter()
        .flat_map(|group| group.images.iter().flat_map(|image| &image.blobs).map(move |path| (path, group)));
    let floor = Floor {
        host: &catalog.host,
        jobs: jobs.collect(),
        next: AtomicUsize::new(0),
        disk: task.terms.is_durable.then(|| Disk { root: &task.folder, answered: Mutex::default() }),
        blobs,
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..task.terms.connections.unwrap_or(THREADS)).map(|_| scope.spawn(|| floor.work())).collect();
        floor.work()?;
        others.into_iter().try_for_each(|other| other.join().map_err(|_| "a thread panicked")?)
    })
}

struct Floor<'a> {
    host: &'a str,
    jobs: Vec<(&'a String, &'a Group<'a>)>,
    next: AtomicUsize,
    blobs: PathBuf,
    /// Where things are flushed, if they are.
    disk: Option<Disk<'a>>,
}

/// Images that are answered together.
struct Group<'a> {
    images: &'a [Entry],
    /// Blobs that have not come yet.
    missing: AtomicUsize,
    files: Mutex<Vec<Arrived>>,
}

/// A blob that has come, and is not on disk for sure.
struct Arrived {
    file: File,
    path: PathBuf,
    digest: String,
}

impl<'a> Group<'a> {
    fn of(images: &'a [Entry]) -> Self {
        let blobs = images.iter().map(|image| image.blobs.len()).sum();
        Group { images, missing: AtomicUsize::new(blobs), files: Mutex::default() }
    }
}

impl Floor<'_> {
    fn work(&self) -> Outcome<()> {
        let mut line = Line::open(self.host)?;
        while let Some((path, group)) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let digest = path.rsplit(':').next().unwrap_or_default();
            match &self.disk {
                None => drop(line.fetch(path, digest, &self.blobs.join(digest))?),
                Some(disk) => {
                    let arriving = self.blobs.join(format!("{digest}.part"));
                    let file = line.fetch(path, digest, &arriving)?;
                    self.arrived(Arrived { file, path: arriving, digest: digest.to_owned() }, group, disk)?;
                }
            }
        }
        Ok(())
    }

    /// Whoever brings a group's last blob puts the group on disk.
    fn arrived(&self, blob: Arrived, group: &Group<'_>, disk: &Disk<'_>) -> Outcome<()> {
        let mut files = group.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(blob);
        if group.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        disk.settle(&self.blobs, &files)?;
        disk.answer(group.images)
    }
}

/// Does the flushes.
struct Disk<'a> {
    root: &'a Path,
    /// The images that are on disk.
    answered: Mutex<String>,
}

impl Disk<'_> {
    fn settle(&self, folder: &Path, files: &[Arrived]) -> Outcome<()> {
        if files.len() < FLUSH_ALL_FROM {
            files.iter().try_for_each(|blob| blob.file.sync_all())?;
        } else {
            rustix::fs::syncfs(File::open(folder)?)?;
        }
        for blob in files {
            fs::rename(&blob.path, folder.join(&blob.digest))?;
        }
        Ok(File::open(folder)?.sync_all()?)
    }

    fn answer(&self, images: &[Entry]) -> Outcome<()> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.extend(images.iter().map(|image| format!("{}\n", image.reference)));
        let (path, new) = (self.root.join("images"), self.root.join("images.new"));
        let mut file = File::create(&new)?;
        file.write_all(answered.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, path)?;
        Ok(File::open(self.root)?.sync_all()?)
    }
}

/// A connection that is kept.
struct Line {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Line {
    fn open(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Line { stream, host: host.to_owned(), buffer: vec![0; BUFFER] })
    }

    /// Gets a blob into a new file.
    fn fetch(&mut self, path: &str, digest: &str, to: &Path) -> Outcome<File> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: floor\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes())?;
        let (head, mut filled) = self.read_head()?;
        let mut left = length(&self.buffer[..head]).ok_or_else(|| format!("no blob at {path}"))?;
        let mut file = File::create(to)?;
        let mut hasher = Sha256::new();
        let mut from = head;
        loop {
            let piece = &self.buffer[from..filled];
            hasher.update(piece);
            file.write_all(piece)?;
            left -= piece.len();
            if left == 0 {
                break;
            }
            let room = left.min(BUFFER);
            (from, filled) = (0, self.stream.read(&mut self.buffer[..room])?);
            if filled == 0 {
                return Err("the server hung up".into());
            }
        }
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != digest {
            return Err(format!("{path} has the digest {found}").into());
        }
        Ok(file)
    }

    /// Where the head ends, and what was read after it.
    fn read_head(&mut self) -> Outcome<(usize, usize)> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            filled += read;
            if let Some(at) = self.buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Ok((at + 4, filled));
            }
            if read == 0 {
                return Err("the server hung up".into());
            }
        }
    }
}

/// The body's length, if the head says that all is well.
fn length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let (status, fields) = head.split_once("\r\n")?;
    let is_length = |field: &&str| field.to_ascii_lowercase().starts_with("content-length:");
    let field = fields.split("\r\n").find(is_length)?;
    status.starts_with("HTTP/1.1 200").then_some(field.split_once(':')?.1.trim().parse().ok()?)
}

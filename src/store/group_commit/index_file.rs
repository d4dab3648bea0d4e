//! `index.json`: read when another process wrote it, and rewritten under its lock.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::Edit;
use crate::context::PullContext;
use crate::durable::{Disk, Flush, Lock, Metadata};
use crate::error::{Error, ErrorKind};
use crate::store::index::StoreIndex;
use crate::store::layout::{self, INDEX, INDEX_LOCK};
use crate::store::{index_write, retry_io};

/// The index file, with its content in memory. No mutex is held during I/O: the metadata tells whether the
/// content in memory is that of the file, so two threads that read at the same time do no harm.
#[derive(Debug)]
pub(super) struct IndexFile {
    disk: Arc<dyn Disk>,
    flush: Flush,
    cached: Mutex<Option<Cached>>,
}

/// The index as it was read or written last.
#[derive(Clone, Debug)]
struct Cached {
    file: Metadata,
    index: Arc<StoreIndex>,
    is_durable: bool,
}

impl IndexFile {
    pub(super) fn new(disk: Arc<dyn Disk>, flush: Flush) -> Self {
        IndexFile { disk, flush, cached: Mutex::default() }
    }

    /// Returns the index as it is now.
    pub(super) fn read(&self) -> Result<Arc<StoreIndex>, Error> {
        let cached = self.cached.lock().clone();
        if let Some(cached) = cached
            && self.disk.metadata(INDEX).is_ok_and(|now| now == cached.file)
        {
            return Ok(cached.index);
        }
        let (index, file) = layout::read_index(&*self.disk)?;
        let index = Arc::new(index);
        *self.cached.lock() = file.map(|file| Cached { file, index: index.clone(), is_durable: false });
        Ok(index)
    }

    /// Makes all `edits` by one rewrite, and makes that durable.
    pub(super) fn edit(&self, edits: Vec<Edit>) -> Result<(), Error> {
        // The caller that waits can leave on its own, and other processes hold the lock only briefly.
        let cx = PullContext::new();
        let written = self.with_lock(&cx, || self.rewrite(&cx, edits))?;
        match written {
            // Other processes may change the file meanwhile: they flush their own change after this one.
            Some(file) if self.flush == Flush::Wait => self.make_durable(&cx, file),
            _ => Ok(()),
        }
    }

    /// Does `work` while no other process changes the index.
    fn with_lock<T>(&self, cx: &PullContext, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let open = || layout::open_lock(&*self.disk, INDEX_LOCK);
        // Not kept open: a process may have few descriptors.
        let file = retry_io::for_files(cx, "open the lock of the index", open)?;
        retry_io::lock(cx, &*file, Lock::Exclusive, INDEX_LOCK)?;
        work()
    }

    /// Writes the index with all `edits`, unless they change nothing. Returns the new file's metadata.
    fn rewrite(&self, cx: &PullContext, edits: Vec<Edit>) -> Result<Option<Metadata>, Error> {
        let mut index = Arc::unwrap_or_clone(self.read_waiting(cx)?);
        let changed = edits.into_iter().fold(false, |changed, edit| edit(&mut index) | changed);
        if !changed && self.is_durable() {
            return Ok(None);
        }
        let index = Arc::new(index);
        retry_io::for_files(cx, &format!("write {INDEX}"), || self.replace(&index)).map(Some)
    }

    /// Reads the index as soon as there is a file descriptor for it.
    fn read_waiting(&self, cx: &PullContext) -> Result<Arc<StoreIndex>, Error> {
        let mut pauses = retry_io::Pauses::new();
        loop {
            match self.read() {
                Err(error) if error.kind() == ErrorKind::ResourceExhausted && pauses.may_go_on() => {
                    pauses.wait(cx)?
                }
                outcome => return outcome,
            }
        }
    }

    /// Returns whether the file needs no flush: it is this process's own and flushed, or flushes are off.
    fn is_durable(&self) -> bool {
        self.flush == Flush::Skip || self.cached.lock().as_ref().is_some_and(|cached| cached.is_durable)
    }

    fn replace(&self, index: &Arc<StoreIndex>) -> io::Result<Metadata> {
        let file = index_write::write_next(&*self.disk, &index.print(), self.flush)?;
        index_write::put_next(&*self.disk)?;
        *self.cached.lock() = Some(Cached { file, index: index.clone(), is_durable: false });
        Ok(file)
    }

    fn make_durable(&self, cx: &PullContext, file: Metadata) -> Result<(), Error> {
        retry_io::for_files(cx, &format!("flush the name of {INDEX}"), || self.disk.sync_dir(""))?;
        if let Some(cached) = self.cached.lock().as_mut().filter(|cached| cached.file == file) {
            cached.is_durable = true;
        }
        Ok(())
    }
}

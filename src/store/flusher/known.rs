//! The index as this process knows it, and its way to the disk.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, Flush, Lock, Metadata};
use crate::error::{Error, ErrorKind};
use crate::store::index::StoreIndex;
use crate::store::layout::{self, INDEX, INDEX_LOCK};
use crate::store::retry_io;

/// Changes the index, and says whether it did.
pub(super) type Edit = Box<dyn FnOnce(&mut StoreIndex) -> bool + Send>;

/// The index, read again only if somebody else wrote it.
#[derive(Debug)]
pub(super) struct KnownIndex {
    disk: Arc<dyn Disk>,
    flush: Flush,
    known: Mutex<Option<Known>>,
    lock: Mutex<Option<Box<dyn DiskFile>>>,
}

/// The index as it was read or written last.
#[derive(Debug)]
struct Known {
    file: Metadata,
    index: StoreIndex,
    is_durable: bool,
}

impl KnownIndex {
    pub(super) fn new(disk: Arc<dyn Disk>, flush: Flush) -> Self {
        KnownIndex { disk, flush, known: Mutex::default(), lock: Mutex::default() }
    }

    /// The index as it is now.
    pub(super) fn read(&self) -> Result<StoreIndex, Error> {
        let mut known = self.known.lock();
        if let Some(known) = &*known
            && self.disk.metadata(INDEX).is_ok_and(|now| now == known.file)
        {
            return Ok(known.index.clone());
        }
        let (index, file) = layout::read_index(&*self.disk)?;
        *known = file.map(|file| Known { file, index: index.clone(), is_durable: false });
        Ok(index)
    }

    /// Changes the index by one rewrite, and makes it durable.
    pub(super) fn edit(&self, edits: Vec<Edit>) -> Result<(), Error> {
        // Whoever waits for this can leave; the lock itself is held briefly by whoever holds it.
        let cx = PullContext::new();
        let written = self.with_lock(&cx, || self.rewrite(&cx, edits))?;
        match written {
            // Others may go on with it meanwhile: what they make of it is flushed after this.
            Some(file) if self.flush == Flush::Wait => self.make_durable(&cx, file),
            _ => Ok(()),
        }
    }

    /// Does `work` while no other process changes the index.
    fn with_lock<T>(&self, cx: &PullContext, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut lock = self.lock.lock();
        let file = match lock.take() {
            Some(file) => file,
            None => retry_io::for_files(cx, "open the lock of the index", || {
                layout::open_lock(&*self.disk, INDEX_LOCK)
            })?,
        };
        retry_io::lock(cx, &*file, Lock::Exclusive, INDEX_LOCK)?;
        let outcome = work();
        // One that cannot be unlocked is closed, which unlocks it, too.
        *lock = file.unlock().is_ok().then_some(file);
        outcome
    }

    /// Writes the index with all `edits`, unless they change nothing: what the file then is.
    fn rewrite(&self, cx: &PullContext, edits: Vec<Edit>) -> Result<Option<Metadata>, Error> {
        let mut index = self.read_patiently(cx)?;
        let changed = edits.into_iter().fold(false, |changed, edit| edit(&mut index) | changed);
        if !changed && self.is_durable() {
            return Ok(None);
        }
        retry_io::for_files(cx, &format!("write {INDEX}"), || self.replace(&index)).map(Some)
    }

    /// The index, once there is a file descriptor for it.
    fn read_patiently(&self, cx: &PullContext) -> Result<StoreIndex, Error> {
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

    /// Whether the index as it was read needs no flush: one of our own, or one that nobody waits for.
    fn is_durable(&self) -> bool {
        self.flush == Flush::Skip || self.known.lock().as_ref().is_some_and(|known| known.is_durable)
    }

    fn replace(&self, index: &StoreIndex) -> io::Result<Metadata> {
        let file = layout::write_new_index(&*self.disk, &index.print(), self.flush)?;
        // Who reads it waits for the rename, and not for a flush.
        let mut known = self.known.lock();
        layout::put_new_index(&*self.disk)?;
        *known = Some(Known { file, index: index.clone(), is_durable: false });
        Ok(file)
    }

    fn make_durable(&self, cx: &PullContext, file: Metadata) -> Result<(), Error> {
        retry_io::for_files(cx, &format!("flush the name of {INDEX}"), || self.disk.sync_dir(""))?;
        if let Some(known) = self.known.lock().as_mut().filter(|known| known.file == file) {
            known.is_durable = true;
        }
        Ok(())
    }
}

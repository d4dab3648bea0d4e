//! One pull or import on its way into the store: the blobs it holds against garbage collection, the
//! commits it waits for, and the names it sets at its end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::store::group_commit::PendingCommit;
use crate::store::growth::Growth;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout;
use crate::store::lease::Lease;

/// A pull or import in progress. Cheap to clone; the last clone that is dropped ends it.
#[derive(Clone, Debug)]
pub(crate) struct Transaction(Arc<TransactionState>);

#[derive(Debug)]
struct TransactionState {
    lease: Arc<Lease>,
    pending: Mutex<Vec<Arc<PendingCommit>>>,
    /// Blobs that are read while they are fetched.
    followed: Mutex<HashMap<Digest, Growth>>,
}

/// What the index says about an image, beside its name and manifest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    /// The image's id: its config's digest.
    pub(crate) id: Option<Digest>,
    /// `repository@digest` of the manifest, or of the index that it was chosen from.
    pub(crate) repo_digest: Option<String>,
    /// Size of manifest, config and layers, bytes.
    pub(crate) size: Option<u64>,
    /// The manifest that holds the image's signatures.
    pub(crate) signatures: Option<Digest>,
    /// The manifests that the store has of an index, if those are not all.
    pub(crate) taken: Option<Vec<Digest>>,
}

impl Transaction {
    /// Has these blobs be read while they are fetched.
    #[cfg(feature = "unpack")]
    pub(crate) fn follow<'a>(&self, blobs: impl IntoIterator<Item = &'a Descriptor>) {
        let growths = blobs.into_iter().map(|blob| (blob.digest.clone(), Growth::default()));
        self.0.followed.lock().extend(growths);
    }

    /// Returns how far a blob has come, if it is [followed](Self::follow).
    pub(super) fn growth(&self, digest: &Digest) -> Option<Growth> {
        self.0.followed.lock().get(digest).cloned()
    }

    /// Adds a commit that the transaction's names wait for.
    pub(super) fn await_commit(&self, commit: Arc<PendingCommit>) {
        self.0.pending.lock().push(commit);
    }

    /// Returns the commits that must be durable before the transaction sets a name.
    pub(super) fn pending(&self) -> Vec<Arc<PendingCommit>> {
        self.0.pending.lock().clone()
    }

    /// Returns the lease of the blobs, for a change of the index that may outlive the transaction.
    pub(super) fn lease(&self) -> Arc<Lease> {
        self.0.lease.clone()
    }

    /// Waits until every blob that the transaction wrote or reused is durable under its name.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; the error of the first commit that failed.
    pub(super) fn wait_durable(&self, cx: &PullContext) -> Result<(), Error> {
        // Waits for each, also after one has failed: none may get its name later.
        let outcomes: Vec<_> = self.pending().iter().map(|commit| commit.wait_durable(cx)).collect();
        outcomes.into_iter().collect()
    }
}

impl Store {
    /// Begins a pull, an import or an export.
    pub(crate) fn transaction(&self) -> Transaction {
        let (pending, followed) = Default::default();
        Transaction(Arc::new(TransactionState { lease: Arc::new(self.0.leases.lease()), pending, followed }))
    }

    /// Holds these blobs against garbage collection until the transaction ends.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`, `ResourceExhausted`.
    pub(crate) fn hold(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        digests: &[&Digest],
    ) -> Result<(), Error> {
        self.0.leases.hold(cx, &transaction.0.lease, digests)
    }

    /// Names the image at `manifest`, and returns when its blobs and the index are as durable as the
    /// store's setting says.
    ///
    /// The index points at the manifest that was chosen for this platform, also where the name stands
    /// for an image index of which one platform was fetched: other tools follow the descriptor, and
    /// would miss the blobs of the other platforms. `naming` keeps the digest of the index. Of an image that was
    /// pulled for several platforms, `manifest` is the index.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`: the name is not set, unless the index was being written. `Store`, `DiskFull`.
    pub(crate) fn tag(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        names: &[String],
        manifest: &Descriptor,
        naming: &Naming,
    ) -> Result<(), Error> {
        let (id, repo_digest) = (naming.id.as_ref(), naming.repo_digest.as_deref());
        let taken = naming.taken.as_deref();
        let entries: Vec<_> = names
            .iter()
            .map(|name| {
                IndexEntry::with_taken(Some(name.as_str()), manifest, id, repo_digest, taken)
                    .with_signatures(naming.signatures.as_ref())
            })
            .collect();
        self.0.group_commit.change_index(
            cx,
            transaction.pending(),
            Some(transaction.lease()),
            move |index| entries.into_iter().fold(false, |changed, entry| index.put(entry) | changed),
        )?;
        self.0.sizes.note(&manifest.digest, naming.size);
        Ok(())
    }

    /// Sets the image's time of last use to now; [`prune`](Self::prune) orders images by it.
    pub(super) fn touch(&self, manifest: &Digest) {
        if let Err(error) = self.0.disk.touch(&layout::blob_path(manifest)) {
            log::debug!("the time of last use of {manifest} was not set: {error}");
        }
    }
}

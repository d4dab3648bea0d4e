//! The store from within: what `tests/` cannot see.

mod archive;
mod gc;
mod power;
mod pull;
mod resume;
mod verify;

use std::sync::Arc;

use super::{BeginIngest, Ingest, Naming, SMALL, Store, Transaction};
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, media_type};

/// An image made for a test.
#[derive(Clone, Debug)]
struct TestImage {
    name: String,
    manifest: (Descriptor, Vec<u8>),
    config: (Descriptor, Vec<u8>),
    layers: Vec<(Descriptor, Vec<u8>)>,
}

impl TestImage {
    /// An image whose config says `mark`, with these layers.
    fn new(name: &str, mark: &str, layers: &[&[u8]]) -> Self {
        let described = |media_type: &str, bytes: &[u8]| {
            (Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64), bytes.to_vec())
        };
        let layers: Vec<_> = layers.iter().map(|bytes| described(media_type::OCI_LAYER, bytes)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|(layer, _)| layer.digest.to_string()).collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "author": mark,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = described(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let written = |it: &Descriptor| serde_json::json!({ "mediaType": it.media_type, "digest": it.digest.as_str(), "size": it.size });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": written(&config.0),
            "layers": layers.iter().map(|(layer, _)| written(layer)).collect::<Vec<_>>(),
        });
        let manifest = described(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        TestImage { name: name.to_owned(), manifest, config, layers }
    }

    fn blobs(&self) -> impl Iterator<Item = &(Descriptor, Vec<u8>)> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// Does what a pull does, without a network.
    fn pull_into(&self, store: &Store) -> Result<(), Error> {
        let cx = PullContext::new().with_cancel(&CancelToken::new());
        let transaction = store.transaction();
        let blobs: Vec<_> = self.blobs().map(|(blob, _)| blob).collect();
        let _space = store.reserve_space(&cx, &blobs)?;
        for (blob, bytes) in self.blobs() {
            store.put(&cx, &transaction, blob, bytes)?;
        }
        self.tag_in(store, &cx, &transaction)
    }

    fn tag_in(&self, store: &Store, cx: &PullContext, transaction: &Transaction) -> Result<(), Error> {
        let naming = Naming { id: Some(self.config.0.digest.clone()), ..Naming::default() };
        store.tag(cx, transaction, std::slice::from_ref(&self.name), &self.manifest.0, &naming)
    }
}

/// `start`, and so much more that it is not kept in memory until it is whole.
fn large(start: &[u8]) -> Vec<u8> {
    [start, &[0; SMALL as usize]].concat()
}

/// Begins a blob that is not there.
fn fetch(store: &Store, transaction: &Transaction, blob: &Descriptor) -> Ingest {
    match store.begin(&PullContext::new(), transaction, blob) {
        Ok(BeginIngest::Fetch(ingest)) => ingest,
        other => panic!("the blob should have to be fetched: {other:?}"),
    }
}

fn is_present(store: &Store, transaction: &Transaction, blob: &Descriptor) -> bool {
    matches!(store.begin(&PullContext::new(), transaction, blob), Ok(BeginIngest::Present))
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    outcome.unwrap_err().kind()
}

//! Passes the tree from layer to layer.
//!
//! Layers are read side by side, and applied in order. The tree belongs to the layer whose turn it is.
//!
//! # States of a layer
//!
//! - *ahead*: another has the turn; its entries gather.
//! - *in turn*: its thread has the tree, and applies entries as they come.
//! - *parked*: it was read to its end before its turn. Whichever thread ends the layer before it applies it.
//!
//! Exactly one thread has the tree, or it lies here. It lies here only while the thread of the layer in
//! turn runs, for a layer that is parked is taken by the thread that passes the tree on. So no thread
//! waits for another, and the tree moves on as long as threads do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// `T` is the tree, `P` what is left to do for a layer that was read to its end.
pub(super) struct Turn<T, P> {
    state: Mutex<TurnState<T, P>>,
    /// The layer in turn, to look at without the lock.
    layer: AtomicUsize,
}

struct TurnState<T, P> {
    tree: Option<T>,
    parked: BTreeMap<usize, P>,
}

/// What becomes of a layer that was read to its end.
pub(super) enum Ended<T, P> {
    /// It is its turn.
    InTurn(T, P),
    Parked,
}

impl<T, P> Turn<T, P> {
    /// The first turn is that of `layer`.
    pub(super) fn new(tree: T, layer: usize) -> Self {
        let state = TurnState { tree: Some(tree), parked: BTreeMap::new() };
        Turn { state: Mutex::new(state), layer: AtomicUsize::new(layer) }
    }

    /// Takes the tree if it is the layer's turn.
    pub(super) fn take(&self, layer: usize) -> Option<T> {
        if self.layer.load(Ordering::Acquire) != layer {
            return None;
        }
        self.state.lock().tree.take()
    }

    /// Takes the tree if it is the layer's turn, or else parks the layer.
    pub(super) fn take_or_park(&self, layer: usize, rest: P) -> Ended<T, P> {
        let mut state = self.state.lock();
        if self.layer.load(Ordering::Acquire) == layer
            && let Some(tree) = state.tree.take()
        {
            return Ended::InTurn(tree, rest);
        }
        state.parked.insert(layer, rest);
        Ended::Parked
    }

    /// Gives the tree to the layer after `layer`; if that is parked, the caller is to do it.
    pub(super) fn pass(&self, layer: usize, tree: T) -> Option<(T, P)> {
        let mut state = self.state.lock();
        self.layer.store(layer + 1, Ordering::Release);
        match state.parked.remove(&(layer + 1)) {
            Some(rest) => Some((tree, rest)),
            None => {
                state.tree = Some(tree);
                None
            }
        }
    }

    /// The tree, when all threads have ended.
    pub(super) fn into_tree(self) -> Option<T> {
        self.state.into_inner().tree
    }
}

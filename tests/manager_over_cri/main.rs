//! The tests of the image manager, over the image service of a CRI runtime.
// Each of them brings its own `common`.
#![allow(clippy::duplicate_mod, clippy::unwrap_used)]

#[path = "../manager_backoff.rs"]
mod backoff;
#[path = "../manager_end.rs"]
mod end;
#[path = "../manager_order.rs"]
mod order;
#[path = "../manager_policy.rs"]
mod policy;
#[path = "../manager_records.rs"]
mod records;
#[path = "../manager_sharing.rs"]
mod sharing;

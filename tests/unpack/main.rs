//! Unpacking: what each kind of image becomes, and what is refused.

#![allow(clippy::unwrap_used)]

mod cases;
mod corpus;
mod layers;
mod streams;
mod targets;
mod tree;

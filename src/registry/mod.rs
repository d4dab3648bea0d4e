//! Pulls from any OCI or Docker registry over HTTP into an OCI image layout on disk: the builder, the name
//! look-ups and the verifier hook of [`RegistryImageService`](crate::RegistryImageService).

mod address;
mod auth;
mod builder;
mod client;
mod client_metrics;
mod content_range;
mod document;
mod download;
mod encoding;
mod error_response;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod host_limits;
mod hosts;
mod http;
pub(crate) mod image_service;
mod link_header;
mod open_files;
mod pull;
mod queries;
mod referrers;
mod request;
mod resolve;
mod retry;
mod retry_after;
mod session;
mod settings;
#[cfg(feature = "unpack")]
mod unpacking;
mod url_policy;
mod verifier;

pub use builder::RegistryImageServiceBuilder;
pub use client_metrics::{ClientMetrics, HostMetrics};
pub use http::{Resolver, SystemResolver};
pub use queries::{PlannedImage, PullPlan, TagList};
pub use verifier::{Candidate, FetchedManifest, ImageVerifier, Referrers, VerifyError};

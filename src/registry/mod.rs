//! The image service over HTTP: any OCI or Docker registry, into an OCI image layout on disk.

mod address;
mod auth;
mod builder;
mod client;
mod document;
mod download;
mod error_response;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod host_limits;
mod hosts;
mod http;
mod image_service;
mod link;
mod pull;
mod range;
mod referrers;
mod request;
mod resolve;
mod retry;
mod retry_after;
mod session;
mod settings;
mod url_policy;
mod verifier;

pub use builder::RegistryImageServiceBuilder;
pub use http::{Resolver, SystemResolver};
pub use image_service::RegistryImageService;
pub use verifier::{Candidate, FetchedManifest, ImageVerifier, Referrers, VerifyError};

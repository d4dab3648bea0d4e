//! A registry in this process that misbehaves on demand, and images made to measure, to test programs that pull
//! images.
//!
//! ```
//! use std::time::Duration;
//! use oci_puller::testing::images::ImageBuilder;
//! use oci_puller::testing::{Action, Fault, Registry, Target};
//! # use std::io::{Read, Write};
//! # fn pull(host: &str, image: &oci_puller::testing::images::Image) -> std::io::Result<usize> {
//! #     let mut stream = std::net::TcpStream::connect(host)?;
//! #     let layer = &image.layers()[0].digest;
//! #     write!(stream, "GET /v2/library/app/blobs/{layer} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
//! #     let mut answer = Vec::new();
//! #     stream.read_to_end(&mut answer)?;
//! #     Ok(answer.len())
//! # }
//!
//! # fn main() -> std::io::Result<()> {
//! let registry = Registry::start()?;
//! let image = ImageBuilder::new("library/app").layer(100_000).layer_shared(7, 50_000).build();
//! let reference = registry.push(&image, "latest"); // 127.0.0.1:PORT/library/app:latest
//!
//! // The first blob breaks off after 1,000 bytes; the second try gets through, after a wait.
//! let cut = registry.fault(Fault::on(Target::Blob).times(1).with(Action::Cut(1_000)));
//! registry.fault(Fault::on(Target::Blob).skip(1).with(Action::Delay(Duration::from_millis(50))));
//!
//! // Here your agent pulls `reference`, over plain HTTP.
//! # pull(&registry.host(), &image)?;
//!
//! assert_eq!(cut.fired(), 1);
//! for request in registry.requests() {
//!     println!("{} {} {:?}", request.method, request.path, request.header("range"));
//! }
//! assert_eq!(registry.stats().blob_bytes, 1_000);
//! # Ok(())
//! # }
//! ```
//!
//! A fault is data: the requests that it hits, how often, and an [`Action`]. A request is hit by every fault that
//! fits it. Faults that act one after the other use [`Fault::skip`] and [`Fault::times`]. To test a program while its
//! request hangs, use [`Action::Hold`], [`FaultHandle::wait_fired`] and [`FaultHandle::release`].
//!
//! It is a real HTTP/1.1 server on 127.0.0.1 that serves manifests, blobs (in ranges too), referrers
//! and tokens, read-only: images come in by [`Registry::push`]. TLS comes from outside, by an
//! [`Acceptor`].

mod auth;
mod connection;
mod content;
mod deliver;
mod exchange;
mod fault;
mod http;
pub mod images;
mod link;
mod record;
mod registry;
mod reply;
mod server;
mod wait;

pub use auth::{IssuedToken, TokenServer};
pub use connection::{Acceptor, Connection};
pub use fault::{Action, Fault, FaultHandle, Stage};
pub use record::{RegistryStats, SeenRequest, Target};
pub use registry::{Registry, RegistryBuilder};

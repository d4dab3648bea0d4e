//! A filter for loggers that are enabled for this crate's dependencies.

/// Tells whether a record may be written to a log without writing down secrets.
///
/// **At level trace, the HTTP library `ureq` logs requests byte by byte in hexadecimal, with their
/// `Authorization` headers, and at level debug it logs URLs, which may be signed.** This crate itself logs no
/// secret at any level. A logger that is enabled below `Info` for all crates calls this function in
/// [`log::Log::enabled`] and in [`log::Log::log`]; it refuses the records of ureq below `Info` and allows
/// all others. With `env_logger`, the same is the filter `trace,ureq=info,ureq_proto=info`.
///
/// ```
/// struct Stderr;
///
/// impl log::Log for Stderr {
///     fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
///         oci_puller::log_filter(metadata)
///     }
///
///     fn log(&self, record: &log::Record<'_>) {
///         if self.enabled(record.metadata()) {
///             eprintln!("{} {}: {}", record.level(), record.target(), record.args());
///         }
///     }
///
///     fn flush(&self) {}
/// }
/// ```
#[must_use]
pub fn log_filter(metadata: &log::Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    !matches!(root, "ureq" | "ureq_proto") || metadata.level() <= log::Level::Info
}

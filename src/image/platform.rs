//! Platforms, and which of them serves this machine best.

/// What an image was built for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system, as Go names it: `linux`.
    pub os: String,
    /// Architecture, as Go names it: `amd64`.
    pub architecture: String,
    /// Variant of the architecture: `v7`.
    pub variant: Option<String>,
    /// Version of the operating system; Windows only.
    pub os_version: Option<String>,
    /// Features that the image wants of the operating system; Windows only.
    pub os_features: Vec<String>,
}

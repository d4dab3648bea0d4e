//! The media types of manifests, configs and layers; each of
//! [OCI's](https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md) has a twin of
//! [Docker's](https://distribution.github.io/distribution/spec/manifest-v2-2/#media-types).

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, compressed with Zstandard.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Bytes of an unknown type.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";
/// Docker layer, compressed with gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The `Accept` header of a request for a manifest.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Types that servers send for files whose type they do not know.
const VAGUE: [&str; 3] = ["application/json", OCTET_STREAM, "text/plain"];

/// Whether it is the media type of an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether it is the media type of an index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// Whether it is the media type of an image config, which [`ImageConfig`](crate::image::ImageConfig) parses.
pub fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

pub(super) fn is_schema_1(media_type: &str) -> bool {
    matches!(media_type, DOCKER_SCHEMA_1 | DOCKER_SCHEMA_1_SIGNED)
}

/// Returns the media type of a `Content-Type` header, without parameters and in lower case; `None` if it
/// says nothing about the document.
pub(super) fn of_header(content_type: &str) -> Option<String> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let says_something = !essence.is_empty() && !VAGUE.contains(&essence.as_str());
    says_something.then_some(essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_understood_is_accepted_indexes_first() {
        let types: Vec<&str> = ACCEPT.split(", ").collect();
        assert_eq!(types, [OCI_INDEX, DOCKER_MANIFEST_LIST, OCI_MANIFEST, DOCKER_MANIFEST]);
    }

    #[test]
    fn a_header_counts_without_its_parameters() {
        assert_eq!(of_header("Application/Vnd.X ; charset=utf-8").as_deref(), Some("application/vnd.x"));
        for vague in ["", " ", "application/json; charset=utf-8", "text/plain"] {
            assert_eq!(of_header(vague), None, "{vague}");
        }
    }
}

//! Images made for tests, as OCI archives.

use oci_puller::image::Digest;
use serde_json::json;

/// An image, and the archive that it comes in.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "not every test asks for all of it")]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<(Digest, Vec<u8>)>,
    pub(crate) archive: Vec<u8>,
}

/// Returns an image of these layers, which are no tar files: no test unpacks them.
pub(crate) fn image(name: &str, layers: &[&[u8]]) -> Image {
    let layers: Vec<_> = layers.iter().map(|layer| (Digest::sha256(layer), layer.to_vec())).collect();
    let diff_ids: Vec<_> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "author": name, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let described = |media_type: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{media_type}"),
            "digest": Digest::sha256(bytes).to_string(), "size": bytes.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config),
        "layers": layers.iter().map(|(_, bytes)| described("layer.v1.tar", bytes)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described("manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
    ];
    for bytes in layers.iter().map(|(_, bytes)| bytes).chain([&config, &manifest]) {
        let path = format!("blobs/sha256/{}", Digest::sha256(bytes).hex());
        if !files.iter().any(|(there, _)| *there == path) {
            files.push((path, bytes.clone()));
        }
    }
    Image {
        name: name.to_owned(),
        id: Digest::sha256(&config),
        manifest: Digest::sha256(&manifest),
        layers,
        archive: tar(&files),
    }
}

/// A tar archive of these files.
pub(crate) fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        let mut header = [0; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

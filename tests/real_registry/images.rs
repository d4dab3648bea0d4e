//! Images that others make and push, and a comparison of what was pulled with what was pushed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::{PulledImage, RegistryImageService};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::real::{DockerRegistry, run};

/// An OCI image layout in a temporary folder.
pub struct Layout {
    folder: TempDir,
    tag: &'static str,
}

impl Layout {
    /// An image that umoci makes from scratch: three layers of real files, and a config with settings.
    pub fn by_umoci() -> Self {
        let layout = Layout { folder: tempfile::tempdir().unwrap(), tag: "v1" };
        write_files(&layout.folder.path().join("files"));
        let (dir, image) = (layout.dir(), layout.path());
        run("umoci", ["init", "--layout", &dir]);
        run("umoci", ["new", "--image", &image]);
        for part in ["etc", "usr", "home"] {
            let files = layout.files().join(part);
            let target = format!("/{part}");
            run("umoci", ["insert", "--rootless", "--image", &image, files.to_str().unwrap(), &target]);
        }
        let settings =
            ["--config.entrypoint", "/usr/app", "--config.env", "A=b", "--config.label", "a.b=c d"];
        run("umoci", ["config", "--image", &image].into_iter().chain(settings));
        layout
    }

    /// An image that the testing module made.
    pub fn of(image: &Image) -> Self {
        let layout = Layout { folder: tempfile::tempdir().unwrap(), tag: "made" };
        let dir = layout.folder.path().join("layout");
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for part in image.documents().chain(image.blobs()) {
            fs::write(dir.join("blobs/sha256").join(part.digest.hex()), &part.data).unwrap();
        }
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": image.media_type(),
                "digest": image.digest().as_str(),
                "size": image.root().size(),
                "annotations": { "org.opencontainers.image.ref.name": layout.tag },
            }],
        });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }

    pub fn dir(&self) -> String {
        self.folder.path().join("layout").to_str().unwrap().to_owned()
    }

    /// `DIR:TAG`
    pub fn path(&self) -> String {
        format!("{}:{}", self.dir(), self.tag)
    }

    /// The files that umoci put into the layers.
    pub fn files(&self) -> std::path::PathBuf {
        self.folder.path().join("files")
    }

    /// Pushes the image with skopeo, and returns its name.
    pub fn push(&self, registry: &DockerRegistry, name: &str, options: &[&str]) -> String {
        let image = format!("{}/{name}", registry.host());
        let source = format!("oci:{}", self.path());
        let target = format!("docker://{image}");
        let plain = if options.iter().any(|option| option.contains("cert-dir")) {
            &[][..]
        } else {
            &["--dest-tls-verify=false"]
        };
        let command = ["--insecure-policy", "copy", "--quiet"];
        let arguments = command.iter().chain(options).chain(plain).copied();
        run("skopeo", arguments.chain([source.as_str(), target.as_str()]));
        image
    }
}

/// An image for three platforms, behind an index.
pub fn multi_platform() -> Image {
    ImageBuilder::new("app")
        .layer_shared(7, 200_000)
        .layer(50_000)
        .platforms(["linux/amd64", "linux/arm64/v8", "linux/arm/v7"])
        .build()
}

fn write_files(root: &Path) {
    // Does not compress: a layer that takes more than one read.
    let mut noise = vec![0; 300_000];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    for folder in ["etc", "usr", "home/with a space"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/hostname"), "a-host\n").unwrap();
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::write(root.join("usr/app"), noise).unwrap();
    fs::set_permissions(root.join("usr/app"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("app", root.join("usr/link")).unwrap();
    fs::write(root.join("home/with a space/näme"), "text\n".repeat(1000)).unwrap();
}

/// What stands in the store is what stands on the registry's disk, byte by byte: the manifest, the
/// config and each layer. Tells the manifest's digest.
pub fn assert_identical(
    service: &RegistryImageService,
    registry: &DockerRegistry,
    (repository, tag): (&str, &str),
    architecture: &str,
    pulled: &PulledImage,
) -> String {
    let root = registry.tagged(repository, tag);
    assert_eq!(pulled.manifest_digest.as_ref().unwrap().as_str(), root);
    assert_eq!(pulled.repo_digest.as_deref(), Some(&*format!("{}/{repository}@{root}", registry.host())));

    let manifest_digest = chosen(registry, &root, architecture);
    let manifest: Value = serde_json::from_slice(&registry.blob(&manifest_digest)).unwrap();
    let config = digest_of(&manifest["config"]);
    assert_eq!(pulled.image_ref.as_str(), config);
    let layers = manifest["layers"].as_array().unwrap();
    assert!(!layers.is_empty());
    for digest in layers.iter().map(digest_of).chain([manifest_digest.clone(), config]) {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let stored = fs::read(service.store().dir().join("blobs/sha256").join(hex)).unwrap();
        assert!(stored == registry.blob(&digest), "{digest} is not what was pushed");
    }
    manifest_digest
}

/// The manifest for an architecture, where the digest is an index's.
fn chosen(registry: &DockerRegistry, root: &str, architecture: &str) -> String {
    let document: Value = serde_json::from_slice(&registry.blob(root)).unwrap();
    let Some(manifests) = document["manifests"].as_array() else { return root.to_owned() };
    let fits = |entry: &&Value| entry["platform"]["architecture"] == architecture;
    digest_of(manifests.iter().find(fits).unwrap())
}

fn digest_of(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

/// Two folders hold the same files: bytes, links, and what may be run.
pub fn assert_same_files(expected: &Path, found: &Path) {
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(expected), names(found), "{}", found.display());
    for name in names(expected) {
        let (expected, found) = (expected.join(&name), found.join(&name));
        let kind = expected.symlink_metadata().unwrap();
        assert_eq!(kind.file_type(), found.symlink_metadata().unwrap().file_type());
        if kind.is_symlink() {
            assert_eq!(fs::read_link(&expected).unwrap(), fs::read_link(&found).unwrap());
        } else if kind.is_dir() {
            assert_same_files(&expected, &found);
        } else {
            assert!(fs::read(&expected).unwrap() == fs::read(&found).unwrap(), "{}", found.display());
            assert_eq!(kind.permissions().mode(), found.metadata().unwrap().permissions().mode());
        }
    }
}

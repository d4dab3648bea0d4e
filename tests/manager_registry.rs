//! The image manager over the default service, with a registry that requires a password.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use oci_puller::manager::ImageSource;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{
    EnsureRequest, EnsuredImage, Error, ErrorKind, ImageManager, PullContext, PullPolicy, PullSecret,
    RegistryImageService,
};

/// A registry with one image behind a password, and a manager over a store of its own.
struct World {
    registry: Registry,
    image: String,
    manager: ImageManager,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let registry = Registry::start().unwrap();
        registry.require_basic("ann", "secret");
        let image = registry.push(&ImageBuilder::new("team/app").layer(10_000).build(), "v1");
        let dir = tempfile::tempdir().unwrap();
        let service = RegistryImageService::builder(dir.path().join("store")).tries(1).build().unwrap();
        let manager = ImageManager::builder(service).records(dir.path().join("records")).build().unwrap();
        World { registry, image, manager, _dir: dir }
    }

    fn ask(&self, owner: &str, secrets: Vec<PullSecret>, policy: PullPolicy) -> Result<EnsuredImage, Error> {
        let request = EnsureRequest::new(owner, &*self.image).with_pull_secrets(secrets).with_policy(policy);
        self.manager.ensure_image_exists(&PullContext::new(), &request)
    }

    fn secrets(&self, user: &str, password: &str) -> Vec<PullSecret> {
        let host = self.registry.host();
        let config = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
        vec![PullSecret::docker_config_json(config)]
    }
}

#[test]
fn an_image_is_pulled_once_and_used_only_with_credentials_that_can_pull_it() {
    let world = World::new();
    let ann = || world.secrets("ann", "secret");
    let pulled = world.ask("pod", ann(), PullPolicy::IfNotPresent).unwrap();
    assert!(matches!(pulled.source, ImageSource::Pulled { size: Some(10_000..), .. }), "{pulled:?}");
    world.registry.forget_requests();

    let present = world.ask("other", ann(), PullPolicy::IfNotPresent).unwrap();
    assert!(matches!(present.source, ImageSource::Present));
    assert_eq!(present.image_ref, pulled.image_ref);
    assert!(world.registry.requests().is_empty(), "nothing is asked for what is there");

    let stranger = world.ask("stranger", Vec::new(), PullPolicy::IfNotPresent).unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Unauthorized, "{stranger}");
    let stranger = world.ask("stranger", Vec::new(), PullPolicy::Never).unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::NeverPull, "{stranger}");
}

#[test]
fn a_mended_secret_is_tried_at_once() {
    let world = World::new();
    let wrong = || world.secrets("ann", "wrong");
    let refused = world.ask("pod", wrong(), PullPolicy::Always).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
    let held = world.ask("pod", wrong(), PullPolicy::Always).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::BackOff, "{held}");
    assert!(!format!("{held} {held:?}").contains("wrong"), "{held:?}");
    world.ask("pod", world.secrets("ann", "secret"), PullPolicy::Always).unwrap();
}

#[test]
fn a_present_image_is_used_when_the_registry_is_gone() {
    let world = World::new();
    let ann = || world.secrets("ann", "secret");
    world.ask("pod", ann(), PullPolicy::Always).unwrap();
    world.registry.shutdown();
    let image = world.ask("pod", ann(), PullPolicy::PullIfPossible).unwrap();
    assert!(matches!(image.source, ImageSource::Fallback { .. }), "{image:?}");
    let stranger = world.ask("stranger", Vec::new(), PullPolicy::PullIfPossible).unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::ConnectionFailed, "{stranger}");
}

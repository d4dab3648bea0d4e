//! A pull-through cache, joined by a `hosts.toml`.

use std::fs;
use std::path::Path;

use oci_puller::image::Platform;
use serde_json::json;

use crate::images::{Layout, assert_identical};
use crate::real::DockerRegistry;
use crate::{Test, service_with};

pub const TESTS: &[Test] =
    &[("a_pull_through_cache_serves_and_without_it_the_registry_does", TOOLS, cache_then_registry)];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

fn cache_then_registry() {
    let registry = DockerRegistry::start();
    let name = Layout::by_umoci().push(&registry, "team/app:v1", &[]);
    let upstream = format!("http://{}", registry.host());
    let mut cache = DockerRegistry::start_with(json!({ "proxy": { "remoteurl": upstream } }));
    let hosts = tempfile::tempdir().unwrap();
    write_hosts_toml(hosts.path(), registry.host(), cache.host());

    let (_folder, service) = service_with(|builder| builder.hosts_dir(hosts.path()));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("team/app", "v1"), &Platform::host().architecture, &pulled);
    // A manifest, a config and three layers; a mirror gets the registry's name.
    let asked = cache.requests_of_ours();
    assert!(asked.iter().any(|line| line.contains("/v2/team/app/manifests/v1?ns=127.0.0.1")), "{asked:?}");
    assert_eq!(asked.iter().filter(|line| line.contains("/v2/team/app/blobs/")).count(), 4, "{asked:?}");
    assert_eq!(registry.requests_of_ours(), Vec::<String>::new());

    cache.server().kill();
    let (_folder, service) = service_with(|builder| builder.hosts_dir(hosts.path()));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("team/app", "v1"), &Platform::host().architecture, &pulled);
    let asked = registry.requests_of_ours();
    assert!(asked.iter().all(|line| !line.contains("ns=")), "{asked:?}");
    assert_eq!(asked.iter().filter(|line| line.contains("/blobs/")).count(), 4, "{asked:?}");
}

/// As the README shows it, in the spelling of folders that have no colon in their names.
fn write_hosts_toml(folder: &Path, registry: &str, cache: &str) {
    let file = format!(
        r#"
        server = "http://{registry}"

        [host."http://{cache}"]
          capabilities = ["pull", "resolve"]
        "#
    );
    let own = folder.join(format!("{}_", registry.replace(':', "_")));
    fs::create_dir(&own).unwrap();
    fs::write(own.join("hosts.toml"), file).unwrap();
}

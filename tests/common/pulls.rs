//! Services with short waits, for tests of failures.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use oci_puller::RegistryImageService;
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::store::Durability;

/// A service whose store is in `dir`, and which waits a moment where others wait for seconds.
pub fn quick(dir: &Path) -> RegistryImageServiceBuilder {
    RegistryImageService::builder(dir.join("store"))
        .durability(Durability::Relaxed)
        .no_proxy()
        .tries(3)
        .retry_delay(Duration::from_millis(1), Duration::from_millis(2))
        .max_retry_after(Duration::from_millis(300))
}

/// Writes a `hosts.toml` for `registry`, and returns the folder to give to the builder.
pub fn hosts_toml(dir: &Path, registry: &str, text: &str) -> std::path::PathBuf {
    let folder = dir.join("hosts").join(registry.replace(':', "_") + "_");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
    dir.join("hosts")
}

/// Returns a port of 127.0.0.1 without a listener.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

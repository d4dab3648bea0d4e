//! Log records hold no secret at any level if the filter for ureq's records is used.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use common::pulls::quick;
use oci_puller::credentials::Credential;
use oci_puller::log_filter;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target, TokenServer};

/// Keeps all records, those that the filter refuses apart.
struct Keep {
    allowed: Mutex<String>,
    refused: Mutex<String>,
}

static LOG: Keep = Keep { allowed: Mutex::new(String::new()), refused: Mutex::new(String::new()) };

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let kept = if log_filter(record.metadata()) { &self.allowed } else { &self.refused };
        kept.lock().unwrap().push_str(&format!("{}: {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[test]
fn trace_logs_hold_no_secret() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let image = ImageBuilder::new("library/app").layer(50_000).build();
    let (registry, cdn, proxy) =
        (Registry::start().unwrap(), Registry::start().unwrap(), "http://ann:marker-proxy@127.0.0.1:1");
    let name = registry.push(&image, "v1");
    let tokens = TokenServer::new().user("ann", "marker-password");
    registry.require_token(&tokens);
    cdn.put_file("/cdn", image.layers()[0].data.clone());
    let layer = Fault::on(Target::Blob).path_containing(image.layers()[0].digest.as_str());
    registry.fault(layer.with(Action::Redirect(format!("{}/cdn?signature=marker-signature", cdn.url()))));
    registry.fault(Fault::on(Target::Manifest).times(1).with(Action::Status(503)));
    let dir = tempfile::tempdir().unwrap();
    let credential = Credential::basic("ann", "marker-password");
    let service = || quick(dir.path()).credential(registry.host(), credential.clone());
    service().build().unwrap().pull(&*name).unwrap();
    service().proxy(proxy).build().unwrap().pull(&*name).unwrap_err();

    let token = tokens.issued()[0].token.clone();
    let allowed = LOG.allowed.lock().unwrap().to_lowercase();
    let secrets = [
        "marker-password",
        "marker-signature",
        "marker-proxy",
        // `ann:marker-password` and `ann:marker-proxy` in base64.
        "yw5uom1hcmtlci1wyxnzd29yza",
        "yw5uom1hcmtlci1wcm94eq",
        &*token.to_lowercase(),
    ];
    for secret in secrets {
        assert!(!allowed.contains(secret), "{secret} is in the log:\n{allowed}");
    }
    assert!(allowed.contains("oci_puller"), "something is logged:\n{allowed}");
    // Else the filter would have nothing to do.
    assert!(LOG.refused.lock().unwrap().contains("ureq_proto"), "ureq logs what it sends");
}

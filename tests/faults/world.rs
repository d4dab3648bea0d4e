//! Registries, one of which has a trouble, and a service that pulls from them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::{Receiver, Sender, bounded};
use oci_puller::credentials::Credential;
use oci_puller::image::Digest;
use oci_puller::registry::Resolver;
use oci_puller::store::Durability;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Fault, Registry, SeenRequest, Target, TokenServer};
use oci_puller::{Error, ImageService, Phase, PullContext, PulledImage, RegistryImageService};

use super::common::pulls::free_port;
use super::table::{Thing, Trouble};
use super::tls::{PrivateCa, ServerCertificate, TlsAcceptor};

/// How often the service tries.
pub(crate) const TRIES: usize = 3;

/// A name that is looked up for ever.
pub(crate) const SLOW_NAME: &str = "slow.test";

/// Where the trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    AlwaysAtTheOnlyHost,
    OnceAtTheOnlyHost,
    AlwaysAtTheMirror,
}

static CA: LazyLock<PrivateCa> = LazyLock::new(PrivateCa::new);
static GOOD: LazyLock<TlsAcceptor> = LazyLock::new(|| CA.acceptor(ServerCertificate::Good));

pub(crate) struct World {
    thing: Thing,
    image: Image,
    reference: String,
    origin: Registry,
    mirror: Option<Registry>,
    elsewhere: Option<Registry>,
    service: RegistryImageService,
    dir: tempfile::TempDir,
    /// Ends what is still looked up, when dropped.
    _name_server: Sender<()>,
}

/// Looks one name up for as long as the world stands, and no other at all.
struct SlowResolver(Receiver<()>);

impl Resolver for SlowResolver {
    fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let _ = self.0.recv();
        Err(io::ErrorKind::NotFound.into())
    }
}

impl World {
    pub(crate) fn new(trouble: Trouble, thing: Thing, setting: Setting) -> Self {
        let image = ImageBuilder::new("library/app").layer(20_000).build();
        let (origin, origin_tokens) = registry(&image, "origin");
        let reference = format!("{}/library/app:v1", origin.host());
        let mirrored = (setting == Setting::AlwaysAtTheMirror).then(|| registry(&image, "mirror"));
        let (troubled, tokens) = match &mirrored {
            Some((mirror, tokens)) => (mirror, tokens),
            None => (&origin, &origin_tokens),
        };

        let (elsewhere, url) = elsewhere(trouble, thing, &image, tokens);
        let mut fault = at(thing, &image);
        if setting == Setting::OnceAtTheOnlyHost {
            fault = fault.times(1);
        }
        troubled.fault(trouble.actions(&url).into_iter().fold(fault, Fault::with));

        let mirror = mirrored.map(|(mirror, _)| mirror);
        let dir = tempfile::tempdir().unwrap();
        let (name_server, slow) = bounded(0);
        let service = service(dir.path(), &origin, mirror.as_ref(), SlowResolver(slow));
        World { thing, image, reference, origin, mirror, elsewhere, service, dir, _name_server: name_server }
    }

    pub(crate) fn pull(&self) -> Result<PulledImage, Error> {
        self.service.pull(&*self.reference)
    }

    /// Takes the trouble away, and what was pulled.
    pub(crate) fn heal(&self) {
        self.origin.clear_faults();
        self.mirror.iter().for_each(Registry::clear_faults);
    }

    /// How often the host with the trouble was asked for the thing; without the one question that
    /// tells how the host wants to be asked.
    pub(crate) fn requests_for_the_thing(&self) -> usize {
        let asked = self.mirror.as_ref().unwrap_or(&self.origin).requests();
        match self.thing {
            Thing::Manifest => asked
                .iter()
                .filter(|request| {
                    request.target == Target::Manifest && request.header("authorization").is_some()
                })
                .count(),
            Thing::Token => asked.iter().filter(|request| request.target == Target::Token).count(),
            Thing::Config => blob_requests(&asked, self.image.config_digest()),
            Thing::Layer => blob_requests(&asked, &self.image.layers()[0].digest),
        }
    }

    /// An error tells what was asked for, at which host, and each attempt.
    pub(crate) fn faults_of_error(&self, error: &Error) -> Vec<String> {
        let phase = match self.thing {
            Thing::Manifest => Phase::Manifest,
            Thing::Token => Phase::Token,
            Thing::Config => Phase::Config,
            Thing::Layer => Phase::Layer,
        };
        let mut faults = Vec::new();
        if error.phase() != Some(phase) {
            faults.push(format!("the phase is {:?}: {error}", error.phase()));
        }
        if error.host().is_none() || error.image() != Some(&self.reference) {
            faults.push(format!("host or image is not named: {error}"));
        }
        if error.attempts().is_empty() {
            faults.push(format!("no attempt is told: {error}"));
        }
        let told = format!("{error} {error:?}");
        if SECRETS.iter().any(|(_, secret)| told.contains(secret)) {
            faults.push(format!("a secret is told: {told}"));
        }
        faults
    }

    /// What a host saw that is another's business.
    pub(crate) fn secrets_that_went_astray(&self) -> Vec<String> {
        let hosts = [("origin", Some(&self.origin)), ("mirror", self.mirror.as_ref())];
        let hosts = hosts.into_iter().chain([("elsewhere", self.elsewhere.as_ref())]);
        let mut faults = Vec::new();
        for (name, registry) in hosts {
            let seen = registry.map(Registry::requests).unwrap_or_default();
            for (owner, secret) in SECRETS.iter().filter(|(owner, _)| *owner != name) {
                if seen.iter().any(|request| text_of(request).contains(secret)) {
                    faults.push(format!("{name} saw {secret}, which is for {owner}"));
                }
            }
        }
        faults
    }

    /// Blobs that do not hash to their names.
    pub(crate) fn wrong_bytes(&self) -> Vec<String> {
        let blobs = self.dir.path().join("store/blobs/sha256");
        let Ok(blobs) = std::fs::read_dir(blobs) else { return Vec::new() };
        let blobs = blobs.map(|entry| entry.unwrap());
        let wrong = blobs.filter(|entry| {
            let hex = Digest::sha256(&std::fs::read(entry.path()).unwrap()).hex().to_owned();
            entry.file_name().to_str() != Some(&*hex)
        });
        wrong.map(|entry| format!("wrong bytes in {:?}", entry.file_name())).collect()
    }

    pub(crate) fn is_stored(&self) -> bool {
        let image = self.reference.as_str().into();
        self.service.image_ref(&PullContext::new(), &image).unwrap().is_some()
    }
}

/// Whose they are, and what they are: passwords, tokens and headers.
const SECRETS: [(&str, &str); 6] = [
    ("origin", "origin-password"),
    ("origin", "origin-token"),
    ("origin", "origin-header"),
    ("mirror", "mirror-password"),
    ("mirror", "mirror-token"),
    ("mirror", "mirror-header"),
];

/// All that a request shows, with what Basic authentication hides.
fn text_of(request: &SeenRequest) -> String {
    let mut text = format!("{} {}", request.path, request.query);
    text.push_str(&String::from_utf8_lossy(&request.body));
    for (_, value) in &request.headers {
        text.push_str(value);
        if let Some(decoded) = value.strip_prefix("Basic ").and_then(|it| BASE64_STANDARD.decode(it).ok()) {
            text.push_str(&String::from_utf8_lossy(&decoded));
        }
    }
    text
}

fn blob_requests(asked: &[SeenRequest], digest: &Digest) -> usize {
    asked.iter().filter(|request| request.path.ends_with(digest.as_str())).count()
}

/// A registry that has the image, and gives it to one user.
fn registry(image: &Image, name: &str) -> (Registry, TokenServer) {
    let registry = Registry::builder().acceptor(GOOD.clone()).start().unwrap();
    registry.push(image, "v1");
    let tokens = TokenServer::new().service(name).user(format!("{name}-user"), format!("{name}-password"));
    registry.require_token(&tokens);
    (registry, tokens)
}

fn at(thing: Thing, image: &Image) -> Fault {
    match thing {
        Thing::Manifest => Fault::on(Target::Manifest),
        Thing::Token => Fault::on(Target::Token),
        Thing::Config => Fault::on(Target::Blob).path_containing(image.config_digest().as_str()),
        Thing::Layer => Fault::on(Target::Blob).path_containing(image.layers()[0].digest.as_str()),
    }
}

/// The other host that a trouble leads to, if it is one, and its URL.
fn elsewhere(
    trouble: Trouble,
    thing: Thing,
    image: &Image,
    tokens: &TokenServer,
) -> (Option<Registry>, String) {
    let builder = match trouble {
        Trouble::Refused => return (None, format!("https://127.0.0.1:{}", free_port())),
        Trouble::RedirectToPlainHttp => Registry::builder(),
        Trouble::RedirectElsewhere => Registry::builder().acceptor(GOOD.clone()),
        Trouble::CertificateExpired => Registry::builder().acceptor(CA.acceptor(ServerCertificate::Expired)),
        Trouble::CertificateSelfSigned => {
            Registry::builder().acceptor(CA.acceptor(ServerCertificate::SelfSigned))
        }
        Trouble::CertificateForAnotherName => {
            Registry::builder().acceptor(CA.acceptor(ServerCertificate::WrongName))
        }
        _ => return (None, String::new()),
    };
    let elsewhere = builder.start().unwrap();
    elsewhere.push(image, "v1");
    if thing == Thing::Token {
        elsewhere.require_token(&tokens.clone().anonymous());
    }
    let url = elsewhere.url();
    (Some(elsewhere), url)
}

fn service(
    dir: &Path,
    origin: &Registry,
    mirror: Option<&Registry>,
    resolver: SlowResolver,
) -> RegistryImageService {
    let mut hosts = format!("server = '{}'\n[header]\nx-own = 'origin-header'\n", origin.url());
    if let Some(mirror) = mirror {
        let url = mirror.url();
        hosts.push_str(&format!("[host.'{url}']\n[host.'{url}'.header]\nx-own = 'mirror-header'\n"));
    }
    let folder = dir.join("hosts").join(origin.host().replace(':', "_") + "_");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();

    let mut builder = RegistryImageService::builder(dir.join("store"))
        .durability(Durability::Relaxed)
        .hosts_dir(dir.join("hosts"))
        .ca_certificate(CA.pem())
        .no_proxy()
        .resolver(Arc::new(resolver))
        .tries(TRIES as u32)
        .retry_delay(Duration::from_millis(1), Duration::from_millis(2))
        .max_retry_after(Duration::from_millis(50))
        .connect_timeout(Duration::from_millis(1500))
        .silence_timeout(Duration::from_millis(1500))
        .slowest(10_000, Duration::from_millis(1500));
    for (name, registry) in [("origin", Some(origin)), ("mirror", mirror)] {
        if let Some(registry) = registry {
            let credential = Credential::basic(format!("{name}-user"), format!("{name}-password"));
            builder = builder.tls(registry.host()).credential(registry.host(), credential);
        }
    }
    builder.build().unwrap()
}

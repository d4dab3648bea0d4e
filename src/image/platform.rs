//! Platforms, and how well an image for one runs on another.
//!
//! Text form, normalisation and order of preference follow
//! [containerd/platforms](https://github.com/containerd/platforms).

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};
use crate::image::quoted::quoted;

/// The platform that an image was built for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Platform {
    /// Operating system, as Go names it: `linux`.
    pub os: String,
    /// Architecture, as Go names it: `amd64`.
    pub architecture: String,
    /// Variant of the architecture: `v7`.
    pub variant: Option<String>,
    /// Version of the operating system; Windows only.
    pub os_version: Option<String>,
    /// Features that the image needs of the operating system; Windows only.
    pub os_features: Vec<String>,
}

/// How well an image for one platform runs on another; the smallest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Preference {
    /// The place in the order of the platforms that fit.
    place: usize,
    /// More of the wanted features are better.
    features: Reverse<usize>,
}

impl Platform {
    /// Creates a platform from `os` and `architecture`, unchanged.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Platform { os: os.into(), architecture: architecture.into(), ..Platform::default() }
    }

    /// Sets the variant of the architecture.
    #[must_use]
    pub fn with_variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = Some(variant.into());
        self
    }

    /// Sets the version of the operating system.
    #[must_use]
    pub fn with_os_version(mut self, version: impl Into<String>) -> Self {
        self.os_version = Some(version.into());
        self
    }

    /// Sets the features that the image needs of the operating system.
    #[must_use]
    pub fn with_os_features<T: Into<String>>(mut self, features: impl IntoIterator<Item = T>) -> Self {
        self.os_features = features.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the platform that this program was built for.
    ///
    /// The compiler does not know the variant of 32-bit arm: such a machine counts as `v7`, as in
    /// containerd's normalisation. On an older one, use `linux/arm/v6` instead.
    pub fn host() -> Self {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            os => os,
        };
        let little = cfg!(target_endian = "little");
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if little => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            "mips" if little => "mipsle",
            "mips64" if little => "mips64le",
            "wasm32" => "wasm",
            architecture => architecture,
        };
        Platform::new(os, architecture)
    }

    /// Parses `OS[/ARCHITECTURE[/VARIANT]]`, or `ARCHITECTURE` alone; omitted parts are this machine's.
    /// Other common names are accepted: `x86_64`, `aarch64`, `armhf`. Version and features of the operating
    /// system may follow it in parentheses: `windows(10.0.17763+win32k)/amd64`.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig), with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        read(text).map_err(|why| {
            let message = format!("{}: {why}; a platform looks like linux/arm64/v8", quoted(text));
            Error::new(ErrorKind::InvalidConfig, message)
        })
    }

    /// Returns the same platform in its usual names: `linux/aarch64/v8` is `linux/arm64`, and `linux/arm`
    /// is `linux/arm/v7`.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let (architecture, variant) =
            normalize_architecture(&self.architecture, self.variant.as_deref().unwrap_or_default());
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Platform {
            os: normalize_os(&self.os),
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features,
        }
    }

    /// Returns how well an image for `candidate` runs on this platform; `None` if it does not. The smallest
    /// is the best.
    ///
    /// The order is that of containerd's `platforms.Only`: the platform itself, then the older variants of
    /// its architecture, then the 32-bit one: `386` on `amd64`, `arm/v8` to `arm/v5` on `arm64`. An image
    /// must not need features that this platform does not name. Of Windows versions, the first three
    /// numbers must be equal where both are known.
    pub fn preference(&self, candidate: &Platform) -> Option<Preference> {
        Served::by(self).preference(candidate)
    }
}

/// The platforms whose images run on one platform, the best first.
pub(super) struct Served {
    platform: Platform,
    /// Architecture and variant.
    order: Vec<(&'static str, Option<String>)>,
}

impl Served {
    pub(super) fn by(platform: &Platform) -> Self {
        let platform = platform.normalized();
        let order = compatible(&platform.architecture, platform.variant.as_deref());
        Served { platform, order }
    }

    pub(super) fn preference(&self, candidate: &Platform) -> Option<Preference> {
        let candidate = candidate.normalized();
        let wanted = &self.platform;
        let fits = candidate.os == wanted.os
            && self.takes_version(&candidate)
            && candidate.os_features.iter().all(|feature| wanted.os_features.contains(feature));
        let place = if !fits {
            None
        } else if (&candidate.architecture, &candidate.variant) == (&wanted.architecture, &wanted.variant) {
            Some(0)
        } else {
            let is_candidate = |(architecture, variant): &(&str, Option<String>)| {
                *architecture == candidate.architecture && *variant == candidate.variant
            };
            self.order.iter().position(is_candidate).map(|place| place + 1)
        };
        place.map(|place| Preference { place, features: Reverse(candidate.os_features.len()) })
    }

    fn takes_version(&self, candidate: &Platform) -> bool {
        let build = |version: &str| version.splitn(4, '.').take(3).map(str::to_owned).collect::<Vec<_>>();
        match (&self.platform.os_version, &candidate.os_version) {
            (Some(wanted), Some(offered)) if self.platform.os == "windows" => build(wanted) == build(offered),
            _ => true,
        }
    }
}

/// Returns what runs on `architecture` and `variant`, both normalised, the best first, without themselves.
fn compatible(architecture: &str, variant: Option<&str>) -> Vec<(&'static str, Option<String>)> {
    match architecture {
        "amd64" => {
            let older = (1..version(variant).unwrap_or(1)).rev().map(|version| ("amd64", version));
            let mut order: Vec<_> = older.map(|(it, version)| normal(it, &format!("v{version}"))).collect();
            order.push(("386", None));
            order
        }
        "arm" => older_arm(version(variant).unwrap_or_default()),
        "arm64" => {
            let (major, minor) = arm64_version(variant.unwrap_or("v8"));
            let mut order = older_arm64(major, minor);
            if major == 8 || major == 9 {
                order.push(("arm", Some("v8".to_owned())));
                order.extend(older_arm(8));
            }
            order
        }
        _ => Vec::new(),
    }
}

/// Returns `arm` below `version` down to v5, the oldest that images are built for.
fn older_arm(version: u8) -> Vec<(&'static str, Option<String>)> {
    (5..version).rev().map(|version| ("arm", Some(format!("v{version}")))).collect()
}

/// Returns the older versions: v9.x includes v9.(x-1) and v8.(x+5).
fn older_arm64(major: u8, minor: u8) -> Vec<(&'static str, Option<String>)> {
    let down_from =
        |major: u8, end: u8| (0..end).rev().map(move |minor| normal("arm64", &format!("v{major}.{minor}")));
    match major {
        8 => down_from(8, minor).collect(),
        9 => down_from(9, minor).chain(down_from(8, minor.saturating_add(6))).collect(),
        _ => Vec::new(),
    }
}

fn normal(architecture: &'static str, variant: &str) -> (&'static str, Option<String>) {
    (architecture, normalize_architecture(architecture, variant).1)
}

/// Parses the number in `v3`.
fn version(variant: Option<&str>) -> Option<u8> {
    variant.and_then(|variant| variant.strip_prefix('v').unwrap_or(variant).parse().ok())
}

/// Parses the numbers in `v8.1`; zero for a part that is none.
fn arm64_version(variant: &str) -> (u8, u8) {
    let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
    (version(Some(major)).unwrap_or_default(), minor.parse().unwrap_or_default())
}

fn normalize_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => Platform::host().os,
        "macos" => "darwin".to_owned(),
        os => os.to_owned(),
    }
}

fn normalize_architecture(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), (!variant.is_empty()).then(|| variant.to_owned()))
}

fn read(text: &str) -> Result<Platform, &'static str> {
    let mut parts = text.split('/');
    let (first, architecture, variant) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if parts.next().is_some() {
        return Err("more than three parts");
    }
    let system = read_system(first)?;
    if ![architecture, variant].into_iter().flatten().all(is_specifier) {
        return Err("architecture and variant are letters, digits, _ . and -");
    }
    let Some(architecture) = architecture else { return complete(system, first) };
    let typed = variant.is_some();
    let (architecture, variant) = normalize_architecture(architecture, variant.unwrap_or_default());
    Ok(Platform { variant: shown(&architecture, variant, typed), architecture, ..system })
}

/// Hides the usual variant unless it was typed.
fn shown(architecture: &str, variant: Option<String>, typed: bool) -> Option<String> {
    match (architecture, variant.as_deref(), typed) {
        ("arm", Some("v7"), false) => None,
        ("arm64", None, true) => Some("v8".to_owned()),
        _ => variant,
    }
}

/// Completes a platform of one part: a known operating system, or else a known architecture.
fn complete(system: Platform, first: &str) -> Result<Platform, &'static str> {
    if KNOWN_SYSTEMS.contains(&system.os.as_str()) {
        let host = Platform::host();
        return Ok(Platform { architecture: host.architecture, variant: host.variant, ..system });
    }
    let (architecture, variant) = normalize_architecture(first, "");
    if !KNOWN_ARCHITECTURES.contains(&architecture.as_str()) {
        return Err("neither an operating system nor an architecture that is known");
    }
    Ok(Platform {
        os: Platform::host().os,
        variant: shown(&architecture, variant, false),
        ..Platform::new("", architecture)
    })
}

/// `os ['(' [version] ('+' feature)* ')']`
fn read_system(text: &str) -> Result<Platform, &'static str> {
    let (os, options) = match text.split_once('(') {
        None => (text, ""),
        Some((os, options)) => (os, options.strip_suffix(')').ok_or("the parenthesis is not closed")?),
    };
    if os.is_empty() || !os.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return Err("the operating system is letters, digits, _ and -");
    }
    let mut options = options.split('+');
    let version = options.next().map(read_option).transpose()?.filter(|version| !version.is_empty());
    let features = options.map(read_option).collect::<Result<Vec<_>, _>>()?;
    if features.iter().any(String::is_empty) {
        return Err("a feature has no name");
    }
    Ok(Platform { os: normalize_os(os), os_version: version, os_features: features, ..Platform::default() })
}

fn is_specifier(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

const ESCAPED: [char; 5] = ['%', '+', '(', ')', '/'];

/// Parses a version or a feature, in which characters with a meaning are written as `%2F`.
fn read_option(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "version and features are letters, digits, _ . - and %2F for other characters";
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (hex, rest) = piece.split_at_checked(2).ok_or(WRONG)?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| WRONG)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let is_plain = text.split('%').all(|piece| piece.is_empty() || is_specifier(piece));
    if is_plain { String::from_utf8(bytes).map_err(|_| WRONG) } else { Err(WRONG) }
}

fn write_option(f: &mut fmt::Formatter<'_>, option: &str) -> fmt::Result {
    option.chars().try_for_each(|character| match ESCAPED.contains(&character) {
        true => write!(f, "%{:02X}", u32::from(character)),
        false => write!(f, "{character}"),
    })
}

/// `linux/arm/v7`, with version and features where there are any: `windows(10.0.17763)/amd64`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if self.os_version.is_some() || !self.os_features.is_empty() {
            f.write_str("(")?;
            write_option(f, self.os_version.as_deref().unwrap_or_default())?;
            for feature in &self.os_features {
                f.write_str("+")?;
                write_option(f, feature)?;
            }
            f.write_str(")")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Platform::parse(text)
    }
}

/// Go's names of operating systems and architectures.
const KNOWN_SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const KNOWN_ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

//! Kubelet's [exec credential providers](https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/):
//! programs that a `CredentialProviderConfig` names for image patterns, asked by the v1 protocol, whose answers
//! are kept as long as they say. So cloud nodes get the credentials of their registries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use super::process::{Invocation, failed};
use super::runner::{Helpers, check_name};
use crate::context::PullContext;
use crate::credentials::credential::{Credential, Secret};
use crate::credentials::keyring::Keyring;
use crate::credentials::query::CredentialQuery;
use crate::credentials::{config_file, go_duration};
use crate::error::{Error, ErrorKind};

/// The version of the file.
const CONFIG_VERSION: &str = "kubelet.config.k8s.io/v1";
/// The version of the protocol.
const EXEC_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";
/// Bytes of a configuration.
const MAX_CONFIG: u64 = 1 << 20;
/// How long a plugin may take, as in kubelet.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Answers that are kept for a plugin.
const MAX_KEPT: usize = 1024;

/// The credentials that a plugin has for an image.
type PluginAnswer = Result<Vec<Credential>, Error>;

/// The plugins of a configuration.
#[derive(Debug)]
pub(crate) struct ProviderPlugins(Vec<Plugin>);

#[derive(Debug)]
struct Plugin {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Which images it is asked for: a keyring whose credentials stand for "yes".
    images: Keyring,
    default_duration: Duration,
    kept: Mutex<BTreeMap<String, Kept>>,
}

/// An answer, and when it ends.
#[derive(Debug)]
struct Kept {
    keyring: Keyring,
    until: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    api_version: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PluginResponse {
    api_version: String,
    kind: String,
    cache_key_type: CacheKey,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Login>,
}

/// What an answer holds for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Deserialize)]
struct Login {
    username: Secret,
    password: Secret,
}

impl ProviderPlugins {
    /// Reads a configuration in JSON, or in YAML with the feature `yaml`; the programs are in `bin_dir`.
    ///
    /// # Errors
    /// `InvalidConfig` for a file that cannot be read or is not valid; it names file and provider.
    pub(crate) fn read(path: &Path, bin_dir: &Path) -> Result<Self, Error> {
        let invalid =
            |text: String| Error::new(ErrorKind::InvalidConfig, format!("{}: {text}", path.display()));
        let bytes = config_file::read(path, MAX_CONFIG).map_err(|error| invalid(error.to_string()))?;
        let config: PluginConfig = match bytes.trim_ascii_start() {
            json @ [b'{', ..] => serde_json::from_slice(json).map_err(|error| error.to_string()),
            other => from_yaml(other),
        }
        .map_err(invalid)?;
        if (config.api_version.as_str(), config.kind.as_str()) != (CONFIG_VERSION, "CredentialProviderConfig")
        {
            return Err(invalid(format!("a CredentialProviderConfig of {CONFIG_VERSION} is wanted")));
        }
        let plugin = |provider: Provider| {
            let name = provider.name.clone();
            Plugin::new(provider, bin_dir).map_err(|text| invalid(format!("provider {name:?}: {text}")))
        };
        config.providers.into_iter().map(plugin).collect::<Result<_, _>>().map(ProviderPlugins)
    }

    /// Asks each plugin that is meant for the image. Returns each one's name and answer.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` when the context ended.
    pub(crate) fn credentials(
        &self,
        cx: &PullContext,
        helpers: &Helpers,
        query: &CredentialQuery<'_>,
    ) -> Result<Vec<(&str, PluginAnswer)>, Error> {
        let mut answers = Vec::new();
        for plugin in &self.0 {
            if plugin.images.lookup_query(query).is_empty() {
                continue;
            }
            let answer = plugin.credentials(cx, helpers, query);
            if answer.is_err() {
                cx.check()?;
            }
            answers.push((plugin.name.as_str(), answer));
        }
        Ok(answers)
    }
}

#[cfg(feature = "yaml")]
fn from_yaml(bytes: &[u8]) -> Result<PluginConfig, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    serde_json::from_value(crate::credentials::yaml::value(text)?).map_err(|error| error.to_string())
}

#[cfg(not(feature = "yaml"))]
fn from_yaml(_: &[u8]) -> Result<PluginConfig, String> {
    Err("it is no JSON; for YAML, build with the feature `yaml`, or convert it with `yq -o json`".to_owned())
}

impl Plugin {
    fn new(provider: Provider, bin_dir: &Path) -> Result<Self, String> {
        let Provider { name, api_version, match_images, default_cache_duration, args, env } = provider;
        // The name becomes a path.
        check_name(&name).map_err(|error| error.message().to_owned())?;
        if matches!(name.as_str(), "." | "..") {
            return Err("it is no name of a program".to_owned());
        }
        if api_version != EXEC_VERSION {
            return Err(format!("the protocol {api_version:?} is not supported, only {EXEC_VERSION}"));
        }
        if match_images.is_empty() {
            return Err("matchImages is empty".to_owned());
        }
        let mut images = Keyring::default();
        for pattern in &match_images {
            if !images.add(pattern, Credential::basic("", "")) {
                return Err(format!("the pattern {pattern:?} has no host"));
            }
        }
        let default_duration = go_duration::parse(&default_cache_duration)
            .ok_or_else(|| format!("defaultCacheDuration {default_cache_duration:?} is no duration"))?;
        let env = env.into_iter().map(|variable| (variable.name, variable.value)).collect();
        let program = bin_dir.join(&name);
        Ok(Plugin { name, program, args, env, images, default_duration, kept: Mutex::default() })
    }

    fn credentials(&self, cx: &PullContext, helpers: &Helpers, query: &CredentialQuery<'_>) -> PluginAnswer {
        let image = format!("{}/{}", query.domain(), query.repository());
        let keys = [&image, query.domain(), ""];
        if let Some(found) = self.kept_for(&keys, query) {
            return Ok(found);
        }
        let request = serde_json::json!({
            "apiVersion": EXEC_VERSION, "kind": "CredentialProviderRequest", "image": image,
        });
        let invocation = Invocation {
            program: self.program.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            input: request.to_string(),
        };
        let printed = helpers.run(cx, &self.name, invocation, TIMEOUT)?;
        if !printed.status.success() {
            return Err(failed(ErrorKind::Protocol, &self.name, &printed.status.to_string()));
        }
        // Not serde's own message: it quotes what it finds.
        let broken =
            || failed(ErrorKind::Protocol, &self.name, "its answer is not what the protocol asks for");
        let response: PluginResponse =
            serde_json::from_slice(printed.text(&self.name)?).map_err(|_| broken())?;
        if (response.api_version.as_str(), response.kind.as_str())
            != (EXEC_VERSION, "CredentialProviderResponse")
        {
            return Err(broken());
        }
        let duration = match &response.cache_duration {
            Some(text) => go_duration::parse(text).ok_or_else(broken)?,
            None => self.default_duration,
        };
        let mut keyring = Keyring::default();
        for (key, login) in response.auth {
            keyring.add(&key, Credential::basic(login.username.expose(), login.password.expose()));
        }
        let found = keyring.lookup_query(query);
        let key = match response.cache_key_type {
            CacheKey::Image => image.as_str(),
            CacheKey::Registry => query.domain(),
            CacheKey::Global => "",
        };
        self.keep(key, keyring, duration);
        Ok(found)
    }

    /// Returns what an answer that still holds has for the image.
    fn kept_for(&self, keys: &[&str], query: &CredentialQuery<'_>) -> Option<Vec<Credential>> {
        let kept = self.kept.lock();
        let now = Instant::now();
        let valid = keys.iter().filter_map(|key| kept.get(*key)).find(|kept| kept.until > now)?;
        Some(valid.keyring.lookup_query(query))
    }

    fn keep(&self, key: &str, keyring: Keyring, duration: Duration) {
        let Some(until) = Instant::now().checked_add(duration).filter(|_| !duration.is_zero()) else {
            return;
        };
        let mut kept = self.kept.lock();
        let now = Instant::now();
        kept.retain(|_, kept| kept.until > now);
        if kept.len() < MAX_KEPT {
            kept.insert(key.to_owned(), Kept { keyring, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::credentials::helper::tests::install;

    /// A configuration of one plugin, a script that counts its runs.
    fn plugins(script: &str, default: &str) -> (TempDir, ProviderPlugins) {
        let dir = TempDir::new().unwrap();
        install(&dir.path().join("cloud"), &format!("echo x >> {}/runs\n{script}", dir.path().display()));
        let config = json!({
            "apiVersion": CONFIG_VERSION, "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "cloud", "apiVersion": EXEC_VERSION, "matchImages": ["*.cloud.io", "r.io/team"],
                "defaultCacheDuration": default, "args": ["--now"], "env": [{ "name": "REGION", "value": "north" }],
            }],
        });
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let plugins = ProviderPlugins::read(&dir.path().join("config.json"), dir.path()).unwrap();
        (dir, plugins)
    }

    fn response(key: &str, duration: serde_json::Value) -> String {
        json!({
            "apiVersion": EXEC_VERSION, "kind": "CredentialProviderResponse", "cacheKeyType": key,
            "cacheDuration": duration, "auth": { "*.cloud.io": { "username": "u", "password": "p" } },
        })
        .to_string()
    }

    fn ask(plugins: &ProviderPlugins, domain: &str, repository: &str) -> Option<PluginAnswer> {
        let query = CredentialQuery::new(domain, repository);
        let answers = plugins.credentials(&PullContext::new(), &Helpers::default(), &query).unwrap();
        answers.into_iter().next().map(|(_, answer)| answer)
    }

    fn runs(dir: &TempDir) -> usize {
        fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_plugin_is_asked_for_the_images_that_it_matches_with_arguments_and_variables() {
        let script = r#"read request; echo "$request" > "$(dirname "$0")/request"; echo "$1 $REGION" > "$(dirname "$0")/given"; "#;
        let (dir, plugins) = plugins(&format!("{script} echo '{}'", response("Image", json!(null))), "1h");
        assert!(ask(&plugins, "r.io", "other/app").is_none());
        let found = ask(&plugins, "eu.cloud.io", "team/app").unwrap().unwrap();
        assert_eq!(found, [Credential::basic("u", "p")]);
        let request: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("request")).unwrap()).unwrap();
        assert_eq!(request["image"], "eu.cloud.io/team/app");
        assert_eq!(fs::read_to_string(dir.path().join("given")).unwrap(), "--now north\n");
        // Its keys are patterns: what they do not match gets nothing.
        assert_eq!(ask(&plugins, "r.io", "team/app").unwrap().unwrap(), []);
    }

    #[test]
    fn answers_are_kept_for_image_registry_or_all_and_as_long_as_they_say() {
        for (key, duration, asked) in [
            ("Image", json!("1h"), [1, 2, 3]),
            ("Registry", json!("1h"), [1, 1, 2]),
            ("Global", json!("1h"), [1, 1, 1]),
            ("Global", json!(null), [1, 1, 1]),
            ("Global", json!("0s"), [1, 2, 3]),
        ] {
            let (dir, plugins) =
                plugins(&format!("cat > /dev/null; echo '{}'", response(key, duration)), "12h");
            for ((domain, repository), expected) in
                [("a.cloud.io", "one"), ("a.cloud.io", "two"), ("b.cloud.io", "one")].into_iter().zip(asked)
            {
                assert_eq!(
                    ask(&plugins, domain, repository).unwrap().unwrap(),
                    [Credential::basic("u", "p")]
                );
                assert_eq!(runs(&dir), expected, "{key} {domain}/{repository}");
            }
        }
    }

    #[test]
    fn broken_answers_are_protocol_errors_without_their_text() {
        let old = response("Image", json!("1h")).replace("/v1", "/v1beta1");
        for script in ["echo marker", "exit 3", "echo '{}'", &format!("echo '{old}'"), "yes marker"] {
            let (_dir, plugins) = plugins(script, "1h");
            let error = ask(&plugins, "a.cloud.io", "app").unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{script}");
            assert!(!format!("{error:?}").contains("marker"), "{error:?}");
        }
    }

    #[test]
    fn invalid_configurations_are_refused_with_file_and_cause() {
        let dir = TempDir::new().unwrap();
        let provider = json!({
            "name": "cloud", "apiVersion": EXEC_VERSION, "matchImages": ["r.io"], "defaultCacheDuration": "1h",
        });
        let with = |field: &str, value: serde_json::Value| {
            let mut provider = provider.clone();
            provider[field] = value;
            json!({ "apiVersion": CONFIG_VERSION, "kind": "CredentialProviderConfig", "providers": [provider] })
        };
        for (config, part) in [
            (
                json!({ "apiVersion": "v0", "kind": "CredentialProviderConfig", "providers": [] }),
                CONFIG_VERSION,
            ),
            (with("name", json!("../sh")), "\"../sh\""),
            (with("name", json!("..")), "no name of a program"),
            (with("apiVersion", json!("credentialprovider.kubelet.k8s.io/v1alpha1")), "v1alpha1"),
            (with("matchImages", json!([])), "matchImages is empty"),
            (with("matchImages", json!(["/app"])), "no host"),
            (with("defaultCacheDuration", json!("soon")), "no duration"),
            (with("tokenAttributes", json!({})), "tokenAttributes"),
        ] {
            let path = dir.path().join("config.json");
            fs::write(&path, config.to_string()).unwrap();
            let error = ProviderPlugins::read(&path, dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().contains(part) && error.message().contains("config.json"), "{error}");
        }
        assert!(ProviderPlugins::read(dir.path(), dir.path()).is_err());
    }

    const YAML: &str = "
# As the documentation of kubelet writes it.
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: cloud
    matchImages:
      - \"*.cloud.io\"
      - 'registry.io:8080/path'
    defaultCacheDuration: \"12h\"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - --now
    env:
      - name: REGION
        value: north
  - {name: other, matchImages: [r.io], defaultCacheDuration: 0s, apiVersion: credentialprovider.kubelet.k8s.io/v1, env: }
";

    #[cfg(feature = "yaml")]
    #[test]
    fn a_configuration_in_yaml_is_read_as_one_in_json() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, YAML).unwrap();
        let ProviderPlugins(plugins) = ProviderPlugins::read(&path, dir.path()).unwrap();
        let [cloud, other] = &plugins[..] else { panic!("{plugins:?}") };
        assert_eq!(cloud.program, dir.path().join("cloud"));
        assert_eq!(cloud.args, ["--now"]);
        assert_eq!(cloud.env, [("REGION".to_owned(), "north".to_owned())]);
        assert_eq!(cloud.default_duration, Duration::from_secs(12 * 3600));
        assert_eq!((other.name.as_str(), other.args.len(), other.env.len()), ("other", 0, 0));
        for (from, to, part) in [
            ("north", "north\n        extra: 1", "unknown field `extra`"),
            ("kind:", "kind: x\nkind:", "for the second time"),
            ("12h", "soon", "no duration"),
            ("v1\n", "v2\n", CONFIG_VERSION),
        ] {
            fs::write(&path, YAML.replacen(from, to, 1)).unwrap();
            let error = ProviderPlugins::read(&path, dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.message().contains(part) && error.message().contains("config.yaml"), "{error}");
        }
    }

    #[cfg(not(feature = "yaml"))]
    #[test]
    fn a_configuration_in_yaml_names_the_feature_that_reads_it() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, YAML).unwrap();
        let error = ProviderPlugins::read(&path, dir.path()).unwrap_err();
        assert!(error.message().contains("feature `yaml`"), "{error}");
    }
}

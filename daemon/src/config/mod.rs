//! Configuration: defaults < profile < file < `MCP_*` < flags. Every value remembers where it came from.

mod agreements;
mod keys;
mod profile;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use agreement::policy::Policy;
use protocol::{
    MeshId,
    agreement::Pricing,
    api::{Budget, Limits, Setting},
    credential::Zone,
    manifest::Import,
};
use toml::Value;

use crate::{egress, node::Share, owner};

use self::keys::{KEYS, Key, OTHER_VARIABLES};

/// A configuration file over this is refused unread.
const MAX_FILE: u64 = 1 << 20;
/// Where a value comes from that nobody has set.
const DEFAULT: &str = "default";

/// A setting that is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file isn't TOML.
    #[error("{path} is not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// No such key.
    #[error("unknown key '{key}' in {origin}{}", nearest(.key))]
    Unknown {
        /// The key.
        key: String,
        /// Where it stands.
        origin: String,
    },
    /// A value that doesn't fit its key.
    #[error("{origin}: {message}")]
    Value {
        /// Where it stands.
        origin: String,
        /// What it should have been.
        message: String,
    },
}

fn nearest(key: &str) -> String {
    Key::nearest(key).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// Where the layers above the defaults come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file named by `--config`; it must exist.
    pub(crate) file: Option<PathBuf>,
    /// The file that is read if it exists.
    pub(crate) usual_file: Option<PathBuf>,
    /// The environment.
    pub(crate) environment: Vec<(String, String)>,
    /// `--set key=value`.
    pub(crate) flags: Vec<(String, String)>,
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) log: Log,
    /// None where the mesh is off.
    pub(crate) mesh: Option<Mesh>,
    /// The mesh that the operator names; otherwise the node's papers say which it is in, if any.
    pub(crate) mesh_id: Option<MeshId>,
    /// A file with a join token, for machines that nobody types at.
    pub(crate) join_token_file: Option<PathBuf>,
    pub(crate) owner: owner::Settings,
    /// Where this node is, in an open mesh.
    pub(crate) zone: Option<Zone>,
    /// How long the credentials are valid that this node issues, if it has the authority's key.
    pub(crate) credential_seconds: u64,
    pub(crate) max_concurrent: usize,
    /// Of one processor, for all calls together; 0 for no limit.
    pub(crate) cpu_percent: u32,
    /// Bytes, for all calls together; 0 for no limit.
    pub(crate) max_memory: u64,
    /// What an agent may use for which nothing else is said.
    pub(crate) limits: Limits,
    /// What plugins may import.
    pub(crate) imports: Vec<Import>,
    pub(crate) egress: egress::Policy,
    pub(crate) policy: Policy,
    pub(crate) pricing: Pricing,
    /// The most calls of one agreement beyond the newest receipt that its consumer has signed.
    pub(crate) max_unacknowledged: u64,
    /// How much is accepted without the operator.
    pub(crate) budget: Budget,
    /// For how long after an agreement's end its last receipts may still be acknowledged.
    pub(crate) closing_grace_seconds: u64,
    pub(crate) share: Share,
    pub(crate) checkpoint_seconds: u64,
    /// After how many days entries of the trace lose their content; 0 for never.
    pub(crate) keep_days: u64,
    pub(crate) webhook_attempts: u32,
    /// What looks like a setting of ours in the environment and isn't: told once the log is open.
    pub(crate) strange_variables: Vec<String>,
    settings: Vec<Setting>,
}

/// How to log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) json: bool,
}

/// Where to listen, and whom to join.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) host: IpAddr,
    pub(crate) wss_port: u16,
    pub(crate) quic_port: u16,
    pub(crate) tcp_port: u16,
    pub(crate) bootstrap_peers: Vec<String>,
    pub(crate) private_addresses: bool,
    /// The certificate of WebSocket over TLS and its key, in files.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) announce: Vec<String>,
    pub(crate) relay: bool,
    pub(crate) upnp: bool,
    pub(crate) mdns: bool,
    /// Peers that are kept connected, about.
    pub(crate) peers: usize,
    /// Bytes of memory of the process past which no connection is made.
    pub(crate) max_memory: usize,
}

impl Config {
    /// Reads and checks all layers.
    pub(crate) fn load(sources: &Sources) -> Result<Self, Error> {
        let mut layers = Layers::defaults();
        if let Some(path) = &sources.file {
            layers.file(path)?;
        } else if let Some(path) = sources.usual_file.as_deref().filter(|path| path.exists()) {
            layers.file(path)?;
        }
        let strange_variables = layers.environment(&sources.environment)?;
        layers.flags(&sources.flags)?;
        layers.profile();
        layers.resolve(strange_variables)
    }

    /// Every setting with its value and where it came from.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

/// The layers laid over one another so far: value and origin of each key.
struct Layers(BTreeMap<&'static str, (Value, String)>);

impl Layers {
    fn defaults() -> Self {
        Self(KEYS.iter().map(|key| (key.name, (key.default_value(), DEFAULT.into()))).collect())
    }

    fn file(&mut self, path: &Path) -> Result<(), Error> {
        let unreadable = |source| Error::Unreadable { path: path.into(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
            return Err(unreadable(std::io::Error::other("over 1 MiB")));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| Error::Syntax { path: path.into(), message: error.to_string().trim_end().into() })?;
        let origin = format!("file {}", path.display());
        let mut rest: Vec<_> = table.into_iter().collect();
        while let Some((name, value)) = rest.pop() {
            match value {
                // A section, perhaps with sections of its own.
                Value::Table(entries) if Key::named(&name).is_none() => {
                    rest.extend(entries.into_iter().map(|(entry, value)| (format!("{name}.{entry}"), value)));
                }
                value => {
                    let key = Key::named(&name).ok_or_else(|| Error::Unknown { key: name.clone(), origin: origin.clone() })?;
                    key.check(&value).map_err(|message| Error::Value { origin: origin.clone(), message })?;
                    self.0.insert(key.name, (value, origin.clone()));
                }
            }
        }
        Ok(())
    }

    /// What nobody has set has the profile's default, if that has one.
    fn profile(&mut self) {
        let name = self.str("profile").to_owned();
        for (key, value) in profile::defaults(&name) {
            if let Some(slot) = self.0.get_mut(key.name).filter(|(_, origin)| origin == DEFAULT) {
                *slot = (value, format!("profile {name}"));
            }
        }
    }

    /// Returns the variables that look like ours and aren't. They are not errors: an orchestrator may inject such names.
    fn environment(&mut self, variables: &[(String, String)]) -> Result<Vec<String>, Error> {
        let mut strange = Vec::new();
        for (name, text) in variables.iter().filter(|(name, _)| name.starts_with("MCP_")) {
            match KEYS.iter().find(|key| key.env == name) {
                Some(key) => self.text(key, text, format!("environment {name}"))?,
                None if OTHER_VARIABLES.contains(&name.as_str()) || name.starts_with("MCP_GATEWAY_") => {}
                None => strange.push(name.clone()),
            }
        }
        Ok(strange)
    }

    fn flags(&mut self, flags: &[(String, String)]) -> Result<(), Error> {
        for (name, text) in flags {
            let origin = format!("flag --set {name}");
            let key = Key::named(name).ok_or_else(|| Error::Unknown { key: name.clone(), origin: "flag --set".into() })?;
            self.text(key, text, origin)?;
        }
        Ok(())
    }

    fn text(&mut self, key: &'static Key, text: &str, origin: String) -> Result<(), Error> {
        let value = key.parse(text).map_err(|message| Error::Value { origin: origin.clone(), message })?;
        self.0.insert(key.name, (value, origin));
        Ok(())
    }

    fn resolve(self, strange_variables: Vec<String>) -> Result<Config, Error> {
        let pricing = self.pricing()?;
        let policy = self.policy(&pricing);
        let mesh = Mesh {
            host: self.get("mesh.host")?,
            wss_port: self.number("mesh.port") as u16,
            quic_port: self.number("mesh.quic_port") as u16,
            tcp_port: self.number("mesh.tcp_port") as u16,
            bootstrap_peers: self.list("mesh.bootstrap_peers"),
            private_addresses: self.bool("mesh.private_addresses"),
            certificate: self.certificate()?,
            announce: self.list("mesh.announce"),
            relay: self.bool("mesh.relay"),
            upnp: self.bool("mesh.upnp"),
            mdns: self.bool("mesh.mdns"),
            peers: (self.number("mesh.peers") as usize).max(8),
            max_memory: (self.number("mesh.max_memory_mib") as usize).max(64) << 20,
        };
        Ok(Config {
            log: Log { level: self.str("log.level").into(), json: self.str("log.format") == "json" },
            mesh: self.bool("mesh.enabled").then_some(mesh),
            mesh_id: self.maybe("mesh.id")?,
            join_token_file: Some(self.str("mesh.join_token_file")).filter(|path| !path.is_empty()).map(PathBuf::from),
            owner: self.owner()?,
            zone: self.maybe("node.zone")?,
            credential_seconds: self.number("mesh.credential_seconds").max(1),
            cpu_percent: self.number("kernel.cpu_percent") as u32,
            max_memory: self.number("kernel.max_memory_mib") << 20,
            limits: self.limits(),
            imports: self.imports()?,
            egress: egress::Policy {
                allow: self.each("kernel.http_allow", str::parse)?,
                networks: self.each("kernel.http_networks", egress::network)?,
                roots: Some(self.str("kernel.http_roots")).filter(|path| !path.is_empty()).map(PathBuf::from),
            },
            max_concurrent: (self.number("kernel.max_concurrent") as usize).max(1),
            policy,
            pricing,
            max_unacknowledged: self.number("agreements.max_unacknowledged").max(1),
            budget: self.budget(),
            closing_grace_seconds: self.number("agreements.closing_grace_s"),
            share: match self.str("plugins.share") {
                "members" => Share::Members,
                "nobody" => Share::Nobody,
                _ => Share::Owner,
            },
            checkpoint_seconds: self.number("trace.checkpoint_seconds").max(1),
            keep_days: self.number("trace.keep_days"),
            webhook_attempts: (self.number("webhooks.attempts") as u32).max(1),
            strange_variables,
            settings: self.settings(),
        })
    }

    fn owner(&self) -> Result<owner::Settings, Error> {
        let text = |name| Some(self.str(name)).filter(|text| !text.is_empty());
        let owner = owner::Settings {
            pkcs11: text("owner.pkcs11").map(str::to_owned),
            passphrase_file: text("owner.passphrase_file").map(PathBuf::from),
        };
        let wrong = |message| Error::Value { origin: self.0["owner.pkcs11"].1.clone(), message: format!("owner.pkcs11: {message}") };
        owner.check().map_err(wrong)?;
        Ok(owner)
    }

    fn limits(&self) -> Limits {
        let number = |name| self.number(name).max(1);
        let bytes = |name: &str| keys::bytes(&self.0[name].0).unwrap_or_default();
        Limits {
            memory: bytes("kernel.limits.memory"),
            fuel: number("kernel.limits.fuel"),
            wall_ms: number("kernel.limits.wall_ms"),
            state_bytes: bytes("kernel.limits.state_bytes"),
            result_bytes: bytes("kernel.limits.result_bytes"),
            egress_bytes: bytes("kernel.limits.egress_bytes"),
            concurrency: number("kernel.limits.concurrency"),
            quota_bytes: bytes("kernel.limits.quota_bytes"),
            quota_keys: number("kernel.limits.quota_keys"),
        }
    }

    fn imports(&self) -> Result<Vec<Import>, Error> {
        self.each("kernel.imports", |text| {
            let known = Import::ALL.into_iter().find(|import| import.as_str() == text);
            known.ok_or_else(|| format!("{text:?} is not an import: {}", Import::ALL.map(Import::as_str).join(", ")))
        })
    }

    fn certificate(&self) -> Result<Option<(PathBuf, PathBuf)>, Error> {
        let file = |name| Some(self.str(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
        match (file("mesh.tls_cert"), file("mesh.tls_key")) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => Ok(Some((chain, key))),
            (Some(_), None) => Err(Error::Value { origin: self.0["mesh.tls_cert"].1.clone(), message: "mesh.tls_key is missing".into() }),
            (None, Some(_)) => Err(Error::Value { origin: self.0["mesh.tls_key"].1.clone(), message: "mesh.tls_cert is missing".into() }),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        let setting = |key: &Key| {
            let (value, source) = &self.0[key.name];
            let value = serde_json::to_value(value).unwrap_or_default();
            Setting { key: key.name.into(), value, source: source.clone() }
        };
        KEYS.iter().map(setting).collect()
    }

    fn bool(&self, name: &str) -> bool {
        self.0[name].0.as_bool().unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.0[name].0.as_integer().and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
    }

    fn str(&self, name: &str) -> &str {
        self.0[name].0.as_str().unwrap_or_default()
    }

    fn list(&self, name: &str) -> Vec<String> {
        let items = self.0[name].0.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A list of texts, each of which must parse.
    fn each<T, E: std::fmt::Display>(&self, name: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, Error> {
        let wrong = |error: E| Error::Value { origin: self.0[name].1.clone(), message: format!("{name}: {error}") };
        self.list(name).iter().map(|item| parse(item).map_err(wrong)).collect()
    }

    /// A text that is empty or must parse as `T`.
    fn maybe<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        (!self.str(name).is_empty()).then(|| self.get(name)).transpose()
    }

    /// A text that must parse as `T`.
    fn get<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, Error> {
        let (value, origin) = &self.0[name];
        let text = value.as_str().unwrap_or_default();
        text.parse().map_err(|error| Error::Value { origin: origin.clone(), message: format!("{name}: {error}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> (tempfile::NamedTempFile, Sources) {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let on_disk = tempfile::NamedTempFile::new().expect("temp");
        std::fs::write(on_disk.path(), file).expect("write");
        let sources = Sources { file: Some(on_disk.path().into()), usual_file: None, environment: own(environment), flags: own(flags) };
        (on_disk, sources)
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let (_file, sources) = sources(
            "[mesh]\nport = 1\ntcp_port = 1\nquic_port = 1",
            &[("MCP_MESH_PORT", "2"), ("MCP_MESH_TCP_PORT", "2")],
            &[("mesh.port", "3")],
        );
        let config = Config::load(&sources).expect("valid");
        let mesh = config.mesh.as_ref().expect("enabled");
        assert_eq!((mesh.wss_port, mesh.tcp_port, mesh.quic_port), (3, 2, 1));
        let source = |key: &str| config.settings().iter().find(|setting| setting.key == key).expect("setting").source.clone();
        assert_eq!(source("mesh.port"), "flag --set mesh.port");
        assert_eq!(source("mesh.tcp_port"), "environment MCP_MESH_TCP_PORT");
        assert!(source("mesh.quic_port").starts_with("file "));
        assert_eq!(source("mesh.id"), "default");
    }

    #[test]
    fn a_profile_says_what_nobody_has_set() {
        let (_file, sources) = sources("profile = \"edge\"\n[kernel]\ncpu_percent = 50", &[("MCP_MESH_PEERS", "9")], &[]);
        let config = Config::load(&sources).expect("valid");
        let shown = |key: &str| {
            let setting = config.settings().iter().find(|setting| setting.key == key).expect("setting").clone();
            (setting.value, setting.source)
        };
        assert_eq!((config.cpu_percent, config.max_memory, config.max_concurrent), (50, 256 << 20, 16));
        assert_eq!(config.mesh.as_ref().expect("enabled").peers, 9);
        assert_eq!(shown("kernel.max_memory_mib"), (256.into(), "profile edge".into()));
        assert!(shown("kernel.cpu_percent").1.starts_with("file ") && shown("profile").1.starts_with("file "));
        assert_eq!(shown("kernel.imports").1, "default");
    }

    #[test]
    fn limits_are_the_profiles_unless_they_are_set() {
        let limits = |file: &str, flags: &[(&str, &str)]| {
            let (_file, sources) = sources(file, &[], flags);
            Config::load(&sources).expect("valid").limits
        };
        assert_eq!(limits("", &[]), Limits::default());
        let edge = limits("profile = \"edge\"", &[]);
        assert!(edge.memory < Limits::default().memory && edge.concurrency < 16, "one agent doesn't take all places: {edge:?}");
        assert_eq!(limits("profile = \"dev\"", &[]).wall_ms, 60_000);
        let set = limits("profile = \"edge\"\n[kernel.limits]\nmemory = \"32MiB\"\nwall_ms = 0", &[("kernel.limits.quota_bytes", "1024")]);
        assert_eq!(set, Limits { memory: 32 << 20, wall_ms: 1, quota_bytes: 1024, ..edge });
    }

    #[test]
    fn the_example_names_every_setting_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config.example.toml");
        let mut example = Layers::defaults();
        example.file(&path).expect("valid");
        for key in KEYS {
            let (value, origin) = &example.0[key.name];
            assert!(origin != DEFAULT, "{} is missing", key.name);
            assert_eq!(value, &key.default_value(), "{}", key.name);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |file: &str, environment: &[(&str, &str)]| {
            let (_file, sources) = sources(file, environment, &[]);
            Config::load(&sources).expect_err("wrong").to_string()
        };
        assert!(wrong("[mesh]\nprot = 1", &[]).contains("did you mean 'mesh.port'?"));
        assert!(wrong("[mesh]\nport = 70000", &[]).contains("from 0 to 65535"));
        assert!(wrong("", &[("MCP_AGREEMENTS_ACCEPT", "maybe")]).contains("auto, manual, deny"));
        assert!(wrong("", &[("MCP_MESH_HOST", "nowhere")]).contains("mesh.host"));
        assert!(wrong("port = [", &[]).contains("not valid TOML"));
        assert!(wrong("profil = \"edge\"", &[]).contains("did you mean 'profile'?"));
        assert!(wrong("[kernel.limits]\nmemry = 1", &[]).contains("did you mean 'kernel.limits.memory'?"));
        assert!(wrong("[kernel.limits]\nmemory = \"1GiB\"", &[]).contains("kernel.limits.memory must be bytes, 1 to 268435456"));
        assert!(wrong("[mesh.port]\nport = 1", &[]).contains("mesh.port must be a whole number"));
        assert!(wrong("", &[("MCP_PROFILE", "desktop")]).contains("server, edge, dev"));
        assert!(wrong("[kernel]\nimports = [\"files\"]", &[]).contains("kernel.imports: \"files\" is not an import: state"));
        assert!(wrong("[kernel]\nhttp_allow = [\"a/b\"]", &[]).contains("kernel.http_allow"));
        assert!(wrong("[owner]\npkcs11 = \"pkcs11:object=o\"", &[]).contains("module-path"));
        assert!(wrong("", &[("MCP_KERNEL_HTTP_NETWORKS", "10.0.0.0/40")]).contains("kernel.http_networks"));
    }
}

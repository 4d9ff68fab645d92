//! `plugin`: sign and inspect manifests without any node; decide whose plugins the node runs.
//!
//! ```text
//! docs.wasm + publisher.pem --sign--> docs.manifest.json --inspect--> who signed what, and whether it is this component
//! ```

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client, Did, Digest, Expect, Header, Key, MeshId, NodeId, Problem, Signed, Timestamp,
    api::{FetchPlugin, List, Plugin, Publisher, RegisterPlugin, Trust},
    document::Sealed,
    error::Code,
    manifest::{Health, INTERFACE, Import, MAX_COMPONENT, Manifest},
};
use serde::{Serialize, de::IgnoredAny};
use zeroize::Zeroizing;

use super::names;
use crate::{
    error::Result,
    input,
    output::{Output, fields},
    parse,
};

/// What a WebAssembly component begins with (component model, binary format: layer 1); a core module has layer 0.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// A PEM key takes 119 bytes.
const MAX_KEY: usize = 16 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Sign a component: writes its manifest beside it
    Sign(Sign),
    /// Show a manifest and verify it, without any node
    Inspect {
        /// The manifest, or the component beside which it lies
        file: PathBuf,
    },
    /// Register a signed plugin on this node, without an agent of it yet
    Push {
        /// The component
        file: PathBuf,
        /// Its signed manifest; the one beside it if not given
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
    },
    /// Remove a plugin that nothing on this node needs
    Remove {
        /// The digest of its component
        component: Digest,
    },
    /// Fetch a plugin from another node and register it here; its publisher must be trusted
    Fetch {
        /// The node that has it
        #[arg(long, value_name = "NODE")]
        from: NodeId,
        /// The digest of its component
        component: Digest,
    },
    /// Run plugins that this publisher signed
    Trust {
        /// The publisher
        did: Did,
        /// What to call it
        #[arg(long)]
        name: String,
    },
    /// No longer run plugins that this publisher signed
    Untrust {
        /// The publisher
        did: Did,
    },
    /// List the plugins registered here
    List,
    /// List the trusted publishers
    Publishers,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// The publisher's private key (PKCS#8 PEM), as 'key create --signing' writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The plugin's name
    #[arg(long, value_parser = parse::plugin)]
    name: String,
    /// Its semantic version
    #[arg(long, value_name = "VERSION", value_parser = parse::release)]
    release: String,
    /// What it needs from its host: state, log, clock, random
    #[arg(long, value_delimiter = ',', value_parser = import)]
    imports: Vec<Import>,
    /// The method that shows whether a release works on an agent's state; called without parameters before an upgrade
    #[arg(long, value_name = "METHOD", value_parser = parse::name)]
    health: Option<String>,
    /// How long the manifest is valid
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = parse::duration)]
    ttl: Duration,
    /// Where to write the manifest; beside the component if not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The component
    file: PathBuf,
}

fn import(text: &str) -> Result<Import, String> {
    let known = Import::ALL.into_iter().find(|import| import.as_str() == text);
    known.ok_or_else(|| format!("{text:?} is not an import: {}", Import::ALL.map(Import::as_str).join(", ")))
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Sign(arguments) => sign(arguments, output),
        Command::Inspect { file } => inspect(&file, output),
        Command::Push { file, manifest } => output.show(&push(client, &file, manifest.as_deref()).await?, registered),
        Command::Remove { component } => {
            client.delete::<IgnoredAny>(&format!("/v1/plugins/{component}")).await?;
            output.show(&serde_json::json!({ "component": component, "removed": true }), |_| format!("{component} removed"))
        }
        Command::Fetch { from, component } => {
            let plugin: Plugin = client.post("/v1/plugins/fetch", &FetchPlugin { node: from, component }).await?;
            output.show(&plugin, registered)
        }
        Command::Trust { did, name } => {
            client
                .put::<_, IgnoredAny>(&format!("/v1/publishers/{}", parse::segment(&did.to_string())), &Trust { name: name.clone() })
                .await?;
            output.show(&serde_json::json!({ "did": did, "name": name, "trusted": true }), |_| format!("{name} ({did}) is trusted"))
        }
        Command::Untrust { did } => {
            client.delete::<IgnoredAny>(&format!("/v1/publishers/{}", parse::segment(&did.to_string()))).await?;
            output.show(&serde_json::json!({ "did": did, "trusted": false }), |_| format!("{did} is no longer trusted"))
        }
        Command::List => {
            let plugins: List<Plugin> = client.get("/v1/plugins").await?;
            output.list(&plugins, ["name", "release", "methods", "publisher", "component"], |plugin| {
                let methods = names(plugin.methods.iter().map(|method| method.name.as_str()), "-");
                [plugin.name.clone(), plugin.release.clone(), methods, plugin.publisher.to_string(), plugin.component.to_string()]
            })
        }
        Command::Publishers => {
            let publishers: List<Publisher> = client.get("/v1/publishers").await?;
            output.list(&publishers, ["name", "publisher", "since"], |publisher| {
                [publisher.name.clone(), publisher.did.to_string(), publisher.trusted_at.to_string()]
            })
        }
    }
}

/// Brings a signed component to the node.
pub(crate) async fn push(client: &Client, file: &Path, manifest_file: Option<&Path>) -> Result<Plugin, Problem> {
    let bytes = component(file)?;
    let path = manifest_file.map_or_else(|| beside(file), Path::to_path_buf);
    // The daemon verifies it: it knows whom its operator trusts.
    let manifest = input::document(&path, "a signed plugin manifest").map_err(|problem| match problem.code {
        Code::NotFound => {
            problem.hint(format!("sign the plugin first: mcpctl plugin sign --key FILE --name NAME --release VERSION {}", file.display()))
        }
        _ => problem,
    })?;
    belongs(&manifest, file, &bytes)?;
    client.put_bytes::<IgnoredAny>(&format!("/v1/blobs/{}", Digest::blake3(&bytes)), bytes.into()).await?;
    client.post("/v1/plugins", &RegisterPlugin { manifest }).await
}

fn registered(plugin: &Plugin) -> String {
    fields([
        ("plugin", format!("{} {}", plugin.name, plugin.release)),
        ("publisher", plugin.publisher.to_string()),
        ("component", plugin.component.to_string()),
        ("methods", names(plugin.methods.iter().map(|method| method.name.as_str()), "-")),
    ])
}

/// Where a component's manifest lies if not said otherwise: `docs.wasm` -> `docs.manifest.json`.
pub(crate) fn beside(component: &Path) -> PathBuf {
    component.with_extension("manifest.json")
}

/// Reads a component, and tells a core module from one.
pub(crate) fn component(file: &Path) -> Result<Vec<u8>, Problem> {
    let bytes = input::read(file, MAX_COMPONENT)?;
    if bytes.starts_with(COMPONENT) {
        return Ok(bytes);
    }
    let problem = Problem::new(Code::InvalidPlugin, format!("{} is not a WebAssembly component", file.display()));
    Err(problem.hint("make one of a core module with 'wasm-tools component new', or build for wasm32-wasip2"))
}

/// What signing made.
#[derive(Serialize)]
struct Made {
    file: PathBuf,
    component: Digest,
    publisher: Did,
}

fn sign(arguments: Sign, output: Output) -> Result {
    let key = read_key(&arguments.key, output)?;
    let component = component(&arguments.file)?;
    let valid = jiff::SignedDuration::try_from(arguments.ttl).unwrap_or(jiff::SignedDuration::MAX);
    let mut imports = arguments.imports;
    imports.sort_unstable();
    imports.dedup();
    let manifest = Manifest {
        header: Header::new::<Manifest>(&MeshId::any(), Timestamp::now(), valid),
        name: arguments.name,
        release: arguments.release,
        publisher: key.did(),
        component: Digest::blake3(&component),
        size: component.len() as u64,
        interface: INTERFACE.into(),
        imports,
        health: arguments.health.map(|method| Health { method, params: serde_json::json!({}) }),
    };
    let made =
        Made { file: arguments.output.unwrap_or_else(|| beside(&arguments.file)), component: manifest.component, publisher: key.did() };
    let mut envelope = serde_json::to_vec_pretty(&Signed::sign(manifest, &[&key])).map_err(anyhow::Error::from)?;
    envelope.push(b'\n');
    input::write(&made.file, &envelope)?;
    output.show(&made, |made| {
        fields([
            ("manifest", made.file.display().to_string()),
            ("component", made.component.to_string()),
            ("publisher", made.publisher.to_string()),
        ])
    })
}

fn read_key(file: &Path, output: Output) -> Result<Key, Problem> {
    let open_to_others = std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o077 != 0);
    if open_to_others {
        output.note(&format!("warning: {} can be read by others; run 'chmod 600' on it", file.display()));
    }
    let pem = Zeroizing::new(input::read(file, MAX_KEY)?);
    let key = std::str::from_utf8(&pem).ok().and_then(|pem| Key::from_pem(pem).ok());
    key.ok_or_else(|| {
        let problem = Problem::new(Code::MalformedDocument, format!("{} is not an Ed25519 private key in PKCS#8 PEM form", file.display()));
        problem.hint("make one with 'mcpctl key create --signing FILE'")
    })
}

/// What `inspect` found, after the signature and, where it is there, the component were verified.
#[derive(Serialize)]
struct Inspected {
    manifest: Manifest,
    signers: Vec<Did>,
    /// Whether the component itself was there to be compared; a wrong one is a failure.
    component_verified: bool,
    expired: bool,
}

fn inspect(file: &Path, output: Output) -> Result {
    let is_component = file.extension().is_some_and(|extension| extension == "wasm");
    let path = if is_component { beside(file) } else { file.to_path_buf() };
    let mesh = MeshId::any();
    let sealed: Sealed<Manifest> = input::document(&path, "a signed plugin manifest")?;
    let signed = sealed.open(Expect::archived(&mesh)).map_err(Problem::from)?;
    let manifest = signed.document().clone();
    signed.require(manifest.publisher).map_err(Problem::from)?;
    let component = if is_component { Some(file.to_path_buf()) } else { companion(file) };
    if let Some(component) = &component {
        compare(&manifest, component)?;
    }
    let expired = manifest.header.expires_at <= Timestamp::now();
    let inspected = Inspected { manifest, signers: signed.signers().to_vec(), component_verified: component.is_some(), expired };
    output.show(&inspected, describe)
}

/// The component that lies beside `docs.manifest.json`, if there is one.
fn companion(manifest: &Path) -> Option<PathBuf> {
    let stem = manifest.file_name()?.to_str()?.strip_suffix(".manifest.json")?;
    Some(manifest.with_file_name(format!("{stem}.wasm"))).filter(|path| path.is_file())
}

/// Refuses a component that its manifest isn't about. A manifest that doesn't open is the daemon's to refuse.
pub(crate) fn belongs(manifest: &Sealed<Manifest>, file: &Path, component: &[u8]) -> Result<(), Problem> {
    let opened = manifest.clone().open(Expect::archived(&MeshId::any()));
    opened.map_or(Ok(()), |signed| same(signed.document(), file, component))
}

fn compare(manifest: &Manifest, file: &Path) -> Result<(), Problem> {
    same(manifest, file, &input::read(file, MAX_COMPONENT)?)
}

fn same(manifest: &Manifest, file: &Path, bytes: &[u8]) -> Result<(), Problem> {
    if bytes.len() as u64 == manifest.size && manifest.component.matches(bytes) {
        return Ok(());
    }
    let found = Digest::blake3(bytes);
    let detail = format!("{} is not the component that was signed: {found}, not {}", file.display(), manifest.component);
    Err(Problem::new(Code::BadSignature, detail)
        .hint("sign it again with 'mcpctl plugin sign', or get the component that belongs to the manifest"))
}

fn describe(found: &Inspected) -> String {
    let manifest = &found.manifest;
    let signers: Vec<String> = found.signers.iter().map(Did::to_string).collect();
    let state = if found.expired { "expired" } else { "valid" };
    fields([
        ("plugin", format!("{}@{}", manifest.name, manifest.release)),
        ("publisher", manifest.publisher.to_string()),
        ("signed by", signers.join(",")),
        ("component", manifest.component.to_string()),
        ("verified", if found.component_verified { "signature and component" } else { "signature; the component is not here" }.into()),
        ("size", format!("{} bytes", manifest.size)),
        ("interface", manifest.interface.clone()),
        ("imports", names(manifest.imports.iter().map(|import| import.as_str()), "none")),
        ("validity", format!("{state}, {} to {}", manifest.header.issued_at, manifest.header.expires_at)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_lie_beside_their_components() {
        let dir = tempfile::tempdir().expect("directory");
        let wasm = dir.path().join("docs.wasm");
        assert_eq!(beside(&wasm), dir.path().join("docs.manifest.json"));
        assert_eq!(companion(&beside(&wasm)), None);
        input::write(&wasm, COMPONENT).expect("write");
        assert_eq!(companion(&beside(&wasm)), Some(wasm));
    }

    #[test]
    fn a_core_module_is_no_component() {
        let dir = tempfile::tempdir().expect("directory");
        let wasm = dir.path().join("core.wasm");
        input::write(&wasm, b"\0asm\x01\0\0\0").expect("write");
        assert_eq!(component(&wasm).expect_err("a core module").code, Code::InvalidPlugin);
    }
}

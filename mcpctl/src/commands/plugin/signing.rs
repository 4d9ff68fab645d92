//! Signing plugins, and reading what was signed: neither needs a node.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client, Did, Digest, Expect, Header, Key, MeshId, Problem, Signed, Timestamp,
    api::Revocation,
    document::Sealed,
    error::Code,
    manifest::{Health, INTERFACE, Import, MAX_COMPONENT, Manifest},
};
use serde::Serialize;

use super::{beside, component, revoking, same};
use crate::{
    commands::{self, names},
    error::{Error, Result},
    input,
    output::{Output, fields},
    parse,
    project::Project,
};

/// How long a plugin may run that is being worked on.
const DEV_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// The publisher's private key (PKCS#8 PEM), as 'key create --signing' writes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file with the key's passphrase, if it is encrypted; asked for on a terminal if not given
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The plugin's name
    #[arg(long, value_parser = parse::plugin)]
    name: Option<String>,
    /// Its semantic version
    #[arg(long, value_name = "VERSION", value_parser = parse::release)]
    release: Option<String>,
    /// What it needs from its host: state, log, clock, random, http, agents
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
    /// The component; or a plugin's folder, whose plugin.toml says all that isn't said here
    file: PathBuf,
}

fn import(text: &str) -> Result<Import, String> {
    let known = Import::ALL.into_iter().find(|import| import.as_str() == text);
    known.ok_or_else(|| format!("{text:?} is not an import: {}", Import::ALL.map(Import::as_str).join(", ")))
}

/// What signing made.
#[derive(Serialize)]
struct Made {
    file: PathBuf,
    component: Digest,
    publisher: Did,
}

/// What a publisher says of a component beside its digest.
struct Release {
    name: String,
    release: String,
    imports: Vec<Import>,
    health: Option<String>,
}

impl From<&Project> for Release {
    fn from(Project { settings, .. }: &Project) -> Self {
        let (name, release) = (settings.name.clone(), settings.release.clone());
        Self { name, release, imports: settings.imports.clone(), health: settings.health.clone() }
    }
}

pub(super) fn sign(arguments: Sign, output: Output) -> Result {
    let key = commands::key::read_key(&arguments.key, arguments.passphrase_file.as_deref(), output)?;
    let Sign { name, release, imports, health, ttl, file, .. } = arguments;
    let (component, stated) = if file.is_dir() {
        let project = Project::open(&file)?;
        let stated = Release::from(&project);
        let imports = if imports.is_empty() { stated.imports } else { imports };
        let (name, release) = (name.unwrap_or(stated.name), release.unwrap_or(stated.release));
        (project.component(), Release { name, release, imports, health: health.or(stated.health) })
    } else {
        let hint = "add '--name NAME --release VERSION', or name a folder with a plugin.toml";
        let (Some(name), Some(release)) = (name, release) else {
            return Err(Error::usage("a component's name and release are missing", hint));
        };
        (file, Release { name, release, imports, health })
    };
    let manifest = arguments.output.unwrap_or_else(|| beside(&component));
    output.show(&write(stated, &component, manifest, &key, ttl)?, |made| {
        fields([
            ("manifest", made.file.display().to_string()),
            ("component", made.component.to_string()),
            ("publisher", made.publisher.to_string()),
        ])
    })
}

/// Signs what a build left while it is being worked on.
pub(super) fn sign_project(project: &Project, key: &Key) -> Result<(), Problem> {
    let file = project.component();
    write(project.into(), &file, beside(&file), key, DEV_VALIDITY).map(drop)
}

fn write(stated: Release, file: &Path, manifest_file: PathBuf, key: &Key, ttl: Duration) -> Result<Made, Problem> {
    let component = component(file)?;
    let valid = jiff::SignedDuration::try_from(ttl).unwrap_or(jiff::SignedDuration::MAX);
    let mut imports = stated.imports;
    imports.sort_unstable();
    imports.dedup();
    let manifest = Manifest {
        header: Header::new::<Manifest>(&MeshId::any(), Timestamp::now(), valid),
        name: stated.name,
        release: stated.release,
        publisher: key.did(),
        component: Digest::blake3(&component),
        size: component.len() as u64,
        interface: INTERFACE.into(),
        imports,
        health: stated.health.map(|method| Health { method, params: serde_json::json!({}) }),
    };
    let made = Made { file: manifest_file, component: manifest.component, publisher: key.did() };
    let envelope = serde_json::to_vec_pretty(&Signed::sign(manifest, &[key]));
    let mut envelope = envelope.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    envelope.push(b'\n');
    input::write(&made.file, &envelope)?;
    Ok(made)
}

/// The key in a file, which is made if it isn't there.
pub(super) fn key_or_new(file: &Path, output: Output) -> Result<Key, Problem> {
    if file.exists() {
        return commands::key::read_key(file, None, output);
    }
    let failed = |error: std::io::Error| Problem::new(Code::InvalidRequest, format!("can't write {}: {error}", file.display()));
    std::fs::create_dir_all(file.parent().unwrap_or(file)).map_err(failed)?;
    commands::key::new_key(file, None)
}

/// What `inspect` found, after the signature and, where it is there, the component were verified.
#[derive(Serialize)]
struct Inspected {
    manifest: Manifest,
    signers: Vec<Did>,
    /// Whether the component itself was there to be compared; a wrong one is a failure.
    component_verified: bool,
    expired: bool,
    /// By the node that runs here; absent where none does, or it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<Revocation>,
}

pub(super) async fn inspect(file: &Path, client: &Client, output: Output) -> Result {
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
    let revoked = revoking::find(client, &manifest.component).await?;
    let inspected = Inspected { manifest, signers: signed.signers().to_vec(), component_verified: component.is_some(), expired, revoked };
    output.show(&inspected, describe)
}

/// The component that lies beside `docs.manifest.json`, if there is one.
fn companion(manifest: &Path) -> Option<PathBuf> {
    let stem = manifest.file_name()?.to_str()?.strip_suffix(".manifest.json")?;
    Some(manifest.with_file_name(format!("{stem}.wasm"))).filter(|path| path.is_file())
}

fn compare(manifest: &Manifest, file: &Path) -> Result<(), Problem> {
    same(manifest, file, &input::read(file, MAX_COMPONENT)?)
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
        ("on this node", found.revoked.as_ref().map(revoking::describe).unwrap_or_default()),
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
        input::write(&wasm, crate::project::COMPONENT).expect("write");
        assert_eq!(companion(&beside(&wasm)), Some(wasm));
    }
}

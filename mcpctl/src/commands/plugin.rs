//! `plugin`: sign and inspect manifests without any node; decide whose plugins the node runs.
//!
//! ```text
//! new ──► sources ──build──► docs.wasm          dev: build, sign, push and upgrade at each change
//! docs.wasm + publisher.pem --sign--> docs.manifest.json --inspect--> who signed what, and whether it is this component
//! ```

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client, Did, Digest, Expect, MeshId, NodeId, Problem,
    api::{FetchPlugin, List, Plugin, Publisher, RegisterPlugin, Trust},
    document::Sealed,
    error::Code,
    manifest::{MAX_COMPONENT, Manifest},
};
use serde::de::IgnoredAny;

mod develop;
mod revoking;
mod signing;

use super::names;
use crate::{
    error::Result,
    input,
    output::{Output, fields},
    parse, project,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Begin a plugin: a folder with sources that build and run
    New(develop::New),
    /// Build a plugin's folder: its component is left there
    Build {
        /// The folder, with its plugin.toml
        dir: PathBuf,
    },
    /// Build a plugin and run it as an agent, again at each change; shows what is wrong, and what the agent logs
    Dev(develop::Dev),
    /// Sign a component: writes its manifest beside it
    Sign(signing::Sign),
    /// Show a manifest and verify it, without any node; where one runs, also whether the component is revoked there
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
    /// Run this component no longer, nor let it in again; its agents refuse calls until they are upgraded
    Revoke {
        /// The digest of the component, whether it is here or not
        component: Digest,
        /// Why: one line, for whoever meets it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Take a revocation back
    Unrevoke {
        /// The digest of the component
        component: Digest,
    },
    /// List the revoked components
    Revocations,
    /// List the plugins registered here
    List,
    /// List the trusted publishers
    Publishers,
}

impl Command {
    /// How long the command as a whole may take; `None` where it takes what it takes.
    pub(crate) fn patience(&self, usual: Duration) -> Option<Duration> {
        match self {
            Self::Build { .. } | Self::Dev(_) => None,
            _ => Some(usual),
        }
    }
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::New(arguments) => develop::new(arguments, output),
        Command::Build { dir } => develop::build(&dir, output).await,
        Command::Dev(arguments) => develop::dev(arguments, client, output).await,
        Command::Sign(arguments) => signing::sign(arguments, output),
        Command::Inspect { file } => signing::inspect(&file, client, output).await,
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
        Command::Revoke { component, reason } => revoking::revoke(client, component, reason, output).await,
        Command::Unrevoke { component } => revoking::unrevoke(client, component, output).await,
        Command::Revocations => revoking::list(client, output).await,
        Command::List => {
            let plugins: List<Plugin> = client.get("/v1/plugins").await?;
            output.list(&plugins, ["name", "release", "methods", "publisher", "component", "state"], |plugin| {
                let methods = names(plugin.methods.iter().map(|method| method.name.as_str()), "-");
                let state = plugin.revoked.as_ref().map_or_else(|| "ok".into(), revoking::describe);
                [plugin.name.clone(), plugin.release.clone(), methods, plugin.publisher.to_string(), plugin.component.to_string(), state]
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
    if bytes.starts_with(project::COMPONENT) {
        return Ok(bytes);
    }
    let problem = Problem::new(Code::InvalidPlugin, format!("{} is not a WebAssembly component", file.display()));
    Err(problem.hint("make one of a core module with 'mcpctl plugin build', or 'wasm-tools component new'"))
}

/// Refuses a component that its manifest isn't about. A manifest that doesn't open is the daemon's to refuse.
pub(crate) fn belongs(manifest: &Sealed<Manifest>, file: &Path, component: &[u8]) -> Result<(), Problem> {
    let opened = manifest.clone().open(Expect::archived(&MeshId::any()));
    opened.map_or(Ok(()), |signed| same(signed.document(), file, component))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_module_is_no_component() {
        let dir = tempfile::tempdir().expect("directory");
        let wasm = dir.path().join("core.wasm");
        input::write(&wasm, b"\0asm\x01\0\0\0").expect("write");
        assert_eq!(component(&wasm).expect_err("a core module").code, Code::InvalidPlugin);
    }
}

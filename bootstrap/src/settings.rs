//! Settings: defaults < file < environment < flags.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Parser;
use directories::ProjectDirs;
use mesh::{CertificateFiles, Config, Keys, Listen, Papers};
use protocol::{Key, MeshId, Timestamp};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::Error;

/// WebSocket over TLS, and QUIC on the same number.
const PORT: u16 = 8765;
/// TCP with Noise and Yamux.
const TCP_PORT: u16 = 8766;
/// A configuration of this program has a few hundred bytes.
const MAX_FILE: u64 = 64 * 1024;

/// A public entry node of an MCP-ZERO mesh: nodes that know its address find all others.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Where the node's key and lock are kept.
    #[arg(long, value_name = "DIR", env = "MCP_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A TOML file with these settings, named as here with underscores.
    #[arg(long, value_name = "FILE", env = "MCP_CONFIG")]
    config: Option<PathBuf>,
    /// The mesh: the name of an open one. A private one is named by the join token, or by the credential had before.
    #[arg(long, value_name = "ID", env = "MCP_MESH_ID")]
    mesh_id: Option<MeshId>,
    /// A file with a join token (of role `entry`), used once; or the token itself in MCP_JOIN_TOKEN.
    #[arg(long, value_name = "FILE", env = "MCP_JOIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The address to listen on [default: 0.0.0.0, every IPv4 interface].
    #[arg(long, value_name = "IP", env = "MCP_MESH_HOST")]
    host: Option<IpAddr>,
    /// The TCP port of WebSocket over TLS; 0 for any [default: 8765].
    #[arg(long, env = "MCP_MESH_PORT")]
    port: Option<u16>,
    /// The TCP port of the plain libp2p transport; 0 for any [default: 8766].
    #[arg(long, value_name = "PORT", env = "MCP_MESH_TCP_PORT")]
    tcp_port: Option<u16>,
    /// The UDP port of QUIC; 0 for any [default: the number of --port].
    #[arg(long, value_name = "PORT", env = "MCP_MESH_QUIC_PORT")]
    quic_port: Option<u16>,
    /// Other entry nodes: multiaddrs or wss://host:port, separated by commas or each with its own flag.
    #[arg(long, value_name = "ADDR", env = "MCP_BOOTSTRAP_PEERS", value_delimiter = ',', num_args = 1..)]
    bootstrap: Option<Vec<String>>,
    /// Exchange loopback and private addresses with other nodes: for LANs and development.
    #[arg(long)]
    private_addresses: bool,
    /// Addresses by which this node is reachable from elsewhere, where it can't see that itself: behind a 1:1 NAT, in a
    /// container.
    #[arg(long, value_name = "ADDR", env = "MCP_MESH_ANNOUNCE", value_delimiter = ',', num_args = 1..)]
    announce: Option<Vec<String>>,
    /// A PEM file with the certificate that WebSocket over TLS shows, read again when it changes.
    #[arg(long, value_name = "FILE", env = "MCP_MESH_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// A PEM file with its key.
    #[arg(long, value_name = "FILE", env = "MCP_MESH_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Begin as a new node if node.key is missing where there was one; the old node's files are moved to former-TIME/.
    #[arg(long)]
    pub(crate) new_identity: bool,
    /// Tell on standard output where the node listens, and log, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    mesh_id: Option<MeshId>,
    token_file: Option<PathBuf>,
    host: Option<IpAddr>,
    port: Option<u16>,
    tcp_port: Option<u16>,
    quic_port: Option<u16>,
    bootstrap: Option<Vec<String>>,
    private_addresses: Option<bool>,
    announce: Option<Vec<String>>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

/// What the node is run with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    mesh: Option<MeshId>,
    token: Option<Zeroizing<String>>,
    listen: Listen,
    bootstrap: Vec<String>,
    private_addresses: bool,
    announce: Vec<String>,
    certificate: Option<CertificateFiles>,
}

impl Arguments {
    /// Joins flags and environment with the file and the defaults.
    pub(crate) fn settings(self) -> Result<Settings, Error> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let token = match self.token_file.or(file.token_file) {
            Some(path) => Some(Zeroizing::new(read_text(&path)?)),
            None => std::env::var("MCP_JOIN_TOKEN").ok().filter(|token| !token.is_empty()).map(Zeroizing::new),
        };
        let port = self.port.or(file.port).unwrap_or(PORT);
        let listen = Listen {
            host: self.host.or(file.host).unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            tcp: Some(self.tcp_port.or(file.tcp_port).unwrap_or(TCP_PORT)),
            quic: Some(self.quic_port.or(file.quic_port).unwrap_or(port)),
            wss: Some(port),
        };
        if port != 0 && listen.tcp == listen.wss {
            return Err(Error::Settings(format!("port and tcp_port are both {port}: they are both TCP ports and can't be the same")));
        }
        let certificate = match (self.tls_cert.or(file.tls_cert), self.tls_key.or(file.tls_key)) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(CertificateFiles { chain, key }),
            _ => return Err(Error::Settings("tls_cert and tls_key go together: one of them is missing".into())),
        };
        Ok(Settings {
            data_dir: self.data_dir.or(file.data_dir).map_or_else(default_data_dir, Ok)?,
            mesh: self.mesh_id.or(file.mesh_id),
            token,
            listen,
            bootstrap: self.bootstrap.or(file.bootstrap).unwrap_or_default(),
            certificate,
            announce: self.announce.or(file.announce).unwrap_or_default(),
            private_addresses: self.private_addresses || file.private_addresses.unwrap_or_default(),
        })
    }
}

impl Settings {
    /// The mesh's configuration for the node of `key`.
    pub(crate) fn config(self, key: Key) -> Result<Config, Error> {
        let papers = Papers::at(&self.data_dir);
        // An entry node owns itself: it has no agreements that an owner would sign.
        let keys = Keys { node: key.clone(), owner: std::sync::Arc::new(key.clone()) };
        let token = self.token.as_ref().map(|token| token.as_str());
        let membership = papers.membership(self.mesh.as_ref(), &keys, token, Timestamp::now()).map_err(Error::Membership)?;
        let membership = membership.ok_or_else(|| {
            Error::Settings(
                "this node is in no mesh: give it a join token (--token-file, or MCP_JOIN_TOKEN), or the name of an open mesh (--mesh-id)"
                    .into(),
            )
        })?;
        Ok(Config {
            membership: Arc::new(membership),
            papers: Some(papers),
            listen: self.listen,
            bootstrap: self.bootstrap.into_iter().filter(|address| !address.is_empty()).collect(),
            private_addresses: self.private_addresses,
            certificate: self.certificate,
            announce: self.announce,
            relay: true,
            server: true,
            ..Config::new(key, MeshId::none())
        })
    }
}

fn read(path: &Path) -> Result<File, Error> {
    let text = read_text(path)?;
    toml::from_str(&text).map_err(|error| Error::Settings(format!("{}: {}", path.display(), error.to_string().trim_end())))
}

fn read_text(path: &Path) -> Result<String, Error> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    opened.map_err(|error| Error::Settings(format!("can't read {}: {error}", path.display())))?;
    Ok(text)
}

fn default_data_dir() -> Result<PathBuf, Error> {
    let directories =
        ProjectDirs::from("", "", "mcp-zero").ok_or_else(|| Error::Settings("this user has no home directory: pass --data-dir".into()))?;
    Ok(directories.data_dir().join("bootstrap"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "mesh_id = \"from-file\"\nport = 9000\ntcp_port = 9001\nbootstrap = [\"wss://a.example:1\"]\n")
            .expect("written");
        let path = file.path().to_str().expect("text");
        let settings = |more: &[&str]| {
            let arguments = [&["mcp-bootstrap", "--data-dir", "/d", "--config", path], more].concat();
            Arguments::parse_from(arguments).settings()
        };
        let read = settings(&["--tcp-port", "7"]).expect("settings");
        assert_eq!(read.mesh.as_ref().map(MeshId::as_str), Some("from-file"));
        assert_eq!((read.listen.wss, read.listen.tcp, read.listen.quic), (Some(9000), Some(7), Some(9000)));
        assert_eq!(read.bootstrap, ["wss://a.example:1"]);
        let flags = settings(&["--mesh-id", "flag", "--bootstrap", "wss://b:1,wss://c:1", "--port", "0"]).expect("settings");
        assert_eq!((flags.mesh.as_ref().map(MeshId::as_str), flags.bootstrap.len(), flags.listen.quic), (Some("flag"), 2, Some(0)));
        assert!(settings(&["--tcp-port", "9000"]).is_err(), "two listeners on one port");
        std::fs::write(&file, "mesh_id = \"m\"\nprot = 1\n").expect("written");
        let error = settings(&[]).expect_err("an unknown key").to_string();
        assert!(error.contains("prot") && error.contains("port"), "{error}");
    }

    #[test]
    fn the_example_is_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bootstrap.example.toml");
        let file: File = toml::from_str(&std::fs::read_to_string(path).expect("it is there")).expect("it is valid");
        assert_eq!((file.port, file.tcp_port), (Some(PORT), Some(TCP_PORT)));
    }
}

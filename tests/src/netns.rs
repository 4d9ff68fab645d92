//! Networks of our own: hosts in network namespaces, NATs, slow and lossy links, cuts. Needs root, iproute2 and nftables.
//!
//! ```text
//!  public hosts --veth--+                       +--veth-- public hosts
//!                       br-west === cable === br-east
//!  hosts --LAN-- router (masquerade) --veth--+
//! ```
//! Public addresses are of 44.0.0.0/16, so that the programs run as they would on the internet: private addresses are
//! not exchanged. Everything is removed when the [`Network`] is dropped.

use std::{
    fmt::Write as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::wire::{Cable, Wire};

/// Networks made by this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Which of the two halves of the internet a host is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// West of the cable.
    West,
    /// East of it.
    East,
}

/// How a router maps its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One mapping for all peers, where the port allows it: as home routers do.
    Friendly,
    /// A random port for each connection: as carriers and companies do.
    Symmetric,
}

/// A network.
#[derive(Debug)]
pub struct Network {
    id: String,
    namespaces: Vec<String>,
    links: u32,
    cables: Vec<Cable>,
}

/// A host in it.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    address: String,
    gateway: Option<String>,
}

impl Network {
    /// An internet without hosts.
    ///
    /// # Panics
    /// Without root, iproute2 or nftables: a suite that can't run must not pass.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: run these tests as root");
        for tool in ["ip", "nft"] {
            let version = if tool == "nft" { "--version" } else { "-V" };
            let found = Command::new(tool).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(found.is_ok(), "{tool} is missing: apt-get install iproute2 nftables");
        }
        remove_stale();
        let id = format!("mz{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { id, namespaces: Vec::new(), links: 0, cables: Vec::new() };
        let internet = network.namespace("net");
        for bridge in ["br-west", "br-east"] {
            network.ip(&["-n", &internet, "link", "add", bridge, "type", "bridge"]);
            network.ip(&["-n", &internet, "link", "set", bridge, "up"]);
        }
        network.ip(&["-n", &internet, "link", "add", "cable-west", "type", "veth", "peer", "name", "cable-east"]);
        for (cable, bridge) in [("cable-west", "br-west"), ("cable-east", "br-east")] {
            network.ip(&["-n", &internet, "link", "set", cable, "master", bridge, "up"]);
        }
        network
    }

    /// A host with a public address: 44.0.0.`number`.
    pub fn public(&mut self, name: &str, number: u8, side: Side) -> Host {
        let namespace = self.namespace(name);
        let address = format!("44.0.0.{number}");
        self.attach(&namespace, &format!("{address}/16"), side, None);
        Host { namespace, address, gateway: None }
    }

    /// The same, behind a firewall that lets nothing in but answers.
    pub fn guarded(&mut self, name: &str, number: u8, side: Side) -> Host {
        let host = self.public(name, number, side);
        let rules = "table inet guard {
           chain input { type filter hook input priority 0; policy drop;
             iifname \"lo\" accept; ct state established,related accept; }
         }";
        self.exec(&host.namespace, &["nft", rules]);
        host
    }

    /// Has a public host send to groups on its own network, as hosts with a default route do.
    pub fn multicast(&self, host: &Host) {
        self.ip(&["-n", &host.namespace, "route", "add", "224.0.0.0/4", "dev", "eth0"]);
    }

    /// A host at home: 10.0.`number`.2, behind a router with the public address 44.0.1.`number`.
    pub fn behind(&mut self, name: &str, number: u8, nat: Nat, side: Side) -> Host {
        self.home(name, number, nat, side, None)
    }

    /// The same, with a slow and lossy line between router and internet.
    pub fn behind_slow(&mut self, name: &str, number: u8, nat: Nat, side: Side, wire: Wire) -> Host {
        self.home(name, number, nat, side, Some(wire))
    }

    fn home(&mut self, name: &str, number: u8, nat: Nat, side: Side, wire: Option<Wire>) -> Host {
        let (router, home) = (self.namespace(&format!("{name}-r")), self.namespace(name));
        self.attach(&router, &format!("44.0.1.{number}/16"), side, wire);
        let (lan, eth) = self.link();
        self.ip(&["link", "add", &lan, "netns", &router, "type", "veth", "peer", "name", &eth, "netns", &home]);
        self.ip(&["-n", &router, "link", "set", &lan, "name", "lan", "up"]);
        self.ip(&["-n", &router, "address", "add", &format!("10.0.{number}.1/24"), "dev", "lan"]);
        self.ip(&["-n", &home, "link", "set", &eth, "name", "eth0", "up"]);
        let (address, gateway) = (format!("10.0.{number}.2"), format!("10.0.{number}.1"));
        self.ip(&["-n", &home, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        self.ip(&["-n", &home, "route", "add", "default", "via", &gateway]);
        let mapping = match nat {
            Nat::Friendly => "masquerade",
            Nat::Symmetric => "masquerade random,fully-random",
        };
        // What isn't an answer to something from inside is dropped, as every home router does.
        let mut rules = String::new();
        let _ = write!(
            rules,
            "table inet nat {{
               chain post {{ type nat hook postrouting priority 100; oifname \"eth0\" {mapping}; }}
               chain forward {{ type filter hook forward priority 0; policy drop;
                 iifname \"lan\" accept; ct state established,related accept; }}
             }}"
        );
        self.exec(&router, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        self.exec(&router, &["nft", &rules]);
        Host { namespace: home, address, gateway: Some(gateway) }
    }

    /// Cuts west from east.
    pub fn cut(&self) {
        self.ip(&["-n", &self.name("net"), "link", "set", "cable-west", "down"]);
    }

    /// Mends the cut.
    pub fn heal(&self) {
        self.ip(&["-n", &self.name("net"), "link", "set", "cable-west", "up"]);
    }

    /// Pulls a host's plug.
    pub fn unplug(&self, host: &Host) {
        self.ip(&["-n", &host.namespace, "link", "set", "eth0", "down"]);
    }

    /// Puts it in again, where the host's route went when it was pulled.
    pub fn plug(&self, host: &Host) {
        self.ip(&["-n", &host.namespace, "link", "set", "eth0", "up"]);
        if let Some(gateway) = &host.gateway {
            self.ip(&["-n", &host.namespace, "route", "replace", "default", "via", gateway]);
        }
    }

    /// Gives a public host another address, as a VPN does that comes up elsewhere.
    pub fn renumber(&self, host: &mut Host, number: u8) {
        self.ip(&["-n", &host.namespace, "address", "flush", "dev", "eth0"]);
        host.address = format!("44.0.0.{number}");
        self.ip(&["-n", &host.namespace, "address", "add", &format!("{}/16", host.address), "dev", "eth0"]);
    }

    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    fn namespace(&mut self, name: &str) -> String {
        let namespace = self.name(name);
        self.ip(&["netns", "add", &namespace]);
        self.namespaces.push(namespace.clone());
        self.ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        namespace
    }

    /// A pair of names that no other link on this machine has.
    fn link(&mut self) -> (String, String) {
        self.links += 1;
        (format!("{}a{}", self.id, self.links), format!("{}b{}", self.id, self.links))
    }

    fn attach(&mut self, namespace: &str, address: &str, side: Side, wire: Option<Wire>) {
        let internet = self.name("net");
        let (port, eth) = self.link();
        match wire {
            None => self.ip(&["link", "add", &port, "netns", &internet, "type", "veth", "peer", "name", &eth, "netns", namespace]),
            Some(wire) => {
                self.cables.push(wire.lay(&port, &eth));
                self.ip(&["link", "set", &port, "netns", &internet]);
                self.ip(&["link", "set", &eth, "netns", namespace]);
            }
        }
        let bridge = if side == Side::West { "br-west" } else { "br-east" };
        self.ip(&["-n", &internet, "link", "set", &port, "master", bridge, "up"]);
        self.ip(&["-n", namespace, "link", "set", &eth, "name", "eth0", "up"]);
        self.ip(&["-n", namespace, "address", "add", address, "dev", "eth0"]);
    }

    fn ip(&self, arguments: &[&str]) {
        run("ip", arguments);
    }

    fn exec(&self, namespace: &str, arguments: &[&str]) {
        run("ip", &[&["netns", "exec", namespace], arguments].concat());
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

impl Host {
    /// Its own address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The command that runs `program` on it.
    pub fn command_ref(&self, program: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// Removes what runs that were killed have left.
fn remove_stale() {
    let listed = Command::new("ip").args(["netns", "list"]).output().expect("iproute2");
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix("mz").and_then(|rest| rest.split('x').next()).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

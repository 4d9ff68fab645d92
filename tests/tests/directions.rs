//! The layout is the architecture: who may depend on whom, and which crate alone names which heavy dependency.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Each room and the rooms of ours that it may see.
const ROOMS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("kernel", &["protocol"]),
    ("mesh", &["protocol"]),
    ("agreement", &["protocol"]),
    ("trace", &["protocol"]),
    ("store", &["protocol"]),
    ("mcp-gateway", &["protocol"]),
    ("mcpctl", &["protocol"]),
    ("mcp-bootstrap", &["protocol", "mesh"]),
    ("mcpd", &["protocol", "kernel", "mesh", "agreement", "trace", "store"]),
];

/// What only these may name.
const HEAVY: &[(&str, &[&str])] = &[
    ("libp2p", &["mesh"]),
    ("quinn", &["mesh"]),
    ("wasmtime", &["kernel"]),
    ("wasmparser", &["kernel"]),
    ("rusqlite", &["store"]),
    ("cryptoki", &["mcpd"]),
    ("mongodb", &["store"]),
    ("axum", &["mcpd", "mcp-gateway"]),
    ("clap", &["mcpd", "mcp-gateway", "mcpctl", "mcp-bootstrap"]),
];

/// Rooms without clock and runtime, whatever they depend on.
const PURE: &[&str] = &["agreement", "trace"];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--offline")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Each package of the workspace and what its manifest names, a test's needs aside.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let named = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        dependencies.filter(|dependency| dependency["kind"] != "dev").map(|dependency| text(&dependency["name"])).collect()
    };
    metadata["packages"].as_array().expect("packages").iter().map(|package| (text(&package["name"]), named(package))).collect()
}

#[test]
fn dependencies_point_one_way() {
    let manifests = manifests();
    let ours: BTreeSet<&str> = manifests.keys().map(String::as_str).collect();
    for (room, may_see) in ROOMS {
        let sees = manifests.get(*room).unwrap_or_else(|| panic!("there is no {room}"));
        let wrong: Vec<_> = sees.iter().filter(|name| ours.contains(name.as_str()) && !may_see.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{room} must not see {wrong:?}");
    }
    let unlisted: Vec<_> = ours.iter().filter(|name| **name != "tests" && ROOMS.iter().all(|(room, _)| room != *name)).collect();
    assert!(unlisted.is_empty(), "say here what these may see: {unlisted:?}");
}

#[test]
fn one_crate_names_each_heavy_dependency() {
    for (package, names) in manifests().iter().filter(|(package, _)| *package != "tests") {
        for (heavy, may_name) in HEAVY {
            let is_it = |name: &String| name == heavy || name.strip_prefix(heavy).is_some_and(|rest| rest.starts_with('-'));
            let named: Vec<_> = names.iter().filter(|name| is_it(name)).collect();
            assert!(named.is_empty() || may_name.contains(&package.as_str()), "{package} must not name {named:?}");
        }
    }
}

#[test]
fn pure_rooms_have_no_runtime() {
    for room in PURE {
        let tree = cargo(&["tree", "--package", room, "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
        let runtime: Vec<_> =
            tree.lines().filter(|line| ["tokio ", "futures ", "async-std ", "mio "].iter().any(|name| line.starts_with(name))).collect();
        assert!(runtime.is_empty(), "{room} depends on {runtime:?}");
        assert!(tree.lines().count() > 3, "the tree is there: {tree}");
    }
}

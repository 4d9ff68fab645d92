//! Profiles: defaults for a kind of node. Whatever is set by hand counts more.

use toml::Value;

use super::keys::Key;

/// A small machine with other work to do: a quarter of one core, and 256 MiB for agents.
const EDGE: &[(&str, &str)] = &[
    ("mesh.peers", "16"),
    ("mesh.max_memory_mib", "512"),
    ("kernel.cpu_percent", "27"),
    ("kernel.max_memory_mib", "256"),
    ("kernel.max_concurrent", "16"),
];

/// A developer's machine: what plugins log is in the node's log too, nodes beside one another find each other, and agree by
/// themselves.
const DEV: &[(&str, &str)] = &[
    ("log.level", "\"info,plugin=debug\""),
    ("mesh.upnp", "false"),
    ("mesh.private_addresses", "true"),
    ("agreements.accept", "\"auto\""),
    ("trace.checkpoint_seconds", "1"),
];

/// What a profile changes.
pub(super) fn defaults(profile: &str) -> impl Iterator<Item = (&'static Key, Value)> {
    let changes = match profile {
        "edge" => EDGE,
        "dev" => DEV,
        _ => &[],
    };
    changes.iter().filter_map(|(name, value)| {
        let key = Key::named(name)?;
        Some((key, key.written(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_changes_settings_that_there_are_to_values_that_fit() {
        for (profile, count) in [("edge", EDGE.len()), ("dev", DEV.len()), ("server", 0)] {
            let changes: Vec<_> = defaults(profile).collect();
            assert_eq!(changes.len(), count, "{profile}");
            for (key, value) in changes {
                key.check(&value).expect(key.name);
                assert_ne!(value, key.default_value(), "{}", key.name);
            }
        }
    }
}

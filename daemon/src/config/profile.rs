//! Profiles: defaults for a kind of node. Whatever is set by hand counts more.

use toml::Value;

use super::keys::Key;

/// A small machine with other work to do: a quarter of one core, and 256 MiB for agents, of whose places and disk one agent has
/// a part.
const EDGE: &[(&str, &str)] = &[
    ("mesh.peers", "16"),
    ("mesh.max_memory_mib", "512"),
    ("kernel.cpu_percent", "27"),
    ("kernel.max_memory_mib", "256"),
    ("kernel.max_concurrent", "16"),
    ("kernel.limits.memory", "\"48MiB\""),
    ("kernel.limits.fuel", "3000000000"),
    ("kernel.limits.state_bytes", "\"4MiB\""),
    ("kernel.limits.result_bytes", "\"4MiB\""),
    ("kernel.limits.egress_bytes", "\"4MiB\""),
    ("kernel.limits.concurrency", "4"),
    ("kernel.limits.quota_bytes", "\"256MiB\""),
    ("kernel.limits.quota_keys", "1000000"),
];

/// A developer's machine: what plugins log is in the node's log too, nodes beside one another find each other, and agree by
/// themselves. Calls may take what builds without optimisation take.
const DEV: &[(&str, &str)] = &[
    ("log.level", "\"info,plugin=debug\""),
    ("mesh.upnp", "false"),
    ("mesh.private_addresses", "true"),
    ("kernel.limits.memory", "\"256MiB\""),
    ("kernel.limits.fuel", "100000000000"),
    ("kernel.limits.wall_ms", "60000"),
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

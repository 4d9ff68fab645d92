//! Every setting there is: its key, its environment variable, its kind and its default, in one table.

use protocol::wire::MAX_RESULT;
use toml::Value;

/// What a setting's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from 0 to the given most.
    Number(u64),
    /// Bytes, from 1 to the given most: a whole number, or a text such as `64MiB`.
    Bytes(u64),
    /// Text.
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A list of texts; in the environment separated by commas.
    List,
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its place in the file: `mesh.port`.
    pub(crate) name: &'static str,
    /// Its environment variable.
    pub(crate) env: &'static str,
    /// What its value may be.
    pub(crate) kind: Kind,
    /// Its default, as TOML.
    pub(crate) default: &'static str,
}

/// The most that a limit may be where nothing else bounds it: what a whole number of TOML can be.
const ANY: u64 = i64::MAX.unsigned_abs();
const PORT: Kind = Kind::Number(65_535);

/// All of them, in the order in which `config show` prints them.
pub(crate) const KEYS: &[Key] = &[
    key("profile", "MCP_PROFILE", Kind::Choice(&["server", "edge", "dev"]), "\"server\""),
    key("log.level", "MCP_LOG_LEVEL", Kind::Text, "\"info\""),
    key("log.format", "MCP_LOG_FORMAT", Kind::Choice(&["text", "json"]), "\"text\""),
    key("mesh.enabled", "MCP_MESH_ENABLED", Kind::Bool, "true"),
    key("mesh.id", "MCP_MESH_ID", Kind::Text, "\"\""),
    key("mesh.join_token_file", "MCP_JOIN_TOKEN_FILE", Kind::Text, "\"\""),
    key("mesh.credential_seconds", "MCP_MESH_CREDENTIAL_SECONDS", Kind::Number(30 * 24 * 3_600), "2592000"),
    key("mesh.host", "MCP_MESH_HOST", Kind::Text, "\"0.0.0.0\""),
    key("mesh.port", "MCP_MESH_PORT", PORT, "8765"),
    key("mesh.quic_port", "MCP_MESH_QUIC_PORT", PORT, "8765"),
    key("mesh.tcp_port", "MCP_MESH_TCP_PORT", PORT, "8766"),
    key("mesh.bootstrap_peers", "MCP_BOOTSTRAP_PEERS", Kind::List, "[]"),
    key("mesh.tls_cert", "MCP_MESH_TLS_CERT", Kind::Text, "\"\""),
    key("mesh.tls_key", "MCP_MESH_TLS_KEY", Kind::Text, "\"\""),
    key("mesh.announce", "MCP_MESH_ANNOUNCE", Kind::List, "[]"),
    key("mesh.relay", "MCP_MESH_RELAY", Kind::Bool, "true"),
    key("mesh.upnp", "MCP_MESH_UPNP", Kind::Bool, "true"),
    key("mesh.mdns", "MCP_MESH_MDNS", Kind::Bool, "true"),
    key("mesh.private_addresses", "MCP_MESH_PRIVATE_ADDRESSES", Kind::Bool, "false"),
    key("mesh.peers", "MCP_MESH_PEERS", Kind::Number(512), "40"),
    key("mesh.max_memory_mib", "MCP_MESH_MAX_MEMORY_MIB", Kind::Number(1 << 20), "1024"),
    key("owner.passphrase_file", "MCP_OWNER_PASSPHRASE_FILE", Kind::Text, "\"\""),
    key("owner.pkcs11", "MCP_OWNER_PKCS11", Kind::Text, "\"\""),
    key("node.zone", "MCP_NODE_ZONE", Kind::Text, "\"\""),
    key("kernel.cpu_percent", "MCP_KERNEL_CPU_PERCENT", Kind::Number(100_000), "0"),
    key("kernel.max_concurrent", "MCP_KERNEL_MAX_CONCURRENT", Kind::Number(64), "64"),
    key("kernel.max_memory_mib", "MCP_KERNEL_MAX_MEMORY_MIB", Kind::Number(1 << 20), "0"),
    key("kernel.limits.memory", "MCP_KERNEL_LIMITS_MEMORY", Kind::Bytes(kernel::MAX_MEMORY), "\"64MiB\""),
    key("kernel.limits.fuel", "MCP_KERNEL_LIMITS_FUEL", Kind::Number(ANY), "10000000000"),
    key("kernel.limits.wall_ms", "MCP_KERNEL_LIMITS_WALL_MS", Kind::Number(24 * 3_600_000), "10000"),
    key("kernel.limits.state_bytes", "MCP_KERNEL_LIMITS_STATE_BYTES", Kind::Bytes(ANY), "\"16MiB\""),
    key("kernel.limits.result_bytes", "MCP_KERNEL_LIMITS_RESULT_BYTES", Kind::Bytes(MAX_RESULT as u64), "\"16MiB\""),
    key("kernel.limits.egress_bytes", "MCP_KERNEL_LIMITS_EGRESS_BYTES", Kind::Bytes(ANY), "\"16MiB\""),
    key("kernel.limits.concurrency", "MCP_KERNEL_LIMITS_CONCURRENCY", Kind::Number(1024), "32"),
    key("kernel.limits.quota_bytes", "MCP_KERNEL_LIMITS_QUOTA_BYTES", Kind::Bytes(ANY), "\"4GiB\""),
    key("kernel.limits.quota_keys", "MCP_KERNEL_LIMITS_QUOTA_KEYS", Kind::Number(ANY), "10000000"),
    key("kernel.imports", "MCP_KERNEL_IMPORTS", Kind::List, r#"["state", "log", "clock", "random", "http", "agents"]"#),
    key("kernel.http_allow", "MCP_KERNEL_HTTP_ALLOW", Kind::List, "[]"),
    key("kernel.http_networks", "MCP_KERNEL_HTTP_NETWORKS", Kind::List, "[]"),
    key("kernel.http_roots", "MCP_KERNEL_HTTP_ROOTS", Kind::Text, "\"\""),
    key("plugins.share", "MCP_PLUGINS_SHARE", Kind::Choice(&["owner", "members", "nobody"]), "\"owner\""),
    key("agreements.accept", "MCP_AGREEMENTS_ACCEPT", Kind::Choice(&["auto", "manual", "deny"]), "\"manual\""),
    key("agreements.min_validity_s", "MCP_AGREEMENTS_MIN_VALIDITY_S", Kind::Number(86_400), "60"),
    key("agreements.max_days", "MCP_AGREEMENTS_MAX_DAYS", Kind::Number(3_650), "366"),
    key("agreements.currency", "MCP_AGREEMENTS_CURRENCY", Kind::Text, "\"credit\""),
    key("agreements.price_per_call", "MCP_AGREEMENTS_PRICE_PER_CALL", Kind::Text, "\"0\""),
    key("agreements.price_per_million_fuel", "MCP_AGREEMENTS_PRICE_PER_MILLION_FUEL", Kind::Text, "\"0\""),
    key("agreements.overage_percent", "MCP_AGREEMENTS_OVERAGE_PERCENT", Kind::Number(1_000_000), "0"),
    key("agreements.overage_price_per_call", "MCP_AGREEMENTS_OVERAGE_PRICE_PER_CALL", Kind::Text, "\"\""),
    key("agreements.overage_price_per_million_fuel", "MCP_AGREEMENTS_OVERAGE_PRICE_PER_MILLION_FUEL", Kind::Text, "\"\""),
    key("agreements.max_unacknowledged", "MCP_AGREEMENTS_MAX_UNACKNOWLEDGED", Kind::Number(1_000_000_000), "1000"),
    key("agreements.closing_grace_s", "MCP_AGREEMENTS_CLOSING_GRACE_S", Kind::Number(86_400), "60"),
    key("agreements.budget.agreements", "MCP_AGREEMENTS_BUDGET_AGREEMENTS", Kind::Number(ANY), "16"),
    key("agreements.budget.agreements_per_day", "MCP_AGREEMENTS_BUDGET_AGREEMENTS_PER_DAY", Kind::Number(ANY), "32"),
    key("agreements.budget.calls_per_day", "MCP_AGREEMENTS_BUDGET_CALLS_PER_DAY", Kind::Number(ANY), "0"),
    key("agreements.budget.unacknowledged", "MCP_AGREEMENTS_BUDGET_UNACKNOWLEDGED", Kind::Number(ANY), "1000"),
    key("agreements.budget.all_agreements", "MCP_AGREEMENTS_BUDGET_ALL_AGREEMENTS", Kind::Number(ANY), "1000"),
    key("agreements.budget.all_agreements_per_day", "MCP_AGREEMENTS_BUDGET_ALL_AGREEMENTS_PER_DAY", Kind::Number(ANY), "2000"),
    key("agreements.budget.all_calls_per_day", "MCP_AGREEMENTS_BUDGET_ALL_CALLS_PER_DAY", Kind::Number(ANY), "0"),
    key("agreements.budget.all_unacknowledged", "MCP_AGREEMENTS_BUDGET_ALL_UNACKNOWLEDGED", Kind::Number(ANY), "10000"),
    key("trace.checkpoint_seconds", "MCP_TRACE_CHECKPOINT_SECONDS", Kind::Number(3_600), "10"),
    key("trace.keep_days", "MCP_TRACE_KEEP_DAYS", Kind::Number(36_500), "0"),
    key("webhooks.attempts", "MCP_WEBHOOKS_ATTEMPTS", Kind::Number(100), "12"),
    key("store.type", "MCP_DB_TYPE", Kind::Choice(&["embedded"]), "\"embedded\""),
];

/// Variables that begin with `MCP_` and belong to other programs of ours, or to flags.
pub(crate) const OTHER_VARIABLES: &[&str] =
    &["MCP_DATA_DIR", "MCP_CONFIG", "MCP_SOCKET", "MCP_API_KEYS", "MCP_API_KEYS_FILE", "MCP_JOIN_TOKEN"];

const fn key(name: &'static str, env: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, env, kind, default }
}

impl Key {
    /// The setting of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The name closest to a wrong one, if one is close.
    pub(crate) fn nearest(name: &str) -> Option<&'static str> {
        let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
        let close = |key: &&Key| {
            strsim::normalized_damerau_levenshtein(key.name, name).max(strsim::jaro_winkler(&last(key.name), &last(name)) - 0.2)
        };
        let best = KEYS.iter().max_by(|a, b| close(a).total_cmp(&close(b)))?;
        (close(&best) > 0.5).then_some(best.name)
    }

    /// Checks a value from a file.
    ///
    /// # Errors
    /// What the value should have been.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let wanted = match (self.kind, value) {
            (Kind::Bool, Value::Boolean(_)) | (Kind::Text, Value::String(_)) => return Ok(()),
            (Kind::Number(most), Value::Integer(number)) if u64::try_from(*number).is_ok_and(|n| n <= most) => return Ok(()),
            (Kind::Bytes(most), value) if bytes(value).is_some_and(|n| (1..=most).contains(&n)) => return Ok(()),
            (Kind::Choice(choices), Value::String(text)) if choices.contains(&text.as_str()) => return Ok(()),
            (Kind::List, Value::Array(items)) if items.len() <= 64 && items.iter().all(Value::is_str) => return Ok(()),
            (Kind::Bool, _) => "true or false".into(),
            (Kind::Number(most), _) => format!("a whole number from 0 to {most}"),
            (Kind::Bytes(most), _) => format!("bytes, 1 to {most}, such as 65536 or \"64MiB\""),
            (Kind::Text, _) => "a text".into(),
            (Kind::Choice(choices), _) => format!("one of {}", choices.join(", ")),
            (Kind::List, _) => "a list of at most 64 texts".into(),
        };
        Err(format!("{} must be {wanted}, not {value}", self.name))
    }

    /// Reads a value from the environment or a flag.
    ///
    /// # Errors
    /// What the value should have been.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self.kind {
            Kind::Bool => text.parse().map(Value::Boolean).unwrap_or_else(|_| Value::String(text.into())),
            Kind::Number(_) | Kind::Bytes(_) => text.parse().map(Value::Integer).unwrap_or_else(|_| Value::String(text.into())),
            Kind::Text | Kind::Choice(_) => Value::String(text.into()),
            Kind::List => Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect()),
        };
        self.check(&value).map(|()| value)
    }

    /// The default.
    pub(crate) fn default_value(&self) -> Value {
        self.written(self.default)
    }

    /// A value of ours, written as TOML.
    pub(crate) fn written(&self, value: &str) -> Value {
        let document: toml::Table = toml::from_str(&format!("value = {value}")).expect("defaults are TOML, as tests show");
        document.into_iter().next().expect("one value").1
    }
}

/// A number of bytes: as it is, or in `KiB`, `MiB` or `GiB`.
pub(crate) fn bytes(value: &Value) -> Option<u64> {
    if let Value::Integer(number) = value {
        return u64::try_from(*number).ok();
    }
    let text = value.as_str()?;
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (number, factor) = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_unit() {
        let key = Key::named("kernel.limits.memory").expect("known");
        for (text, expected) in [("65536", 65_536), ("1KiB", 1 << 10), ("64MiB", 64 << 20), ("64 MiB", 64 << 20)] {
            assert_eq!(bytes(&key.parse(text).expect(text)), Some(expected), "{text}");
        }
        for wrong in ["0", "-1", "64MB", "MiB", "64", "1GiB", "99999999999999999999GiB", "9999999999999GiB"] {
            assert_eq!(key.parse(wrong).is_ok(), wrong == "64", "{wrong}");
        }
    }

    #[test]
    fn every_default_is_valid_and_every_name_is_its_own() {
        for (i, key) in KEYS.iter().enumerate() {
            key.check(&key.default_value()).expect(key.name);
            assert!(KEYS[..i].iter().all(|other| other.name != key.name && other.env != key.env), "{}", key.name);
        }
    }

    #[test]
    fn a_wrong_key_finds_its_neighbour() {
        assert_eq!(Key::nearest("mesh.prot"), Some("mesh.port"));
        assert_eq!(Key::nearest("log.levle"), Some("log.level"));
        assert_eq!(Key::nearest("boostrap_peers"), Some("mesh.bootstrap_peers"));
        assert_eq!(Key::nearest("zzz"), None);
    }
}

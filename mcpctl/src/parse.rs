//! Texts of the command line into values, and values into parts of a route. All pure.

use std::time::Duration;

use protocol::{AgentId, api::GivenLimits, manifest::is_name};
use rust_decimal::Decimal;

/// A length of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time such as 500ms, 10s, 5m, 12h or 30d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    // A thousand years: what comes after is a slip of the hand, and stays far from any overflow.
    let limit = 365_000 * 86_400_000;
    let total = number.checked_mul(milliseconds).filter(|total| (1..=limit).contains(total));
    total.map(Duration::from_millis).ok_or_else(wrong)
}

/// An agent's id or name.
pub(crate) fn agent(text: &str) -> Result<String, String> {
    if text.parse::<AgentId>().is_ok() { Ok(text.into()) } else { name(text) }
}

/// The name of an agent or a method.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err("a name is 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter".into()) }
}

/// The name of a plugin: a name without `_`, which separates the parts of tool names.
pub(crate) fn plugin(text: &str) -> Result<String, String> {
    if is_name(text) && !text.contains('_') {
        Ok(text.into())
    } else {
        Err("a plugin's name is 1 to 32 of a-z, 0-9 and '-', beginning with a letter".into())
    }
}

/// A semantic version: `1.2.3`, `1.2.3-rc.1+build`.
pub(crate) fn release(text: &str) -> Result<String, String> {
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let number = |part: &str| part == "0" || part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() && !part.starts_with('0');
    let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+');
    let plain = rest.len() != 1 && rest.bytes().all(label);
    if text.len() <= 64 && plain && numbers.split('.').count() == 3 && numbers.split('.').all(number) {
        Ok(text.into())
    } else {
        Err("a release is a semantic version such as 1.2.3 or 1.2.3-rc.1".into())
    }
}

/// A price that isn't negative.
pub(crate) fn price(text: &str) -> Result<Decimal, String> {
    let price: Decimal = text.parse().map_err(|_| format!("{text:?} is not a decimal number"))?;
    if price.is_sign_negative() && !price.is_zero() { Err("a price is not negative".into()) } else { Ok(price) }
}

/// `name=value`.
pub(crate) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a parameter is written name=value")?;
    Ok((name.into(), value.into()))
}

/// One segment of a path, or the value of a query, percent-encoded (RFC 3986, section 2.3).
pub(crate) fn segment(text: &str) -> String {
    let encode = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => (b as char).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// What of a call is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Memory,
    Fuel,
    WallMs,
    StateBytes,
    ResultBytes,
    EgressBytes,
    Concurrency,
    QuotaBytes,
    QuotaKeys,
}

/// A limit of calls: `memory=128MiB`, `fuel=1000000`, `wall_ms=500`.
pub(crate) fn limit(text: &str) -> Result<(Limit, u64), String> {
    const NAMES: [(&str, Limit); 9] = [
        ("memory", Limit::Memory),
        ("fuel", Limit::Fuel),
        ("wall_ms", Limit::WallMs),
        ("state_bytes", Limit::StateBytes),
        ("result_bytes", Limit::ResultBytes),
        ("egress_bytes", Limit::EgressBytes),
        ("concurrency", Limit::Concurrency),
        ("quota_bytes", Limit::QuotaBytes),
        ("quota_keys", Limit::QuotaKeys),
    ];
    let (name, value) = text.split_once('=').ok_or("a limit is NAME=VALUE")?;
    let known = || format!("{name:?} is no limit: {}", NAMES.map(|(name, _)| name).join(", "));
    let (_, limit) = NAMES.into_iter().find(|(known, _)| *known == name).ok_or_else(known)?;
    let bytes = matches!(limit, Limit::Memory | Limit::StateBytes | Limit::ResultBytes | Limit::EgressBytes | Limit::QuotaBytes);
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.into_iter().find_map(|(unit, factor)| Some((value.strip_suffix(unit)?, factor))).filter(|_| bytes);
    let (number, factor) = unit.unwrap_or((value, 1_u64));
    let number = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|number| *number > 0);
    number.map(|number| (limit, number)).ok_or_else(|| format!("{value:?} is not a whole number above 0"))
}

/// These limits, the last of each; the node says the rest. None if there are none.
pub(crate) fn limits(given: &[(Limit, u64)]) -> Option<GivenLimits> {
    let mut limits = GivenLimits::default();
    for (limit, value) in given {
        *match limit {
            Limit::Memory => &mut limits.memory,
            Limit::Fuel => &mut limits.fuel,
            Limit::WallMs => &mut limits.wall_ms,
            Limit::StateBytes => &mut limits.state_bytes,
            Limit::ResultBytes => &mut limits.result_bytes,
            Limit::EgressBytes => &mut limits.egress_bytes,
            Limit::Concurrency => &mut limits.concurrency,
            Limit::QuotaBytes => &mut limits.quota_bytes,
            Limit::QuotaKeys => &mut limits.quota_keys,
        } = Some(*value);
    }
    (!given.is_empty()).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "10", "s", "-1s", "1.5s", "0s", "1w", "99999999999999999999s", "18446744073709551615d", "365001d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_releases_and_prices() {
        assert!(agent("docs").is_ok() && agent(&AgentId::new().to_string()).is_ok() && agent("../etc").is_err());
        assert!(plugin("docs-2").is_ok() && plugin("docs_2").is_err());
        for good in ["0.1.0", "1.2.3-rc.1+5", "10.20.30"] {
            assert!(release(good).is_ok(), "{good}");
        }
        for bad in ["1", "1.2", "01.2.3", "1.2.3-", "1.2.x", "1.2.3 ", "1..3"] {
            assert!(release(bad).is_err(), "{bad}");
        }
        assert!(price("0.01").is_ok() && price("-0.01").is_err() && price("1e").is_err());
    }

    #[test]
    fn parameters_and_segments() {
        assert_eq!(parameter("calls=1000/1d"), Ok(("calls".into(), "1000/1d".into())));
        assert!(parameter("=1").is_err() && parameter("calls").is_err());
        assert_eq!(segment("did:key:z6/ä?"), "did:key:z6%2F%C3%A4%3F");
    }

    #[test]
    fn limits_say_what_they_name_alone() {
        let given = ["memory=128MiB", "wall_ms=500", "state_bytes=1024"].map(|text| limit(text).expect(text));
        let (memory, wall_ms, state_bytes) = (Some(128 << 20), Some(500), Some(1024));
        assert_eq!(limits(&given), Some(GivenLimits { memory, wall_ms, state_bytes, ..GivenLimits::default() }));
        assert!(limits(&[]).is_none());
        for bad in ["memory", "memory=", "memory=0", "memory=x", "memory=-1", "fuel=1KiB", "cpu=1", "memory=99999999999GiB"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}

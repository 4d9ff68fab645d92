//! `trace list`: entries by agent, action, agreement, principal and time.

use protocol::{
    AgreementId, Client, Did, SignedDuration, Timestamp,
    api::{TraceItem, TracePage},
};

use super::{describe_pruned, outline};
use crate::{
    error::Result,
    output::{Output, table},
    parse,
};

/// The most that the daemon answers at once.
const MAX_PAGE: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only what is about this agent: the name of one that lives here, or an id
    #[arg(long, value_name = "AGENT", value_parser = parse::agent)]
    agent: Option<String>,
    /// Only these actions, with commas: execute,agreement
    #[arg(long, value_name = "ACTIONS", value_delimiter = ',')]
    action: Vec<String>,
    /// Only what is under this agreement
    #[arg(long, value_name = "ID")]
    agreement: Option<AgreementId>,
    /// Only what this principal asked for
    #[arg(long, value_name = "DID")]
    principal: Option<Did>,
    /// Only what happened since: for how long (1h, 30d), or a time (2026-07-01T00:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only what happened until then, given alike
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Begin at this index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// How many at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// A time, or how long ago it was.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago =
        parse::duration(text).map_err(|_| format!("{text:?} is neither a time (2026-07-01T00:00:00Z) nor how long ago it was (1h)"))?;
    let ago = SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
    Ok(Timestamp::now().saturating_sub(ago).unwrap_or(Timestamp::MIN))
}

impl Arguments {
    /// What is the same in the queries of all pages.
    fn filter(&self) -> String {
        let actions = self.action.iter().map(|action| action.replace('-', "_")).collect::<Vec<_>>().join(",");
        let parts = [
            ("agent", self.agent.clone()),
            ("action", Some(actions).filter(|actions| !actions.is_empty())),
            ("agreement", self.agreement.map(|id| id.to_string())),
            ("principal", self.principal.map(|did| did.to_string())),
            ("since", self.since.map(|time| time.to_string())),
            ("until", self.until.map(|time| time.to_string())),
        ];
        parts.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", parse::segment(&value?)))).collect()
    }
}

pub(super) async fn run(arguments: &Arguments, client: &Client, output: Output) -> Result {
    let (filter, limit) = (arguments.filter(), arguments.limit.max(1) as usize);
    let mut all = TracePage { items: Vec::new(), next: Some(arguments.from), pruned: None };
    let progress = output.progress();
    while let Some(from) = all.next.filter(|_| all.items.len() < limit) {
        progress.show(&format!("from entry {from}"));
        let most = (limit - all.items.len()).min(MAX_PAGE);
        let page: TracePage = client.get(&format!("/v1/trace?from={from}&limit={most}{filter}")).await?;
        all.items.extend(page.items);
        all.next = page.next;
        all.pruned = all.pruned.or(page.pruned);
    }
    progress.end();
    if all.items.is_empty() && !output.is_json() {
        output.note("none");
    } else {
        output.show(&all, |all| table(["index", "time", "operation", "action", "subject", "outcome"], all.items.iter().map(row)))?;
    }
    if let Some(pruned) = &all.pruned {
        output.note(&describe_pruned(pruned));
    }
    if let Some(next) = all.next {
        output.note(&format!("there are more: --from {next}"));
    }
    Ok(())
}

fn row(item: &TraceItem) -> [String; 6] {
    let (action, subject) = outline(&item.entry);
    let outcome = item.entry.failure.map_or_else(|| "ok".into(), |code| code.to_string());
    let time = item.entry.time.strftime("%FT%TZ").to_string();
    [item.index.to_string(), time, item.entry.operation.to_string(), action.into(), subject, outcome]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_or_counted_back() {
        assert_eq!(moment("2026-07-01T00:00:00Z").map(|time| time.as_second()), Ok(1_782_864_000));
        let ago = Timestamp::now().as_second() - moment("2h").expect("two hours ago").as_second();
        assert!((7_200..7_260).contains(&ago), "{ago}");
        for wrong in ["", "yesterday", "1", "-1h", "2026-07-01"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}

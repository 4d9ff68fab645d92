//! `events`: what happens on the node, as it happens.

use protocol::{AgentId, AgreementId, Client, Problem, api::TraceEvent, entry::Entry, error::Code};

use super::trace::outline;
use crate::{error::Result, output::Output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Begin at this index of the trace; from now on if not given
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    #[command(flatten)]
    filter: Filter,
}

/// What is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only these actions, with commas: execute,agreement
    #[arg(long, value_name = "ACTIONS", value_delimiter = ',')]
    pub(crate) action: Vec<String>,
    /// Only what is about this agent
    #[arg(long, value_name = "ID")]
    pub(crate) agent: Option<AgentId>,
    /// Only what is under this agreement
    #[arg(long, value_name = "ID")]
    pub(crate) agreement: Option<AgreementId>,
}

/// Prints an event a line, until interrupted.
pub(crate) async fn run(Arguments { from, filter }: Arguments, client: &Client, output: Output) -> Result {
    let Filter { action, agent, agreement } = filter;
    if let Some(wrong) = action.iter().find(|action| !action.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
        return Err(Problem::new(Code::InvalidRequest, format!("{wrong:?} is no action")).into());
    }
    let parts = [
        from.map(|from| format!("from={from}")),
        (!action.is_empty()).then(|| format!("actions={}", action.join(","))),
        agent.map(|agent| format!("agent={agent}")),
        agreement.map(|agreement| format!("agreement={agreement}")),
    ];
    let query = parts.into_iter().flatten().collect::<Vec<_>>().join("&");
    let mut events = client.events(&format!("/v1/events?{query}")).await?;
    while let Some(event) = events.next().await? {
        let unreadable = |error| Problem::new(Code::Internal, format!("an event can't be read: {error}"));
        let event: TraceEvent = serde_json::from_str(&event.data).map_err(unreadable)?;
        output.show(&event, line)?;
    }
    output.note("the daemon has ended the stream");
    Ok(())
}

fn line(TraceEvent { index, entry }: &TraceEvent) -> String {
    let Ok(read) = serde_json::from_str::<Entry>(entry.get()) else {
        return format!("{index:8}  {entry}"); // of a later version
    };
    let (action, subject) = outline(&read);
    let outcome = read.failure.map_or_else(|| "ok".into(), |code| code.to_string());
    format!("{index:8}  {}  {action} {subject} {outcome}", read.time.strftime("%FT%TZ"))
}

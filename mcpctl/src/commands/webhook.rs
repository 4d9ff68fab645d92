//! `webhook`: the trace posted to somebody's address.

use protocol::{
    Client,
    api::{CreateWebhook, DeadLetter, EventFilter, List, Retried, Webhook},
    id::WebhookId,
};

use super::events::Filter;
use crate::{
    error::Result,
    output::{Output, fields},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Post what happens to a URL, signed (standardwebhooks.com, v1a)
    Add {
        /// Where
        url: String,
        /// Begin at this index of the trace; from now on if not given
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        #[command(flatten)]
        filter: Filter,
    },
    /// List webhooks, and how far each is
    List,
    /// Post nothing more there
    Remove {
        /// The webhook
        id: WebhookId,
    },
    /// List what was not delivered, after every attempt
    Dead {
        /// The webhook
        id: WebhookId,
    },
    /// Deliver that now
    Retry {
        /// The webhook
        id: WebhookId,
    },
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Add { url, from, filter } => {
            let Filter { action: actions, agent, agreement } = filter;
            let create = CreateWebhook { url, from, filter: EventFilter { actions, agent, agreement } };
            let webhook: Webhook = client.post("/v1/webhooks", &create).await?;
            output.show(&webhook, describe)
        }
        Command::List => {
            let webhooks: List<Webhook> = client.get("/v1/webhooks").await?;
            output.list(&webhooks, ["id", "url", "next", "failures", "last error"], |webhook| {
                let error = webhook.last_error.clone().unwrap_or_default();
                [webhook.id.to_string(), webhook.url.clone(), webhook.next.to_string(), webhook.failures.to_string(), error]
            })
        }
        Command::Remove { id } => {
            client.delete::<()>(&format!("/v1/webhooks/{id}")).await?;
            output.show(&serde_json::json!({ "id": id, "removed": true }), |_| format!("{id} removed\n"))
        }
        Command::Dead { id } => {
            let letters: List<DeadLetter> = client.get(&format!("/v1/webhooks/{id}/dead")).await?;
            output.list(&letters, ["from", "to", "events", "at", "error"], |letter| {
                let DeadLetter { from, to, events, error, at } = letter;
                [from.to_string(), to.to_string(), events.to_string(), at.to_string(), error.clone()]
            })
        }
        Command::Retry { id } => {
            let retried: Retried = client.post(&format!("/v1/webhooks/{id}/retry"), &()).await?;
            output.show(&retried, |Retried { delivered, left, error }| {
                let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                format!("{delivered} delivered, {left} left{why}\n")
            })
        }
    }
}

fn describe(webhook: &Webhook) -> String {
    fields([
        ("id", webhook.id.to_string()),
        ("url", webhook.url.clone()),
        ("next", webhook.next.to_string()),
        ("verify with", webhook.public_key.clone()),
    ])
}

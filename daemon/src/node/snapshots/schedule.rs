//! Snapshots by the clock.

use std::{collections::HashMap, time::Duration};

use protocol::{AgentId, Code, Problem, SignedDuration, Timestamp, api, entry::Action};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{MAX_SNAPSHOTS, Node};
use crate::node::Caller;

/// How often it is looked whether one is due.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest interval, and the longest: a year.
const SHORTEST_S: u64 = 1;
const LONGEST_S: u64 = 366 * 24 * 3_600;

impl Node {
    /// Has snapshots of an agent taken by the clock, or not.
    pub(crate) async fn set_schedule(
        &self,
        caller: &Caller,
        id_or_name: &str,
        schedule: Option<api::Schedule>,
    ) -> Result<api::Agent, Problem> {
        if let Some(api::Schedule { every_s, keep }) = schedule
            && !((SHORTEST_S..=LONGEST_S).contains(&every_s) && (1..=MAX_SNAPSHOTS as u32).contains(&keep))
        {
            let detail = format!("snapshots are taken every {SHORTEST_S} to {LONGEST_S} s, and 1 to {MAX_SNAPSHOTS} are kept");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
        let (agent, _gate) = self.hold(id_or_name).await?;
        let outline = api::Agent { schedule, ..agent.outline.clone() };
        let every_s = schedule.map(|schedule| schedule.every_s);
        let action = Action::Schedule { agent: outline.id, every_s, keep: schedule.map(|schedule| schedule.keep) };
        self.replace(caller, &agent, outline, action).await
    }

    /// Takes the snapshots that are due, until cancelled.
    pub(crate) async fn keep_snapshots(self, stop: CancellationToken) {
        let mut taken: HashMap<AgentId, Timestamp> = HashMap::new();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let scheduled = self.agents.all().into_iter().filter_map(|agent| Some((agent.outline.id, agent.outline.schedule?)));
            let scheduled: Vec<(AgentId, api::Schedule)> = scheduled.collect();
            taken.retain(|known, _| scheduled.iter().any(|(agent, _)| agent == known));
            for (agent, schedule) in scheduled {
                let last = match taken.get(&agent) {
                    Some(last) => *last,
                    None => self.last_taken(agent).await,
                };
                let every = SignedDuration::from_secs(i64::try_from(schedule.every_s).unwrap_or(i64::MAX));
                let now = Timestamp::now();
                // A clock that was set back makes nothing wait for long: then it is taken at once.
                if now >= last && now.duration_since(last) < every {
                    taken.insert(agent, last);
                    continue;
                }
                let caller = Caller { principal: self.owner, request_id: "schedule".into() };
                if let Err(problem) = self.take_snapshot(&caller, &agent.to_string(), Some(schedule.keep)).await {
                    tracing::warn!(%agent, %problem, "a snapshot that was due was not taken");
                }
                // After a failure, too: it is tried again when the next one is due.
                taken.insert(agent, now);
            }
        }
    }

    /// When the newest snapshot of an agent was taken.
    async fn last_taken(&self, agent: AgentId) -> Timestamp {
        let newest = self.snapshots_of(agent).await.ok().and_then(|all| Some(all.last()?.document().header.issued_at));
        newest.unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

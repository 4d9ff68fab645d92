//! An agent moves to another node of its owner. Its id stays, and so does all that belongs to it: state, agreements with what
//! was used under them, answers under idempotency keys.
//!
//! ```text
//! home                                                       new home
//! Welcome: room, name, trust ──────────────────────────────>
//! Hold: most of the state, while calls go on ──────────────>
//! calls wait; those under way end
//! Hold: what the last calls changed ───────────────────────>
//! the record says "moving": from here on a crash can't make two homes of one
//! Adopt ───────────────────────────────────────────────────>  one commit: the agent lives here, one epoch later
//! one commit: the agent lives there <──────────────────────
//! calls are told where; nodes that are told ask there
//! ```
//! If the answer to Adopt is lost, neither side runs the agent until Settle has told which one is its home. Who comes back
//! after having been given up learns from adverts that there is a later epoch, and lets go (`fence.rs`).

mod arrive;
mod fence;
mod whereabouts;

use std::{sync::Arc, time::Duration};

use protocol::{
    Code, NodeId, Problem, api,
    custody::{Adopt, Custody, Hold, MAX_PAPERS, Papers},
    entry::Action,
    wire::{self, Response},
};
use serde::{Deserialize, Serialize};
use store::{Append, Commit, Kind, RecordWrite};
use tokio::sync::OwnedRwLockWriteGuard;

pub(super) use self::whereabouts::Elsewhere;
use self::whereabouts::Whereabouts;
use super::{
    Caller, Node,
    agents::{Agent, Presence, Record},
    journal,
};

/// How long calls under way are waited for.
const DRAIN: Duration = Duration::from_secs(30);
/// For the new home to take over: the state is there already.
const ADOPTION: Duration = Duration::from_secs(60);
/// Between two attempts to find out what became of a move.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A move that was decided and whose outcome isn't known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moving {
    /// The new home.
    pub(crate) to: NodeId,
    /// The agent's epoch there.
    pub(crate) epoch: u64,
}

impl Node {
    /// Moves an agent to another node of this owner.
    pub(crate) async fn move_agent(&self, caller: &Caller, id_or_name: &str, to: NodeId) -> Result<api::Moved, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        self.require_ours(to).await?;
        self.entrust(to, Custody::Welcome(Box::new(agent.outline.clone())), &caller.request_id, DRAIN).await?;
        // What was kept goes along, and most of the state before calls have to wait.
        self.take_snapshot(caller, id_or_name, None).await?;
        self.hand_over_snapshots(&agent.outline, to).await?;
        let calls_end = tokio::time::timeout(DRAIN, Arc::clone(&agent.presence).write_owned());
        let busy = |_| {
            Problem::new(Code::Overloaded, format!("calls of agent {} have been under way for {} s", agent.outline.name, DRAIN.as_secs()))
        };
        let presence = calls_end.await.map_err(busy)?;
        // Whoever changed it before has ended; whoever comes finds it absent.
        let gate = Arc::clone(&agent.gate).lock_owned().await;
        let agent =
            self.agents.get(&agent.outline.id).filter(|_| *presence == Presence::Here).ok_or_else(|| self.agents.missing(id_or_name))?;
        let moved = self.move_still(caller, &agent, to, presence).await;
        drop(gate);
        moved
    }

    /// Moves an agent that nobody calls.
    async fn move_still(
        &self,
        caller: &Caller,
        agent: &Arc<Agent>,
        to: NodeId,
        mut presence: OwnedRwLockWriteGuard<Presence>,
    ) -> Result<api::Moved, Problem> {
        let outline = &agent.outline;
        let id = outline.id;
        let snapshot = self.take_snapshot(caller, &id.to_string(), None).await?.id;
        self.hand_over_snapshots(outline, to).await?;
        let papers = wire::encode(&Papers {
            agent: outline.clone(),
            agreements: self.undertakings(&id).await?,
            answers: self.answers_of(&id).await?,
        });
        if papers.len() as u64 > MAX_PAPERS {
            let detail = format!("the answers kept for agent {} take {} bytes, too many to go along", outline.name, papers.len());
            return Err(Problem::new(Code::TooLarge, detail).hint("answers are kept for a day: try again later"));
        }
        let papers = self.plugins.blobs().put(papers).await?;
        let moving = Moving { to, epoch: outline.epoch + 1 };
        self.note_move(agent, Some(moving), outline.epoch, None).await?;
        *presence = Presence::Moving(to);
        let adopt = Adopt { agent: id, epoch: moving.epoch, snapshot, papers };
        let adopted = self.entrust(to, Custody::Adopt(adopt), &caller.request_id, ADOPTION).await;
        let settled = match adopted {
            Ok(_) => Ok(true),
            Err(problem) => {
                tracing::warn!(agent = %outline.name, %to, %problem, "a move was not confirmed");
                self.ask_settled(agent, moving)
                    .await
                    .map_err(|_| problem.clone())
                    .and_then(|adopted| if adopted { Ok(true) } else { Err(problem) })
            }
        };
        let _ = self.plugins.blobs().remove(&papers).await;
        match settled {
            Ok(_) => {
                let departed = self.depart(caller, agent, moving, &mut presence).await;
                departed.inspect_err(|_| self.settle_later(Arc::clone(agent), moving))?;
                self.hold_or_release(outline).await?;
                Ok(api::Moved { agent: id, name: outline.name.clone(), to, epoch: moving.epoch })
            }
            // It is known that the other node hasn't and won't.
            Err(problem) if self.agents.get(&id).is_some_and(|now| now.moving.is_none()) => {
                *presence = Presence::Here;
                Err(problem)
            }
            Err(problem) => {
                self.settle_later(Arc::clone(agent), moving);
                let hint = format!(
                    "it takes no calls until node {to} says whether it came; 'mcpctl agent move {} --stay' gives up on that node",
                    outline.name
                );
                Err(Problem::new(Code::AgentMoving, format!("whether agent {} moved isn't known: {}", outline.name, problem.detail))
                    .hint(hint))
            }
        }
    }

    /// Brings all snapshots of an agent to a node; what that one has already costs a question each.
    async fn hand_over_snapshots(&self, agent: &api::Agent, to: NodeId) -> Result<(), Problem> {
        let snapshots = self.snapshots_of(agent.id).await?;
        let keep: Vec<_> = snapshots.iter().map(|signed| signed.document().id).collect();
        for signed in snapshots {
            self.entrusted(to, Hold { snapshot: signed.into(), agent: agent.clone(), keep: keep.clone() }).await?;
        }
        Ok(())
    }

    /// Writes down that an agent is moving, or isn't any longer.
    async fn note_move(&self, agent: &Agent, moving: Option<Moving>, epoch: u64, entry: Option<Append>) -> Result<(), Problem> {
        let outline = api::Agent { epoch, ..agent.outline.clone() };
        let record = Record { moving, ..Record::of(agent, outline, *agent.state.read().await) };
        let write = RecordWrite { kind: Kind::Agent, id: agent.outline.id.to_string(), value: Some(journal::encode(&record)) };
        self.journal.keep(Commit { records: vec![write], entry, ..Commit::default() }).await?;
        self.agents.put(agent, record);
        Ok(())
    }

    /// Asks the node that an agent was to move to; if it hasn't come, and won't, the agent goes on here.
    async fn ask_settled(&self, agent: &Agent, moving: Moving) -> Result<bool, Problem> {
        let (id, name) = (agent.outline.id, agent.outline.name.clone());
        let settle = Custody::Settle { agent: id, name, epoch: moving.epoch };
        match self.entrust(moving.to, settle, "settle", DRAIN).await? {
            Response::Settled(true) => Ok(true),
            // In that epoch the other node never will: the agent goes on in it here.
            Response::Settled(false) => self.note_move(agent, None, moving.epoch, None).await.map(|()| false),
            _ => Err(Problem::new(Code::Internal, format!("node {} answered what was not asked", moving.to))),
        }
    }

    /// The agent lives elsewhere from now on.
    async fn depart(&self, caller: &Caller, agent: &Agent, moving: Moving, presence: &mut Presence) -> Result<(), Problem> {
        let (id, Moving { to, epoch }) = (agent.outline.id, moving);
        let state = *agent.state.read().await;
        let entry = self.journal.append(caller.note(), Action::Move { agent: id, to, epoch });
        let there = Whereabouts { name: agent.outline.name.clone(), node: to, epoch };
        let records = vec![RecordWrite { kind: Kind::Agent, id: id.to_string(), value: None }, there.record(id)];
        self.journal.keep(Commit { clear_state: Some(state), records, entry: Some(entry), ..Commit::default() }).await?;
        *presence = Presence::Gone;
        self.agents.forget(agent);
        self.agreements.forget_agent(&id);
        self.whereabouts.insert(id, there);
        self.logs.forget(&id);
        self.publish_soon();
        Ok(())
    }

    /// What was kept of an agent that has left stays here if it asks for replicas, of which this node is the first.
    async fn hold_or_release(&self, agent: &api::Agent) -> Result<(), Problem> {
        match agent.replicas {
            0 => self.release_held(agent.id).await,
            _ => self.hold_on(agent).await,
        }
    }

    /// Goes on asking in the background.
    fn settle_later(&self, agent: Arc<Agent>, moving: Moving) {
        let node = self.clone();
        self.tasks.spawn(async move {
            let mut pause = RETRY.0;
            loop {
                tokio::select! {
                    () = node.stopping.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                match node.settle_move(&agent, moving).await {
                    Ok(()) => return,
                    Err(problem) => tracing::warn!(agent = %agent.outline.name, %problem, "it isn't known whether it moved"),
                }
                pause = (pause * 2).min(RETRY.1);
            }
        });
    }

    /// Finds out what became of a move, and makes it so. Nothing if somebody else did meanwhile.
    async fn settle_move(&self, agent: &Arc<Agent>, moving: Moving) -> Result<(), Problem> {
        let still = || self.agents.get(&agent.outline.id).is_some_and(|now| now.moving == Some(moving));
        if !still() {
            return Ok(());
        }
        self.require_ours(moving.to).await?;
        let mut presence = agent.presence.write().await;
        if !still() {
            return Ok(());
        }
        if self.ask_settled(agent, moving).await? {
            let caller = Caller { principal: self.owner, request_id: "settle".into() };
            self.depart(&caller, agent, moving, &mut presence).await?;
            return self.hold_or_release(&agent.outline).await;
        }
        *presence = Presence::Here;
        self.publish_soon();
        Ok(())
    }

    /// Moves that a crash has interrupted.
    pub(crate) fn settle_moves(&self) {
        for agent in self.agents.all() {
            if let Some(moving) = agent.moving {
                self.settle_later(agent, moving);
            }
        }
    }

    /// The operator gives up on the node that an agent was to move to: it goes on here, in an epoch of which that node, should
    /// it come back, learns that it is later.
    pub(crate) async fn stay(&self, caller: &Caller, id_or_name: &str) -> Result<api::Moved, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        let mut presence = agent.presence.write().await;
        let agent = self.agents.get(&agent.outline.id).ok_or_else(|| self.agents.missing(id_or_name))?;
        let settled = || Problem::new(Code::Conflict, format!("agent {} isn't on the move", agent.outline.name));
        let moving = agent.moving.ok_or_else(settled)?;
        let action = Action::Stay { agent: agent.outline.id, epoch: moving.epoch + 1 };
        self.note_move(&agent, None, moving.epoch + 1, Some(self.journal.append(caller.note(), action))).await?;
        *presence = Presence::Here;
        self.publish_soon();
        Ok(api::Moved { agent: agent.outline.id, name: agent.outline.name.clone(), to: self.node_id, epoch: moving.epoch + 1 })
    }
}

/// The error for an agent whose move isn't settled.
pub(super) fn on_the_move(agent: &Agent, to: NodeId) -> Problem {
    Problem::new(Code::AgentMoving, format!("agent {} is moving to node {to}", agent.outline.name)).hint("try again in a moment")
}

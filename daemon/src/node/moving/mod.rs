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
//! Adopt ───────────────────────────────────────────────────>  the state is written, and read again
//!                                                             one commit: the agent lives here, one epoch later
//!    <──────────────────────────────────────────── Holding ── signed: what the state came to
//! one commit: the agent lives there; its last snapshot stays here for a while
//! calls are told where; nodes that are told ask there
//! ```
//! If the answer to Adopt is lost, or proves nothing, neither side runs the agent until Settle has told which one is its home.
//! What is told is signed, either way (`proof.rs`). If the other node did not adopt it, the agent goes on here two epochs
//! later: in the one between, nobody but a liar is its home, and whoever meets both follows the later one. Who comes back after
//! having been given up learns from adverts that there is a later epoch, asks that home to prove it, and lets go (`fence.rs`).

mod arrive;
mod fence;
mod proof;
mod whereabouts;

use std::{sync::Arc, time::Duration};

use protocol::{
    Code, NodeId, Problem, Signed, api,
    custody::{Adopt, Custody, Hold, Holding, MAX_PAPERS, Papers, Possession},
    entry::Action,
    snapshot::Snapshot,
    wire::{self, Response},
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};
use tokio::sync::OwnedRwLockWriteGuard;

use self::whereabouts::Whereabouts;
pub(super) use self::{arrive::Arrival, whereabouts::Elsewhere};
use super::{
    Caller, Node,
    agents::{Agent, Presence, Record},
    custody::{Entrusted, Retained},
    execute::strange,
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
    /// What the new home is given, and must prove to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) given: Option<Possession>,
}

/// How an agent leaves.
struct Departure {
    to: NodeId,
    epoch: u64,
    /// How the trace tells of it.
    action: Action,
    /// What goes into the same commit.
    along: Vec<RecordWrite>,
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
        let moved = Box::pin(self.move_still(caller, &agent, to, presence)).await;
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
        let given = self.snapshot(id, snapshot).await?;
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
        let Snapshot { index, keys, bytes, .. } = *given.document();
        let given = Possession { snapshot, index, keys, bytes, papers: Some(papers) };
        let moving = Moving { to, epoch: outline.epoch + 1, given: Some(given) };
        self.note_move(agent, Some(moving), outline.epoch, Commit::default()).await?;
        *presence = Presence::Moving(to);
        let adopt = Adopt { agent: id, epoch: moving.epoch, snapshot, papers };
        let settled = match self.ask_to_adopt(adopt, moving, &caller.request_id).await {
            Ok(proof) => Ok(proof),
            Err(problem) => {
                tracing::warn!(agent = %outline.name, %to, %problem, "a move was not confirmed");
                self.ask_settled(agent, moving).await.map_err(|_| problem.clone()).and_then(|proof| proof.ok_or(problem))
            }
        };
        let _ = self.plugins.blobs().remove(&papers).await;
        match settled {
            Ok(proof) => {
                let departed = self.depart_proven(caller, agent, moving, &proof, &mut presence).await;
                departed.inspect_err(|_| self.settle_later(Arc::clone(agent), moving))?;
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

    /// Asks a node to become an agent's home, and to prove that it is.
    async fn ask_to_adopt(&self, adopt: Adopt, moving: Moving, request_id: &str) -> Result<Signed<Holding>, Problem> {
        let agent = adopt.agent;
        let answer = self.entrust(moving.to, Custody::Adopt(adopt), request_id, ADOPTION).await?;
        let Response::Holding(sealed) = answer else { return Err(strange(moving.to)) };
        let proof = self.verify_holding(moving.to, (agent, moving.epoch), *sealed).await?;
        match self.proves_move(moving, &proof)? {
            true => Ok(proof),
            false => Err(Problem::new(Code::Conflict, format!("node {} did not adopt agent {agent}", moving.to))),
        }
    }

    /// Brings all snapshots of an agent's own history to a node; what that one has already costs a question each.
    async fn hand_over_snapshots(&self, agent: &api::Agent, to: NodeId) -> Result<(), Problem> {
        let snapshots = self.own_line(agent.id).await?;
        let keep: Vec<_> = snapshots.iter().map(|signed| signed.document().id).collect();
        for signed in snapshots {
            self.entrusted(to, Hold { snapshot: signed.into(), agent: agent.clone(), keep: keep.clone() }).await?;
        }
        Ok(())
    }

    /// Writes down that an agent is moving, or isn't any longer, in one commit with whatever else is in `along`.
    async fn note_move(&self, agent: &Agent, moving: Option<Moving>, epoch: u64, mut along: Commit) -> Result<(), Problem> {
        let outline = api::Agent { epoch, ..agent.outline.clone() };
        let record = Record { moving, ..Record::of(agent, outline, *agent.state.read().await) };
        let write = RecordWrite { kind: Kind::Agent, id: agent.outline.id.to_string(), value: Some(journal::encode(&record)) };
        along.records.push(write);
        self.journal.keep(along).await?;
        self.agents.put(agent, record);
        Ok(())
    }

    /// Asks the node that an agent was to move to for its proof; if it hasn't come, and won't, the agent goes on here.
    async fn ask_settled(&self, agent: &Agent, moving: Moving) -> Result<Option<Signed<Holding>>, Problem> {
        let (id, name) = (agent.outline.id, agent.outline.name.clone());
        let said = self.ask_holding(moving.to, id, name, moving.epoch).await?;
        if self.proves_move(moving, &said)? {
            return Ok(Some(said));
        }
        // That node never will in that epoch. If it lies, whoever meets both homes follows the later epoch, which is this one.
        let epoch = moving.epoch + 1;
        let caller = Caller { principal: self.owner, request_id: "settle".into() };
        let entry = self.journal.append(caller.note(), Action::Stay { agent: id, epoch });
        let along = Commit { entry: Some(entry), ..Commit::default() };
        self.note_move(agent, None, epoch, along).await.map(|()| None)
    }

    /// The agent lives elsewhere, as that node has proved. What it was given stays here for a while: a proof says who answers for
    /// a state, it doesn't bring a lost one back.
    async fn depart_proven(
        &self,
        caller: &Caller,
        agent: &Agent,
        moving: Moving,
        _proof: &Signed<Holding>,
        presence: &mut Presence,
    ) -> Result<(), Problem> {
        let (id, Moving { to, epoch, given }) = (agent.outline.id, moving);
        let mut along = vec![Entrusted { agent: agent.outline.clone(), known: Vec::new() }.record()];
        let retained = Retained { home: to, left_s: Some(self.retain_s), told: true };
        along.extend(given.filter(|_| self.retain_s > 0).map(|given| retained.record(id, given.snapshot)));
        let departure = Departure { to, epoch, action: Action::Move { agent: id, to, epoch }, along };
        self.depart(caller, agent, departure, presence).await?;
        self.hold_or_release(&agent.outline).await
    }

    /// The agent lives elsewhere from now on.
    async fn depart(&self, caller: &Caller, agent: &Agent, departure: Departure, presence: &mut Presence) -> Result<(), Problem> {
        let (id, Departure { to, epoch, action, along }) = (agent.outline.id, departure);
        let state = *agent.state.read().await;
        let entry = self.journal.append(caller.note(), action);
        let there = Whereabouts { name: agent.outline.name.clone(), node: to, epoch };
        let mark = api::Departed { node: to, epoch: Some(epoch), lost: false };
        let mut records = vec![RecordWrite { kind: Kind::Agent, id: id.to_string(), value: None }, there.record(id)];
        records.extend(self.agreements.departing(&id, mark));
        records.extend(along);
        self.journal.keep(Commit { clear_state: Some(state), records, entry: Some(entry), ..Commit::default() }).await?;
        *presence = Presence::Gone;
        self.agents.forget(agent);
        self.agreements.departed(&id, mark);
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
        if let Some(proof) = self.ask_settled(agent, moving).await? {
            let caller = Caller { principal: self.owner, request_id: "settle".into() };
            return self.depart_proven(&caller, agent, moving, &proof, &mut presence).await;
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
        let along = Commit { entry: Some(self.journal.append(caller.note(), action)), ..Commit::default() };
        self.note_move(&agent, None, moving.epoch + 1, along).await?;
        *presence = Presence::Here;
        self.publish_soon();
        Ok(api::Moved { agent: agent.outline.id, name: agent.outline.name.clone(), to: self.node_id, epoch: moving.epoch + 1 })
    }
}

/// The error for an agent whose move isn't settled.
pub(super) fn on_the_move(agent: &Agent, to: NodeId) -> Problem {
    Problem::new(Code::AgentMoving, format!("agent {} is moving to node {to}", agent.outline.name)).hint("try again in a moment")
}

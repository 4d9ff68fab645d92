//! Where agents of others were last found, if they had moved: a bounded memory, as it can be had again by asking.

use std::collections::{HashMap, VecDeque};

use protocol::{AgentId, NodeId};

/// Agents that are remembered, some 100 bytes each; the one that came first makes room.
const MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Routes {
    nodes: HashMap<AgentId, NodeId>,
    order: VecDeque<AgentId>,
}

impl Routes {
    pub(super) fn get(&self, agent: &AgentId) -> Option<&NodeId> {
        self.nodes.get(agent)
    }

    pub(super) fn insert(&mut self, agent: AgentId, node: NodeId) {
        if self.nodes.insert(agent, node).is_none() {
            self.order.push_back(agent);
        }
        if self.nodes.len() > MAX
            && let Some(first) = self.order.pop_front()
        {
            self.nodes.remove(&first);
        }
    }

    pub(super) fn remove(&mut self, agent: &AgentId) {
        if self.nodes.remove(agent).is_some() {
            self.order.retain(|known| known != agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_forgets() {
        let (mut routes, node) = (Routes::default(), protocol::Key::generate().node_id());
        let agents: Vec<AgentId> = (0..=MAX).map(|_| AgentId::new()).collect();
        agents.iter().for_each(|agent| routes.insert(*agent, node));
        assert_eq!((routes.get(&agents[0]), routes.get(&agents[MAX])), (None, Some(&node)));
        routes.remove(&agents[1]);
        assert_eq!((routes.nodes.len(), routes.order.len()), (MAX - 1, MAX - 1));
    }
}

//! What agents may import: where the plugin's manifest, the agent's grants and the node's policy all say so.

use protocol::{
    Code, Problem, api,
    grant::{Grants, MAX_GRANTS},
    manifest::Import,
};

use super::plugins::Plugins;
use crate::egress::Egress;

/// What the node allows any agent.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) imports: Vec<Import>,
    pub(crate) egress: Egress,
}

impl Allowed {
    /// Whether the node lets plugins import these.
    pub(super) fn check(&self, imports: &[Import]) -> Result<(), Problem> {
        match imports.iter().find(|import| !self.imports.contains(import)) {
            None => Ok(()),
            Some(import) => Err(denied(format!("this node lets no plugin import {}", import.as_str()))
                .hint("its operator says in 'kernel.imports' what plugins may import")),
        }
    }
}

fn denied(detail: String) -> Problem {
    Problem::new(Code::ImportDenied, detail)
}

impl Plugins {
    /// Whether an agent with these grants may run a plugin.
    pub(super) fn check_grants(&self, plugin: &api::Plugin, grants: &Grants) -> Result<(), Problem> {
        if grants.http.len() > MAX_GRANTS || grants.agents.len() > MAX_GRANTS {
            return Err(Problem::new(Code::InvalidRequest, format!("an agent is granted at most {MAX_GRANTS} hosts and as many agents")));
        }
        self.allowed().check(&plugin.imports)?;
        if let Some(import) = plugin.imports.iter().find(|import| !grants.includes(**import)) {
            let name = import.as_str();
            let hint = match import {
                Import::Http => "grant it the hosts that it needs: '--allow-http HOST'",
                _ => "grant it the agents that it needs: '--allow-agent NAME'",
            };
            return Err(
                denied(format!("plugin {}@{} asks for {name}, which the agent is not granted", plugin.name, plugin.release)).hint(hint)
            );
        }
        let reaches = plugin.imports.contains(&Import::Http);
        match grants.http.iter().find(|hosts| reaches && !self.allowed().egress.allows(hosts)) {
            None => Ok(()),
            Some(hosts) => Err(denied(format!("this node lets no agent reach {hosts}"))
                .hint("its operator lists in 'kernel.http_allow' what agents may reach")),
        }
    }
}

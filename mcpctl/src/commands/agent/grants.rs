//! What an agent may reach outside of itself, on the command line.

use protocol::grant::{AgentPattern, Grants, HostPattern};

#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Arguments {
    /// A host that it may send HTTP requests to, may be repeated: api.example.com, with ':PORT' if need be, '*.example.com',
    /// or 'http://HOST:PORT' without TLS. The node must allow it too ('kernel.http_allow')
    #[arg(long = "allow-http", value_name = "HOST")]
    http: Vec<HostPattern>,
    /// An agent that it may call, may be repeated: a name on this node, an id, or '*' for any
    #[arg(long = "allow-agent", value_name = "AGENT")]
    agents: Vec<AgentPattern>,
}

impl Arguments {
    /// The grants, if any were given.
    pub(crate) fn changed(self) -> Option<Grants> {
        Some(self.into()).filter(|grants: &Grants| !grants.is_empty())
    }
}

impl From<Arguments> for Grants {
    fn from(Arguments { http, agents }: Arguments) -> Self {
        Self { http, agents }
    }
}

/// In one line, empty for nothing.
pub(crate) fn describe(grants: &Grants) -> String {
    let hosts = grants.http.iter().map(ToString::to_string);
    let agents = grants.agents.iter().map(|agent| match agent {
        AgentPattern::Any => "any agent".to_owned(),
        named => format!("agent {named}"),
    });
    hosts.chain(agents).collect::<Vec<_>>().join(", ")
}

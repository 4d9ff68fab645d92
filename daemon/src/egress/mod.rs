//! What agents ask of the web: one bounded HTTP/1.1 request, one bounded answer, and no way around the policy.
//!
//! ```text
//! url ── granted to the agent? allowed by the node? ──► resolve ── every address allowed? ──► connect to one of these
//!     ──► TLS, for the url's host ──► request (1 MiB) ──► answer (4 MiB)
//! ```
//! The name is resolved once, and the connection goes to an address that was checked: an answer of DNS that changes in
//! between changes nothing. Redirects are answers, proxies of the environment are ignored, and nothing is kept from one
//! request to the next. A future that is dropped closes its connection.

mod address;
mod connect;
mod exchange;
mod target;

use std::{path::PathBuf, sync::Arc};

use ipnet::IpNet;
use kernel::{HttpRequest, HttpResponse};
use protocol::{Problem, grant::HostPattern};

pub(crate) use self::address::network;
use self::{connect::Connector, target::Target};

/// What the node allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Hosts that an agent may reach to which they are granted.
    pub(crate) allow: Vec<HostPattern>,
    /// Addresses that may be reached though they aren't public.
    pub(crate) networks: Vec<IpNet>,
    /// Root certificates (PEM), beside those of the web.
    pub(crate) roots: Option<PathBuf>,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Egress(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    allow: Vec<HostPattern>,
    connector: Connector,
    /// For what the operator asks for: it goes where the operator says.
    anywhere: Connector,
}

/// Whether an operator's URL leads anywhere.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    Target::parse(url).map(drop)
}

impl Egress {
    /// Reads the root certificates.
    pub(crate) fn open(policy: Policy) -> Result<Self, Problem> {
        let connector = Connector::open(policy.networks, policy.roots.as_deref())?;
        let anywhere = connector.anywhere();
        Ok(Self(Arc::new(Parts { allow: policy.allow, connector, anywhere })))
    }

    /// Posts what the operator asked for to where the operator said; answers with the status.
    pub(crate) async fn post(&self, url: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> Result<u16, String> {
        let target = Target::parse(url)?;
        let request = exchange::request(&target, HttpRequest { method: "POST".into(), url: url.into(), headers, body })?;
        let stream = self.0.anywhere.connect(&target).await?;
        Ok(exchange::exchange(stream, request).await.map_err(|reason| format!("{target}: {reason}"))?.status)
    }

    /// Whether the node lets any agent reach these hosts.
    pub(crate) fn allows(&self, hosts: &HostPattern) -> bool {
        self.0.allow.iter().any(|allowed| allowed.covers(hosts))
    }

    /// Sends a request to one of the hosts that are granted; the error is for the guest.
    pub(crate) async fn send(
        &self,
        granted: &[HostPattern],
        request: HttpRequest,
        egress: &mut kernel::Egress,
    ) -> Result<HttpResponse, String> {
        let Parts { allow, connector, .. } = &*self.0;
        let target = Target::parse(&request.url)?;
        let Target { tls, host, port, .. } = &target;
        let among = |patterns: &[HostPattern]| patterns.iter().any(|pattern| pattern.matches(*tls, host, *port));
        if !among(granted) {
            return Err(format!("{target} was not granted to this agent"));
        }
        if !among(allow) {
            return Err(format!("this node lets no agent reach {target}"));
        }
        let request = exchange::request(&target, request)?;
        egress.spend(exchange::size(&request))?;
        let stream = connector.connect(&target).await?;
        exchange::exchange(stream, request).await.map_err(|reason| format!("{target}: {reason}"))
    }
}

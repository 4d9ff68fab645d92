//! Honest calls under an agreement while others attack both nodes and a gateway, against the same calls in peace.
//!
//! ```text
//! this process ─► node a ══ honest calls ══► node b <── peers without agreements: proposals, calls, acknowledgements
//!                                              └─ gateway <── clients: double headers, wrong keys, broken requests
//! ```
//! `MCP_HOSTILE_SECONDS` says how long, in all. The bench fails if anything is signed or charged beyond the honest calls.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use futures::FutureExt as _;
use mesh::{Config, Handler, Listen, Mesh};
use protocol::{
    AgentId, AgreementId, Code, Header, Key, NodeId, Problem, Signed, SignedDuration, Timestamp,
    agreement::{Agreement, AtLimit, Limit, PerCall, Pricing, Quantity, Window},
    api::{AgreementUsage, Identity},
    wire::{Acknowledge, Announcement, Execute, Request, Response},
};
use serde_json::json;
use tests::{PATIENCE, Process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    arguments::Arguments,
    counter::{self, Tally},
    measure::{Call, Sample, Side, load},
    node::Node,
    place::Place,
    proc::Memory,
    remote::{agree, met},
    report::{Gauge, Report, say},
};

const MESH: &str = "bench-hostile";
/// Honest callers at once.
const CALLERS: usize = 8;
/// Peers that attack, and clients of the gateway.
const ATTACKERS: usize = 4;
/// How often the honest calls' p99 may grow.
const AIM: f64 = 2.0;
/// What a node may hold at the end, in MB.
const MEMORY: f64 = 128.0;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let seconds = std::env::var("MCP_HOSTILE_SECONDS").map_or(Ok(20), |text| text.parse().context("MCP_HOSTILE_SECONDS"))?;
    let pace = arguments.pace();
    let rounds = (Duration::from_secs(seconds).as_secs_f64() / (2.0 * pace.round.as_secs_f64())).ceil().max(2.0) as usize;

    let provider = Node::start(place, "attacked", MESH, &["agreements.accept=auto"]).await?;
    let component = counter::register(&provider.client).await?;
    let agent = counter::spawn(&provider.client, component, "honest").await?.id;
    let bootstrap = format!("mesh.bootstrap_peers={}", provider.address().await?);
    let consumer = Node::start(place, "honest", MESH, &[&bootstrap]).await?;
    met(&consumer).await?;
    let agreement = agree(&consumer, agent).await?;
    let (gateway, front) = provider.gateway_at(place).await?;
    let scene = Scene { provider: provider.client.get("/v1/id").await?, address: provider.address().await?, agent, gateway: front };

    report.gauges(&format!("Honest calls beside {ATTACKERS} attackers of each kind, {CALLERS} callers, {rounds} rounds"));
    let tally = Arc::new(Tally::default());
    let side = honest(&consumer, &provider, agent, &tally);
    load(&side, CALLERS, pace.warm_up).await?;
    let (mut alone, mut beside, mut attacks) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        alone.push(load(&side, CALLERS, pace.round).await?);
        let attack = scene.attack();
        beside.push(load(&side, CALLERS, pace.round).await?);
        attacks += attack.end().await;
    }
    finish(report, Figures { alone, beside, attacks }, (&provider, &consumer, &gateway))?;
    tally.check("honest calls")?;
    billed(&consumer, agreement, &tally).await?;
    drop(gateway);
    consumer.stop().await?;
    provider.stop().await
}

struct Figures {
    alone: Vec<Sample>,
    beside: Vec<Sample>,
    attacks: u64,
}

fn finish(report: &mut Report, figures: Figures, (provider, consumer, gateway): (&Node, &Node, &Process)) -> Result<()> {
    let Figures { alone, beside, attacks } = figures;
    report.beside("hostile", "honest call beside attacks", beside, "in peace", alone, AIM);
    let mut gauge = |what: &str, unit, value, aim| {
        report.gauge(Gauge { section: "hostile", what: what.into(), unit, value, aim, yardstick: None, detail: json!({}) });
    };
    gauge("attacks", "", attacks as f64, None);
    for (what, pid) in [("provider", provider.process.id()), ("consumer", consumer.process.id()), ("gateway", gateway.id())] {
        gauge(&format!("{what} at the end, resident"), "MB", Memory::of(pid)?.rss as f64 / 1e6, Some(MEMORY));
    }
    Ok(())
}

/// Both sides have signed for the honest calls and for nothing else.
async fn billed(consumer: &Node, agreement: AgreementId, tally: &Tally) -> Result<()> {
    let begun = Instant::now();
    loop {
        let usage: AgreementUsage = consumer.client.get(&format!("/v1/agreements/{agreement}/usage")).await?;
        if usage.acknowledged == tally.answers() && usage.total.calls == tally.answers() {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{} calls were answered, and {:?} signed", tally.answers(), usage.total);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn honest(consumer: &Node, provider: &Node, agent: AgentId, tally: &Arc<Tally>) -> Side {
    let (client, tally, id) = (consumer.client.clone(), Arc::clone(tally), agent.to_string());
    let call: Call = Arc::new(move |_| {
        let (client, tally, id) = (client.clone(), Arc::clone(&tally), id.clone());
        async move {
            tally.take(0, counter::count(&client, &id).await?);
            Ok(())
        }
        .boxed()
    });
    Side { call, processes: vec![consumer.process.id(), provider.process.id()] }
}

/// Whom the attackers know.
#[derive(Clone)]
struct Scene {
    provider: Identity,
    address: String,
    agent: AgentId,
    gateway: String,
}

/// Attackers at work.
struct Attack {
    attackers: JoinSet<()>,
    made: Arc<AtomicU64>,
}

impl Attack {
    /// Ends it; how many attacks were made.
    async fn end(mut self) -> u64 {
        self.attackers.shutdown().await;
        self.made.load(Ordering::Relaxed)
    }
}

impl Scene {
    fn attack(&self) -> Attack {
        let (mut attackers, made) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for _ in 0..ATTACKERS {
            let (peer, client, by_peers, by_clients) = (self.clone(), self.clone(), Arc::clone(&made), Arc::clone(&made));
            attackers.spawn(async move {
                if let Err(error) = peer.as_peer(&by_peers).await {
                    say(&format!("an attacking peer gave up: {error:#}"));
                }
            });
            attackers.spawn(async move {
                loop {
                    client.as_client().await;
                    by_clients.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Attack { attackers, made }
    }

    /// A peer that asks for what it may not have, one request after the other.
    async fn as_peer(&self, made: &AtomicU64) -> Result<()> {
        let config = Config {
            listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
            private_addresses: true,
            ..Config::new(Key::generate(), self.provider.mesh_id.clone())
        };
        let mesh = Mesh::spawn(config, Arc::new(Deaf)).await?;
        mesh.join(&self.address, PATIENCE).await?;
        let (owner, node) = (Key::generate(), mesh.node_id());
        loop {
            for request in self.requests(&owner, node) {
                // Refused, most of them; a node that lets go of the peer is reached again by the next request.
                let _ = mesh.request(self.provider.node_id, request, "attack", PATIENCE).await;
                made.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn requests(&self, owner: &Key, node: NodeId) -> [Request; 5] {
        let propose = |valid| Request::Propose(Signed::sign(self.terms(owner, node, valid), &[owner]).into());
        let execute = |agreement| {
            Request::Execute(Execute {
                agent: self.agent,
                method: "count".into(),
                params: "{}".into(),
                agreement,
                idempotency_key: Some("again".into()),
                acknowledged: None,
                chain: Vec::new(),
            })
        };
        let acknowledge = Acknowledge { agreement: AgreementId::new(), agent: self.agent, receipt: None, transitions: 0, proposed: false };
        [
            propose(SignedDuration::from_millis(60)),
            propose(SignedDuration::from_mins(5)),
            execute(None),
            execute(Some(AgreementId::new())),
            Request::Acknowledge(Box::new(acknowledge)),
        ]
    }

    fn terms(&self, owner: &Key, node: NodeId, valid: SignedDuration) -> Agreement {
        Agreement {
            header: Header::new::<Agreement>(&self.provider.mesh_id, Timestamp::now(), valid),
            id: AgreementId::new(),
            provider: self.provider.owner,
            provider_node: self.provider.node_id,
            consumer: owner.did(),
            consumer_node: node,
            agent: self.agent,
            methods: Vec::new(),
            template: "trial".into(),
            limits: vec![Limit { quantity: Quantity::Calls, window: Window::Total, max: 5 }],
            per_call: PerCall { fuel: 1_000_000_000, wall_ms: 10_000, result_bytes: 1 << 20 },
            pricing: Pricing::free(),
            at_limit: AtLimit::Deny,
        }
    }

    /// A client of the gateway that sends what is no request, or one without a key.
    async fn as_client(&self) {
        const REQUESTS: [&str; 4] = [
            "GET /v1/agents HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
            "GET /v1/agents HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mcpz_wrong\r\nConnection: close\r\n\r\n",
            "POST /v1/agents/honest/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "\x16\x03\x01 nonsense\r\n\r\n",
        ];
        for request in REQUESTS {
            let asked = async {
                let mut stream = TcpStream::connect(&self.gateway).await?;
                stream.write_all(request.as_bytes()).await?;
                let mut answer = [0; 512];
                stream.read(&mut answer).await
            };
            let _ = tokio::time::timeout(PATIENCE, asked).await;
        }
    }
}

/// Answers nothing.
struct Deaf;

#[async_trait]
impl Handler for Deaf {
    async fn request(&self, _: NodeId, _: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        Err(Problem::new(Code::NotFound, "there is nothing here"))
    }

    fn announced(&self, _: NodeId, _: Announcement) {}
    fn connected(&self, _: NodeId) {}
    fn disconnected(&self, _: NodeId) {}
}

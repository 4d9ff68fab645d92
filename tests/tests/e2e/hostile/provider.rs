//! A provider that bills what it did not deliver.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use mesh::{Config, Handler, Listen, Mesh};
use parking_lot::Mutex;
use protocol::{
    AgentId, AgreementId, Code, Digest, Header, Key, NodeId, OperationId, Problem, Signed, SignedDuration, Timestamp, Usage,
    advert::{Advert, Effect, Method, Offered, Service},
    agreement::{Agreement, Pricing, Status},
    api::{AgreementState, AgreementUsage, Executed, Propose, TracePage},
    document::Sealed,
    receipt::{Position, Receipt},
    wire::{self, Announcement, Request, Response, Standing},
};
use serde_json::{Value, json};
use tests::{Cluster, Node, PATIENCE, until};

/// What is changed in an honest receipt before it is signed.
type Lie = Box<dyn Fn(&mut Receipt) + Send + Sync>;

/// A provider that answers every call, and states in its receipts what it likes.
struct Liar {
    node: Key,
    owner: Key,
    agent: AgentId,
    mesh: protocol::MeshId,
    lie: Mutex<Lie>,
    terms: Mutex<Option<Agreement>>,
    /// The newest receipt, as an honest provider would state it.
    truth: Mutex<Usage>,
    calls: AtomicU64,
    /// Whether it answers calls at all, or takes them and leaves the caller without an answer.
    silent: std::sync::atomic::AtomicBool,
    /// The newest receipt that it signed, given to whoever settles.
    newest: Mutex<Option<Sealed<Receipt>>>,
    /// Receipts with the consumer's signature that came.
    acknowledged: Mutex<Vec<Sealed<Receipt>>>,
}

/// What one call of it uses, as it says.
const ONE: Usage = Usage { calls: 1, fuel: 1_000, wall_us: 100, egress_bytes: 10 };

impl Liar {
    fn advert(&self) -> Signed<Advert> {
        let method = Method {
            name: "count".into(),
            description: "counts".into(),
            effect: Effect::Mutating,
            idempotent: false,
            input_schema: json!({}),
            output_schema: json!({}),
        };
        let service = Service {
            plugin: "lies".into(),
            release: "1.0.0".into(),
            component: Digest::blake3(b"none"),
            methods: vec![method],
            pricing: Pricing { currency: "EUR".into(), per_call: "0.01".parse().expect("a price"), ..Pricing::free() },
            agents: vec![Offered { id: self.agent, name: "liar".into(), epoch: 0, salt: None }],
        };
        let advert = Advert {
            header: Header::new::<Advert>(&self.mesh, Timestamp::now(), SignedDuration::from_mins(5)),
            node: self.node.node_id(),
            owner: self.owner.did(),
            sequence: 1,
            zone: None,
            load: 0,
            addresses: Vec::new(),
            lineage: Vec::new(),
            ownership: None,
            services: vec![service],
        };
        Signed::sign(advert, &[&self.node])
    }

    fn receipt(&self, terms: &Agreement, method: &str, params: &[u8], result: &[u8]) -> Signed<Receipt> {
        let total = {
            let mut truth = self.truth.lock();
            *truth = truth.plus(ONE);
            *truth
        };
        let mut receipt = Receipt {
            header: Header::new::<Receipt>(&self.mesh, Timestamp::now(), SignedDuration::from_hours(24)),
            agreement: terms.id,
            provider: terms.provider,
            operation: OperationId::new(),
            agent: terms.agent,
            method: method.into(),
            params: Digest::sha256(params),
            result: Digest::sha256(result),
            usage: ONE,
            sequence: total.calls,
            total,
            overage: Usage::default(),
            price: terms.pricing.price(&total, &Usage::default()).expect("a price"),
            currency: terms.pricing.currency.clone(),
            trace: Position { log: self.node.node_id(), index: total.calls, leaf: [0; 32] },
            repeated: false,
        };
        (self.lie.lock())(&mut receipt);
        // What it bills is priced as the terms say, whatever else is wrong.
        if let Some(price) = terms.pricing.price(&receipt.total, &receipt.overage) {
            receipt.price = price;
        }
        let signed = Signed::sign(receipt, &[&self.owner]);
        *self.newest.lock() = Some(signed.clone().into());
        signed
    }

    fn take(&self, sealed: Option<Sealed<Receipt>>) {
        self.acknowledged.lock().extend(sealed);
    }
}

#[async_trait]
impl Handler for Liar {
    async fn request(&self, _: NodeId, request: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        match request {
            Request::Advert => Ok(Response::Advert(self.advert().into())),
            Request::Propose(sealed) => {
                let signed = sealed.open(protocol::Expect::at(&self.mesh, Timestamp::now()))?.countersign(&self.owner);
                *self.terms.lock() = Some(signed.document().clone());
                *self.truth.lock() = Usage::default();
                Ok(Response::Agreement(signed.into()))
            }
            Request::Execute(execute) => {
                self.calls.fetch_add(1, Ordering::Relaxed);
                self.take(execute.acknowledged);
                let terms = self.terms.lock().clone().expect("agreed");
                let result = b"{}";
                let signed = self.receipt(&terms, &execute.method, &execute.params, result);
                if self.silent.load(Ordering::Relaxed) {
                    return Err(Problem::new(Code::Overloaded, "no answer"));
                }
                let said = signed.document();
                let executed = wire::Executed {
                    outcome: Ok(result.as_slice().into()),
                    operation: said.operation,
                    usage: said.usage,
                    receipt: Some(signed.into()),
                };
                Ok(Response::Executed(Box::new(executed)))
            }
            Request::Acknowledge(acknowledge) => {
                let number = acknowledge.receipt.as_ref().map_or(0, number);
                self.take(acknowledge.receipt);
                let newest = self.newest.lock().clone().filter(|newest| number_of(newest) != number);
                let usage = vec![("total".to_owned(), Usage { calls: 9, ..*self.truth.lock() })];
                Ok(Response::Standing(Box::new(Standing {
                    receipt: newest,
                    usage,
                    acknowledged: number,
                    missed: wire::Missed::default(),
                    under_way: 0,
                })))
            }
            _ => Err(Problem::new(Code::NotFound, "there is nothing here")),
        }
    }

    fn announced(&self, _: NodeId, _: Announcement) {}
    fn connected(&self, _: NodeId) {}
    fn disconnected(&self, _: NodeId) {}
}

fn number(sealed: &Sealed<Receipt>) -> u64 {
    number_of(sealed)
}

fn number_of(sealed: &Sealed<Receipt>) -> u64 {
    let payload = sealed.envelope().claimed_payload().expect("a payload");
    serde_json::from_slice::<Receipt>(&payload).expect("a receipt").sequence
}

/// The liar in a mesh with an honest consumer.
struct Scene {
    consumer: Node,
    liar: Arc<Liar>,
    mesh: Mesh,
    _cluster: Cluster,
}

impl Scene {
    async fn new() -> Self {
        let cluster = Cluster::new();
        let consumer = cluster.node("consumer").start().await;
        let liar = Arc::new(Liar {
            node: Key::generate(),
            owner: Key::generate(),
            agent: AgentId::new(),
            mesh: cluster.mesh_id().clone(),
            lie: Mutex::new(Box::new(|_| {})),
            terms: Mutex::default(),
            truth: Mutex::default(),
            calls: AtomicU64::new(0),
            silent: false.into(),
            newest: Mutex::default(),
            acknowledged: Mutex::default(),
        });
        let config = Config {
            listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
            private_addresses: true,
            ..Config::new(liar.node.clone(), cluster.mesh_id().clone())
        };
        let mesh = Mesh::spawn(config, Arc::clone(&liar) as Arc<dyn Handler>).await.expect("a peer");
        mesh.join(consumer.address("tcp"), PATIENCE).await.expect("the consumer answers");
        let advert = liar.advert();
        mesh.announce(Announcement {
            node: liar.node.node_id(),
            sequence: 1,
            digest: Digest::blake3(advert.envelope().payload.as_bytes()),
            expires_at: advert.document().header.expires_at,
            withdrawn: false,
        })
        .await;
        consumer.discovers("lies.count", "").await;
        Self { consumer, liar, mesh, _cluster: cluster }
    }

    /// A new agreement of five calls a day.
    async fn agree(&self) -> AgreementId {
        let propose = Propose {
            agent: self.liar.agent.to_string(),
            node: None,
            methods: Vec::new(),
            template: "trial".into(),
            parameters: [("calls".to_owned(), "5/1d".to_owned())].into(),
        };
        *self.liar.newest.lock() = None;
        let agreed: AgreementState = self.consumer.client().post("/v1/agreements", &propose).await.expect("agreed");
        assert_eq!(agreed.status, Status::Active);
        agreed.terms.id
    }

    async fn call(&self, agreement: AgreementId) -> Result<Executed, Problem> {
        let body = json!({ "method": "count", "params": {}, "agreement": agreement });
        self.consumer.client().post(&format!("/v1/agents/{}/execute", self.liar.agent), &body).await
    }

    fn tell(&self, lie: impl Fn(&mut Receipt) + Send + Sync + 'static) {
        *self.liar.lie.lock() = Box::new(lie);
    }

    async fn show(&self, agreement: AgreementId) -> AgreementState {
        self.consumer.agreement(agreement).await.expect("it is known")
    }

    /// Whether any receipt came back with the consumer's signature that states this number.
    fn signed(&self, agreement: AgreementId, number: u64) -> bool {
        let acknowledged = self.liar.acknowledged.lock();
        let of =
            |sealed: &Sealed<Receipt>| serde_json::from_slice::<Receipt>(&sealed.envelope().claimed_payload().expect("one")).expect("one");
        acknowledged.iter().map(of).any(|receipt| receipt.agreement == agreement && receipt.sequence == number)
    }
}

/// Lies of a kind, each told with the second call, after an honest first one.
fn lies() -> Vec<(&'static str, Lie)> {
    fn lie(name: &'static str, lie: impl Fn(&mut Receipt) + Send + Sync + 'static) -> (&'static str, Lie) {
        (name, Box::new(lie))
    }
    let bill = |receipt: &mut Receipt, calls: u64, fuel: u64| {
        receipt.sequence = calls;
        receipt.total = Usage { calls, fuel, ..receipt.total };
    };
    vec![
        lie("a million calls, and all the fuel in the world", move |receipt| bill(receipt, 1_000_000, 900_000_000_000_000_000)),
        lie("one call more than were sent", move |receipt| bill(receipt, 3, 3_000)),
        lie("more fuel than this call and the ones before used", move |receipt| bill(receipt, 2, 2_001)),
        lie("less than before", move |receipt| bill(receipt, 2, 999)),
        lie("a call that uses more than it may", |receipt| {
            receipt.usage.fuel = u64::MAX / 2;
            receipt.total = ONE.plus(receipt.usage);
        }),
        lie("the same number again", move |receipt| bill(receipt, 1, 1_000)),
        lie("overage without a limit passed", |receipt| receipt.overage = Usage { calls: 1, ..Usage::default() }),
        lie("a repetition of nothing", |receipt| receipt.repeated = true),
        lie("another call", |receipt| receipt.params = Digest::sha256(b"{\"another\":1}")),
        lie("another currency", |receipt| receipt.currency = "USD".into()),
    ]
}

#[tokio::test]
async fn a_receipt_that_cannot_be_true_is_evidence_and_never_countersigned() {
    let scene = Scene::new().await;
    for (name, lie) in lies() {
        scene.tell(|_| {});
        let agreement = scene.agree().await;
        scene.call(agreement).await.unwrap_or_else(|problem| panic!("{name}: an honest call: {problem}"));
        scene.tell(lie);
        let refused = scene.call(agreement).await.expect_err(name);
        assert_eq!(refused.code, Code::AgreementDisputed, "{name}: {refused}");
        let calls = scene.liar.calls.load(Ordering::Relaxed);
        let again = scene.call(agreement).await.expect_err(name);
        assert_eq!(again.code, Code::AgreementDisputed, "{name}");
        assert_eq!(scene.liar.calls.load(Ordering::Relaxed), calls, "{name}: no further call is sent");

        let state = scene.show(agreement).await;
        let dispute = state.dispute.unwrap_or_else(|| panic!("{name}: the evidence is shown"));
        assert_eq!((dispute.sent, state.used.calls), (2, 1), "{name}");
        let evidence = dispute.receipt.open(protocol::Expect::archived(&scene.liar.mesh)).expect("it verifies");
        evidence.require(scene.liar.owner.did()).expect("the provider signed it");
        assert!(evidence.require(scene.consumer.identity().owner).is_err(), "{name}: the consumer did not");
        // What both have signed counts; what the provider says is told apart.
        let usage: AgreementUsage = scene.consumer.client().get(&format!("/v1/agreements/{agreement}/usage")).await.expect("usage");
        assert_eq!((usage.total, usage.acknowledged, usage.receipt), (ONE, 1, 1), "{name}");
        assert!(!scene.signed(agreement, dispute_number(&evidence)) || dispute_number(&evidence) == 1, "{name}");
        let verified = verified(&scene.consumer, agreement).await;
        assert_eq!(verified["acknowledged"], json!(1), "{name}: {verified}");
    }
    // Each is an entry of the trace, and so an event.
    let entries: TracePage = scene.consumer.client().get("/v1/trace?action=dispute").await.expect("the trace");
    assert_eq!(entries.items.len(), lies().len());
    scene.mesh.shutdown().await;
}

fn dispute_number(evidence: &Signed<Receipt>) -> u64 {
    evidence.document().sequence
}

/// What `agreement verify` makes of what `agreement show` printed.
async fn verified(consumer: &Node, agreement: AgreementId) -> Value {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("agreement.json");
    let shown = consumer.json(&["agreement", "show", &agreement.to_string()]).await;
    std::fs::write(&file, shown.to_string()).expect("written");
    consumer.json(&["agreement", "verify", &file.to_string_lossy()]).await
}

/// What is asked of it without a call is held against the same: the newest receipt when the consumer settles.
#[tokio::test]
async fn settling_takes_no_lie_either_and_a_restart_forgets_nothing() {
    let mut scene = Scene::new().await;
    let agreement = scene.agree().await;
    scene.call(agreement).await.expect("an honest call");
    // A call that is never answered may be billed at the most that it may use, and no further.
    scene.liar.silent.store(true, Ordering::Relaxed);
    scene.tell(|receipt| {
        receipt.sequence = 100;
        receipt.total = Usage { calls: 100, fuel: 100_000, ..receipt.total };
    });
    scene.call(agreement).await.expect_err("no answer");
    let dispute = until("the lie to be found", async || scene.show(agreement).await.dispute).await;
    assert!(dispute.why.contains("at most 2 calls were sent"), "{}", dispute.why);

    scene.consumer.kill9();
    scene.consumer.restart().await;
    let kept = scene.show(agreement).await.dispute.expect("it is kept");
    assert_eq!((kept.at, kept.why), (dispute.at, dispute.why));
    scene.liar.silent.store(false, Ordering::Relaxed);
    let refused = scene.call(agreement).await.expect_err("over");
    assert_eq!(refused.code, Code::AgreementDisputed);
}

/// Calls that were sent before a crash count after it, at most a block too many.
#[tokio::test]
async fn after_a_crash_the_bound_is_the_calls_that_were_sent_and_a_block() {
    let mut scene = Scene::new().await;
    let agreement = scene.agree().await;
    for _ in 0..3 {
        scene.call(agreement).await.expect("an honest call");
    }
    scene.consumer.kill9();
    scene.consumer.restart().await;
    until("the liar to be connected", async || scene.mesh.join(scene.consumer.address("tcp"), PATIENCE).await.ok()).await;
    scene.call(agreement).await.expect("an honest call after a crash");
    scene.tell(|receipt| {
        receipt.sequence = 5 + 256;
        receipt.total = Usage { calls: 5 + 256, ..receipt.total };
    });
    let refused = scene.call(agreement).await.expect_err("more than any block");
    assert_eq!(refused.code, Code::AgreementDisputed, "{refused}");
}

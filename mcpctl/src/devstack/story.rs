//! What the mesh does: every step through a node's socket, as any user would, and every claim verified here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use protocol::{
    Client, Code, Digest, Expect, Header, Key, MeshId, Problem, Signed, Timestamp, Usage,
    agreement::Status,
    api::{Agent, AgreementState, Discovered, Execute, Executed, List, Plugin, Proof, Propose, Publisher, RegisterPlugin, Spawn, Trust},
    entry::Action,
    grant::Grants,
    manifest::{INTERFACE, Import, Manifest},
    receipt::Receipt,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    corpus::Corpus,
    report::{Agreed, Hit, Report, Used},
    stack::Mesh,
};
use crate::{commands::agreement::verify, output::Output};

/// The plugin that the provider's agent runs; its source and build script lie beside it.
const COMPONENT: &[u8] = include_bytes!("../../plugins/docs/docs.wasm");
const RELEASE: &str = "0.1.0";
/// What the consumer looks for.
const CAPABILITY: &str = "docs.search";
/// How long the provider may take to be found.
const PATIENCE: Duration = Duration::from_secs(60);
/// Files that are sent at once.
const AT_ONCE: usize = 4;

/// Tells the whole story; fails at the first step that doesn't hold.
pub(super) async fn tell(mesh: &Mesh, corpus: &Corpus, begun: Instant, output: Output) -> Result<Report, Problem> {
    let (a, b) = (&mesh.consumer().client, &mesh.provider().client);

    output.note("1  b spawns the agent 'docs' from a signed plugin");
    spawn(b).await?;

    let looking = Instant::now();
    let found = discover(a).await?;
    let discovered_ms = looking.elapsed().as_millis() as u64;
    output.note(&format!("2  a finds {CAPABILITY} through Kademlia: agent {} on {} ({discovered_ms} ms)", found.agent, found.node_id));

    let agreement = agree(a, &found).await?;
    output.note(&format!("3  a and b agree: {} ({})", agreement.terms.id, agreement.terms.template));

    let calls = Calls { client: a, found: &found };
    calls.index(corpus, output).await?;
    let query = corpus.query();
    let (search, hits) = calls.search(&query).await?;
    let stats = calls.stats().await?;
    if hits.is_empty() || stats["documents"] != corpus.texts.len() {
        return Err(failed(format!(
            "{} files were indexed, {stats} is what the agent has, and {} hits came for '{query}'",
            corpus.texts.len(),
            hits.len()
        )));
    }

    output.note("5  verifying receipt, agreement and trace");
    let state: AgreementState = a.get(&format!("/v1/agreements/{}", agreement.terms.id)).await?;
    let receipt = verify_receipt(&state, corpus.texts.len() as u64 + 2)?;
    verify_agreement(&state)?;
    let trace = verify_trace(a, &found, &search, &receipt).await?;
    Ok(Report {
        nodes: mesh.running(),
        discovered_ms,
        agreement: Agreed::new(&state),
        indexed: corpus.texts.len(),
        skipped: corpus.skipped,
        query,
        results: hits,
        usage: Used {
            total: receipt.document().total,
            price: receipt.document().price,
            currency: receipt.document().currency.clone(),
            operation: search.operation,
        },
        receipt_verified: true,
        agreement_verified: true,
        trace_verified: trace,
        elapsed_ms: begun.elapsed().as_millis() as u64,
    })
}

/// A publisher signs the plugin; the provider's operator trusts it, and spawns an agent.
async fn spawn(provider: &Client) -> Result<Agent, Problem> {
    let publisher = Key::generate();
    let component = Digest::blake3(COMPONENT);
    let manifest = Manifest {
        header: Header::new::<Manifest>(&MeshId::any(), Timestamp::now(), protocol::SignedDuration::from_hours(24 * 365)),
        name: "docs".into(),
        release: RELEASE.into(),
        publisher: publisher.did(),
        component,
        size: COMPONENT.len() as u64,
        interface: INTERFACE.into(),
        imports: vec![Import::State],
        health: None,
    };
    let manifest = Signed::sign(manifest, &[&publisher]).into();
    let _: Publisher = provider.put(&format!("/v1/publishers/{}", publisher.did()), &Trust { name: "devstack".into() }).await?;
    let _: Digest = provider.put_bytes(&format!("/v1/blobs/{component}"), COMPONENT.into()).await?;
    let _: Plugin = provider.post("/v1/plugins", &RegisterPlugin { manifest }).await?;
    provider.post("/v1/agents", &Spawn { name: "docs".into(), component, pricing: None, limits: None, grants: Grants::default() }).await
}

/// Looks the capability up in Kademlia until its provider is there.
async fn discover(consumer: &Client) -> Result<Discovered, Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found: List<Discovered> = consumer.get(&format!("/v1/discover?capability={CAPABILITY}&via=kademlia&timeout_ms=5000")).await?;
        if let Some(found) = found.items.into_iter().next() {
            return if found.via == "kademlia" { Ok(found) } else { Err(failed(format!("it was found by {}", found.via))) };
        }
        if Instant::now() > deadline {
            return Err(Problem::new(Code::CapabilityNotFound, format!("{CAPABILITY} was not found within {} s", PATIENCE.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn agree(consumer: &Client, found: &Discovered) -> Result<AgreementState, Problem> {
    let propose = Propose {
        agent: found.agent.to_string(),
        node: None,
        methods: Vec::new(),
        template: "standard".into(),
        parameters: BTreeMap::new(),
    };
    let state: AgreementState = consumer.post("/v1/agreements", &propose).await?;
    if state.status == Status::Active { Ok(state) } else { Err(failed(format!("the agreement is {}", state.status))) }
}

/// Calls of the found agent, through the consumer's own node.
struct Calls<'a> {
    client: &'a Client,
    found: &'a Discovered,
}

impl Calls<'_> {
    async fn call(&self, method: &str, params: &Value) -> Result<Executed, Problem> {
        let params = RawValue::from_string(params.to_string()).map_err(|error| failed(error.to_string()))?;
        let body = Execute { method: method.into(), params, agreement: None, timeout_ms: Some(60_000) };
        self.client.post(&format!("/v1/agents/{}/execute", self.found.agent), &body).await
    }

    async fn index(&self, corpus: &Corpus, output: Output) -> Result<(), Problem> {
        let total = corpus.texts.len();
        let progress = output.progress();
        let mut answers = stream::iter(&corpus.texts).map(|(path, text)| self.index_one(path, text)).buffer_unordered(AT_ONCE);
        let mut done = 0;
        while answers.try_next().await?.is_some() {
            done += 1;
            progress.show(&format!("4  a indexes documents on b: {done} of {total}"));
        }
        progress.end();
        output.note(&format!(
            "4  a indexed {total} documents on b{}",
            if corpus.skipped > 0 { format!(", and passed over {} files", corpus.skipped) } else { String::new() }
        ));
        Ok(())
    }

    async fn index_one(&self, path: &str, text: &str) -> Result<(), Problem> {
        let answer = self.call("index", &json!({ "path": path, "text": text })).await;
        answer.map(drop).map_err(|problem| Problem { detail: format!("{path}: {}", problem.detail), ..problem })
    }

    async fn search(&self, query: &str) -> Result<(Executed, Vec<Hit>), Problem> {
        let executed = self.call("search", &json!({ "query": query, "limit": 5 })).await?;
        let result: Value = serde_json::from_str(executed.result.get()).map_err(|error| failed(error.to_string()))?;
        let hits = serde_json::from_value(result["hits"].clone()).map_err(|error| failed(format!("strange hits: {error}")))?;
        Ok((executed, hits))
    }

    async fn stats(&self) -> Result<Value, Problem> {
        let executed = self.call("stats", &json!({})).await?;
        serde_json::from_str(executed.result.get()).map_err(|error| failed(error.to_string()))
    }
}

/// The newest receipt: signed by the provider, for this agreement, at its price, counting exactly the calls that were made.
fn verify_receipt(state: &AgreementState, calls: u64) -> Result<Signed<Receipt>, Problem> {
    let terms = &state.terms;
    let sealed = state.bundle.receipt.clone().ok_or_else(|| failed("there is no receipt".into()))?;
    let receipt = sealed.open(Expect::at(&terms.header.mesh, Timestamp::now()))?;
    receipt.require(terms.provider)?;
    let said = receipt.document();
    let Usage { calls: counted, .. } = said.total;
    let holds = said.agreement == terms.id && counted == calls && said.check(terms).is_ok();
    if holds {
        Ok(receipt)
    } else {
        Err(failed(format!("the receipt counts {counted} calls of {calls}, at {} {}", said.price, said.currency)))
    }
}

/// Both signatures, every transition, the receipt: by the very code of `agreement verify`.
fn verify_agreement(state: &AgreementState) -> Result<(), Problem> {
    verify::verify(state.bundle.clone(), Timestamp::now()).map(drop)
}

/// The provider proves that the search is in its trace: where its receipt promised, under a checkpoint that its node signed.
async fn verify_trace(consumer: &Client, found: &Discovered, search: &Executed, newest: &Signed<Receipt>) -> Result<bool, Problem> {
    let path = format!("/v1/trace/proof?operation={}&node={}", search.operation, found.node_id);
    let Proof { inclusion } = consumer.get(&path).await?;
    let (checkpoint, entry) = inclusion.verify().map_err(|error| Problem::new(Code::ProofFailed, error.to_string()))?;
    let mesh = newest.document().header.mesh.clone();
    let receipt = search.receipt.clone().ok_or_else(|| failed("the search came without a receipt".into()))?;
    let receipt = receipt.open(Expect::at(&mesh, Timestamp::now()))?;
    receipt.require(found.provider)?;
    let promised = receipt.document().trace;
    let kept = promised.leaf == inclusion.leaf()
        && promised.index == inclusion.index
        && promised.log == checkpoint.node
        && checkpoint.node == found.node_id;
    let ours = entry.operation == search.operation && matches!(&entry.action, Action::Execute { method, .. } if method == "search");
    if kept && ours {
        Ok(true)
    } else {
        Err(Problem::new(Code::ProofFailed, "the provider's trace does not hold what its receipt promised"))
    }
}

fn failed(what: String) -> Problem {
    Problem::new(Code::ProofFailed, what)
}

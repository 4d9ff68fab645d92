//! What an agreement adds to a call: the decision, the meter, the charge in the commit, and the receipt's signatures.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Instant};

use agreement::{Meter, Parties, authorize, template, templates};
use anyhow::{Context as _, Result, ensure};
use protocol::{
    AgentId, AgreementId, Digest, Expect, Header, Key, MeshId, OperationId, Signed, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, Pricing, Status},
    document::Sealed,
    lifecycle::State,
    merkle::Hash,
    receipt::{Position, Receipt},
};
use serde_json::json;
use store::{Append, Bucket, Charge, Commit, Sqlite, Store};

use crate::{
    arguments::Arguments,
    counter,
    measure::median,
    place::Place,
    report::{Gauge, Report},
};

/// What authorizing and metering may add to a call beyond the store's commit, in microseconds.
const AIM_US: f64 = 20.0;
/// Commits of one transaction: as many as a busy node's.
const GROUP: usize = 256;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let (rounds, calls) = if arguments.quick { (3, 500) } else { (15, 20_000) };
    let parties = Sides::new()?;
    report.gauges(&format!("Under an agreement, for each call (medians of {rounds} rounds)"));
    let mut gauge = |what: &str, value: f64, aim, yardstick: Option<(&'static str, f64)>| {
        let detail = json!({ "per_s": 1e6 / value });
        report.gauge(Gauge { section: "agreements", what: what.into(), unit: "us", value, aim, yardstick, detail });
    };
    let metered = parties.meter(rounds, calls)?;
    let [plain, charged] = parties.commits(place, rounds).await?;
    gauge("authorized, reserved, settled", metered, None, None);
    gauge("committed with a charge, 256 at once", charged, None, Some(("without", plain)));
    gauge("an agreement's part in all", metered + (charged - plain).max(0.0), Some(AIM_US), Some(("a commit", plain)));
    let signed = parties.receipts(rounds, calls.min(2_000))?;
    gauge("a receipt signed", signed.signed, None, Some(("the signature alone", signed.raw_signed)));
    gauge("a receipt verified", signed.verified, None, Some(("the signature alone", signed.raw_verified)));
    gauge("verified with both signatures", signed.both, None, Some(("two signatures alone", 2.0 * signed.raw_verified)));
    Ok(())
}

/// Both parties, and what they agreed.
struct Sides {
    provider: Key,
    consumer: Key,
    mesh: MeshId,
    terms: Agreement,
}

/// Microseconds each.
struct Signatures {
    signed: f64,
    verified: f64,
    both: f64,
    raw_signed: f64,
    raw_verified: f64,
}

impl Sides {
    fn new() -> Result<Self> {
        let (provider, consumer, mesh) = (Key::generate(), Key::generate(), "bench".parse::<MeshId>()?);
        let parties = Parties {
            mesh: mesh.clone(),
            provider: provider.did(),
            provider_node: Key::generate().node_id(),
            consumer: consumer.did(),
            consumer_node: Key::generate().node_id(),
            agent: AgentId::new(),
        };
        let template = template::find("standard_compute", templates().iter())?;
        let parameters = BTreeMap::from([("requests_per_day".to_owned(), "100000".to_owned())]);
        let methods = vec![counter::METHOD.to_owned()];
        let now = Timestamp::now();
        let terms = template::propose(template, &parameters, parties, methods, Pricing::free(), AgreementId::new(), now)?;
        Ok(Self { provider, consumer, mesh, terms })
    }

    /// The decision about a call, and the meter before and after it.
    fn meter(&self, rounds: usize, calls: usize) -> Result<f64> {
        let (terms, state) = (&self.terms, State::new(Status::Active));
        let request = authorize::Request { caller_node: terms.consumer_node, agent: terms.agent, method: counter::METHOD };
        let mut costs = Vec::new();
        for _ in 0..rounds {
            let mut meter = Meter::new(terms, []);
            let begun = Instant::now();
            for _ in 0..calls {
                let now = Timestamp::now();
                authorize::authorize(terms, &state, black_box(&request), now)?;
                let reservation = meter.reserve(now)?;
                black_box(meter.settle(reservation, USED));
            }
            costs.push(micros(begun, calls));
            ensure!(meter.total().calls == calls as u64, "it counts otherwise");
        }
        Ok(median(costs))
    }

    /// A commit as a call's, without and with its charge: each side's cost, taking turns.
    async fn commits(&self, place: &Place, rounds: usize) -> Result<[f64; 2]> {
        std::fs::create_dir_all(place.directory("charges"))?;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&place.directory("charges").join("store.sqlite"))?);
        let mut meter = Meter::new(&self.terms, []);
        let reservation = meter.reserve(Timestamp::now())?;
        let bucket = |stretch: &agreement::meter::Stretch| Bucket { name: stretch.bucket.clone(), limit: stretch.limit, cap: stretch.cap };
        let buckets: Vec<_> = reservation.stretches.iter().map(bucket).collect();
        meter.release(reservation);
        let charge = Charge { agreement: self.terms.id, usage: USED, buckets };
        let mut costs = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (costs, charge) in costs.iter_mut().zip([None, Some(&charge)]) {
                let commit = || {
                    let entry = Append { operation: OperationId::new(), leaf: Hash::default(), entry: vec![b'.'; 450] };
                    Commit { charge: charge.cloned(), entry: Some(entry), ..Commit::default() }
                };
                let group: Vec<_> = (0..GROUP).map(|_| commit()).collect();
                let begun = Instant::now();
                for committed in store.apply(group).await? {
                    committed?;
                }
                costs.push(micros(begun, GROUP));
            }
        }
        let total = store.usage(&self.terms.id).await?.into_iter().find(|(name, _)| name == "total").context("nothing was charged")?;
        ensure!(total.1.calls == (rounds * GROUP) as u64, "the store charged otherwise");
        store.close().await?;
        Ok(costs.map(median))
    }

    /// Receipts made and taken, beside the bare signatures over the same bytes.
    fn receipts(&self, rounds: usize, calls: usize) -> Result<Signatures> {
        let receipt = self.receipt();
        let signed = Signed::sign(receipt.clone(), &[&self.provider]);
        let both = Sealed::from(signed.clone().countersign(&self.consumer));
        let sealed = Sealed::from(signed);
        let payload = serde_json::to_vec(&receipt)?;
        let signature = self.provider.sign(&payload);
        let expect = Expect::at(&self.mesh, Timestamp::now());
        let mut costs: [Vec<f64>; 5] = Default::default();
        for _ in 0..rounds {
            let mut time = |at: usize, work: &dyn Fn() -> Result<()>| -> Result<()> {
                let begun = Instant::now();
                for _ in 0..calls {
                    work()?;
                }
                costs[at].push(micros(begun, calls));
                Ok(())
            };
            time(0, &|| {
                black_box(Signed::sign(receipt.clone(), &[&self.provider]));
                Ok(())
            })?;
            time(1, &|| Ok(sealed.clone().open(expect)?.require(self.terms.provider)?))?;
            time(2, &|| {
                let opened = both.clone().open(expect)?;
                opened.require(self.terms.provider)?;
                Ok(opened.require(self.terms.consumer)?)
            })?;
            time(3, &|| {
                black_box(self.provider.sign(black_box(&payload)));
                Ok(())
            })?;
            time(4, &|| Ok(self.terms.provider.verify(black_box(&payload), &signature)?))?;
        }
        let [signed, verified, both, raw_signed, raw_verified] = costs.map(median);
        Ok(Signatures { signed, verified, both, raw_signed, raw_verified })
    }

    fn receipt(&self) -> Receipt {
        let total = Usage { calls: 1_000, fuel: 1_000_000, wall_us: 100_000, egress_bytes: 12_000 };
        Receipt {
            header: Header::new::<Receipt>(&self.mesh, Timestamp::now(), SignedDuration::from_hours(1_000)),
            agreement: self.terms.id,
            provider: self.terms.provider,
            operation: OperationId::new(),
            agent: self.terms.agent,
            method: counter::METHOD.into(),
            params: Digest::sha256(counter::PARAMS.as_bytes()),
            result: Digest::sha256(b"{}"),
            usage: USED,
            sequence: total.calls,
            total,
            overage: Usage::default(),
            price: self.terms.pricing.price(&total, &Usage::default()).unwrap_or_default(),
            currency: self.terms.pricing.currency.clone(),
            trace: Position { log: self.terms.provider_node, index: 1_000, leaf: Hash::default() },
            repeated: false,
        }
    }
}

/// What a small call uses.
const USED: Usage = Usage { calls: 1, fuel: 1_000, wall_us: 100, egress_bytes: 12 };

fn micros(begun: Instant, calls: usize) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6 / calls as f64
}

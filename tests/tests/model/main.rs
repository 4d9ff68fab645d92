//! The meter and the store under random schedules, held against a model that fits on a page: nothing is overspent, nothing is
//! charged twice, no charge is lost, and what receipts say follows from it.
//!
//! Calls overlap, end in any order, come again under their keys, and are lost in crashes at every point: before their commit,
//! after it and before anybody heard of it, with signatures of the consumer that were not kept yet. The clock jumps both ways.
//! `MCP_MODEL_CALLS` says how many calls, `MCP_MODEL_SEED` which schedule.

mod liars;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use agreement::{Denied, Meter, Parties, Request, Reservation, authorize, meter::Stretch, propose, template, templates};
use protocol::{
    AgentId, AgreementId, Digest, Header, Key, OperationId, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, AtLimit, Limit, Pricing, Quantity, Status, Window},
    lifecycle::State,
    merkle::leaf_hash,
    receipt::{Position, Receipt},
    template::Template,
};
use store::{Answer, Append, Bucket, Charge, Commit, Kind, OVERAGE, RecordWrite, Rejected, Sqlite, Store};

/// Calls beyond the newest signed receipt.
const EXPOSURE: u64 = 24;
/// Calls under way at once.
const OVERLAP: usize = 16;
/// Calls of one agreement, about: then another begins.
const LIFE: u64 = 2_000;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators): a seed is a schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// What must be true: the sums of what was durable, in its order.
#[derive(Default)]
struct Model {
    buckets: BTreeMap<String, Usage>,
    overage: Usage,
    /// The keys that were charged, with their operations.
    charged: BTreeMap<u64, OperationId>,
}

impl Model {
    fn charge(&mut self, stretches: &[Stretch], usage: Usage) {
        let mut beyond = Usage::default();
        for Stretch { bucket, limit, cap } in stretches {
            let sum = self.buckets.entry(bucket.clone()).or_default();
            let before = sum.minus(*limit);
            *sum = sum.plus(usage);
            assert!(sum.within(*cap), "{bucket} is overspent: {sum:?} of {cap:?}");
            beyond = beyond.max(sum.minus(*limit).minus(before));
        }
        self.overage = self.overage.plus(beyond);
    }

    fn total(&self) -> Usage {
        self.buckets.get("total").copied().unwrap_or_default()
    }
}

/// A call under way.
struct Call {
    key: u64,
    reservation: Reservation,
    actual: Usage,
}

struct World<'a> {
    path: &'a Path,
    dice: Dice,
    store: Arc<dyn Store>,
    terms: Agreement,
    meter: Meter,
    model: Model,
    under_way: Vec<Call>,
    clock: i64,
    /// The latest time that this meter has seen.
    latest: Timestamp,
    next_key: u64,
    /// The newest receipt that both signed: as the provider knows it, and as it is on disk.
    acknowledged: (u64, u64),
    seen: Seen,
}

/// That schedules did what they are for.
#[derive(Debug, Default)]
struct Seen {
    calls: u64,
    repeated: u64,
    duplicates: u64,
    exhausted: u64,
    unsigned: u64,
    expired: u64,
    crashes: u64,
    overage: u64,
}

fn epoch() -> Timestamp {
    "2030-06-01T12:00:00Z".parse().expect("a time")
}

fn trial() -> &'static Template {
    template::find("trial", templates().iter()).expect("it comes along")
}

fn key(seed: u8) -> Key {
    Key::from_seed(&[seed; 32])
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn random_terms(dice: &mut Dice) -> Agreement {
    let parties = Parties {
        mesh: "model".parse().expect("a mesh"),
        provider: key(1).did(),
        provider_node: key(2).node_id(),
        consumer: key(3).did(),
        consumer_node: key(4).node_id(),
        agent: AgentId::new(),
    };
    let pricing = Pricing {
        per_call: "0.01".parse().expect("a price"),
        per_million_fuel: "0.5".parse().expect("a price"),
        overage_per_call: Some("0.03".parse().expect("a price")),
        overage_percent: Some(dice.roll(150) as u32),
        ..Pricing::free()
    };
    let parameters = [("days".to_owned(), "5".to_owned()), ("call_fuel".to_owned(), "1000".to_owned())].into();
    let mut terms = propose(trial(), &parameters, parties, Vec::new(), pricing, AgreementId::new(), epoch()).expect("valid");
    terms.at_limit = if dice.roll(2) == 0 { AtLimit::Deny } else { AtLimit::Overage };
    terms.limits = vec![Limit { quantity: Quantity::Calls, window: Window::Total, max: 200 + dice.roll(LIFE) }];
    for (window, max) in [(Window::Day, 400), (Window::Hour, 40)] {
        if dice.roll(3) > 0 {
            terms.limits.push(Limit { quantity: Quantity::Calls, window, max: 1 + dice.roll(max) });
        }
        if dice.roll(3) > 0 {
            terms.limits.push(Limit { quantity: Quantity::Fuel, window, max: 1 + dice.roll(max * 700) });
        }
    }
    terms
}

impl<'a> World<'a> {
    fn new(path: &'a Path, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let terms = random_terms(&mut dice);
        let mut world = Self {
            path,
            store: Arc::new(Sqlite::open(path).expect("open")),
            meter: Meter::new(&terms, []),
            terms,
            dice,
            model: Model::default(),
            under_way: Vec::new(),
            clock: 0,
            latest: Timestamp::MIN,
            next_key: 0,
            acknowledged: (0, 0),
            seen: Seen::default(),
        };
        world.meter.bound_exposure(EXPOSURE, 0);
        world
    }

    fn now(&self) -> Timestamp {
        epoch().saturating_add(SignedDuration::from_secs(self.clock)).expect("a time")
    }

    fn scope(&self) -> String {
        self.terms.id.to_string()
    }

    /// A call arrives: a new one, or one that came before, whether or not that one has ended.
    async fn begin(&mut self) {
        let key = if self.next_key > 0 && self.dice.roll(5) == 0 { self.dice.roll(self.next_key) } else { self.next_key };
        self.next_key = self.next_key.max(key + 1);
        let kept = self.store.answer(&self.scope(), &key.to_string(), 0).await.expect("answer");
        let operation = self.model.charged.get(&key).map(|operation| operation.to_string().into_bytes());
        assert_eq!(kept, operation, "what was charged is answered, and nothing else");
        if kept.is_some() {
            self.seen.repeated += 1;
            return;
        }
        let now = self.now();
        let request = Request { caller_node: self.terms.consumer_node, agent: self.terms.agent, method: "call" };
        if authorize(&self.terms, &State::new(Status::Active), &request, now).is_err() {
            assert!(now >= self.terms.header.expires_at || now < epoch(), "refused though it is in force");
            self.seen.expired += 1;
            return;
        }
        self.latest = self.latest.max(now);
        let ahead = (self.model.total().calls + self.under_way.len() as u64).saturating_sub(self.acknowledged.0);
        match self.meter.reserve(now) {
            Ok(reservation) => {
                assert!(ahead < EXPOSURE, "{ahead} calls are ahead of the consumer's signature");
                for stretch in &reservation.stretches {
                    let kind = stretch.bucket.split(':').next().unwrap_or_default();
                    let window: Window = kind.parse().expect("a window");
                    assert_eq!((&stretch.bucket, stretch.cap), (&window.bucket(self.latest), self.terms.hard_caps(window)));
                }
                let granted = reservation.granted;
                let actual = Usage { calls: 1, fuel: self.dice.roll(granted.fuel + 20), wall_us: 5, egress_bytes: 2 };
                self.under_way.push(Call { key, reservation, actual });
            }
            Err(Denied::Unacknowledged { .. }) => {
                assert!(ahead >= EXPOSURE, "refused with {ahead} calls ahead");
                self.seen.unsigned += 1;
            }
            Err(Denied::Exhausted { .. }) => self.seen.exhausted += 1,
            Err(other) => panic!("{other}"),
        }
    }

    fn commit_of(&self, call: &Call, operation: OperationId) -> Commit {
        let usage = call.reservation.counted(call.actual);
        let bucket = |stretch: &Stretch| Bucket { name: stretch.bucket.clone(), limit: stretch.limit, cap: stretch.cap };
        let buckets = call.reservation.stretches.iter().map(bucket).collect();
        let entry = operation.to_string().into_bytes();
        Commit {
            charge: Some(Charge { agreement: self.terms.id, usage, buckets }),
            answer: Some(Answer { scope: self.scope(), key: call.key.to_string(), value: entry.clone(), now_s: 0, expires_s: i64::MAX }),
            entry: Some(Append { operation, leaf: leaf_hash(&entry), entry }),
            ..Commit::default()
        }
    }

    /// Some of those under way reach their commit together, in any order; the process may end before it, or before anybody
    /// hears of it.
    async fn commit(&mut self) {
        let mut group = Vec::new();
        for _ in 0..=self.dice.roll(self.under_way.len().max(1) as u64) {
            if !self.under_way.is_empty() {
                let at = self.dice.roll(self.under_way.len() as u64) as usize;
                group.push((self.under_way.swap_remove(at), OperationId::new()));
            }
        }
        let end = self.dice.roll(60);
        if end == 0 {
            return self.crash().await;
        }
        let commits = group.iter().map(|(call, operation)| self.commit_of(call, *operation)).collect();
        let outcomes = self.store.apply(commits).await.expect("the store works");
        for ((call, operation), outcome) in group.into_iter().zip(outcomes) {
            match outcome {
                Ok(committed) => {
                    assert!(self.model.charged.insert(call.key, operation).is_none(), "key {} is charged twice", call.key);
                    self.model.charge(&call.reservation.stretches, call.reservation.counted(call.actual));
                    assert_eq!(committed.total, Some(self.model.total()));
                    assert_eq!(committed.overage, Some(self.model.overage));
                    self.check_receipt(operation, call.reservation.counted(call.actual));
                    self.seen.calls += 1;
                    if end != 1 {
                        self.meter.settle(call.reservation, call.actual);
                    }
                }
                Err(Rejected::Duplicate) => {
                    assert!(self.model.charged.contains_key(&call.key), "refused as a repetition of nothing");
                    self.seen.duplicates += 1;
                    self.meter.release(call.reservation);
                }
                Err(other) => panic!("the meter let pass what the store refuses: {other}"),
            }
        }
        if end == 1 {
            self.crash().await;
        }
    }

    /// The receipt of this moment verifies as the consumer would: number, limits, overage, price.
    fn check_receipt(&self, operation: OperationId, usage: Usage) {
        let (total, overage) = (self.model.total(), self.model.overage);
        let receipt = Receipt {
            header: Header::new::<Receipt>(&self.terms.header.mesh, self.latest.max(epoch()), SignedDuration::from_hours(1)),
            agreement: self.terms.id,
            provider: self.terms.provider,
            operation,
            agent: self.terms.agent,
            method: "call".into(),
            params: Digest::sha256(b""),
            result: Digest::sha256(b""),
            usage,
            sequence: self.model.charged.len() as u64,
            total,
            overage,
            price: self.terms.pricing.price(&total, &overage).expect("a price"),
            currency: self.terms.pricing.currency.clone(),
            trace: Position { log: self.terms.provider_node, index: 0, leaf: [0; 32] },
            repeated: false,
        };
        receipt.check(&self.terms).expect("it holds under the terms");
    }

    /// The consumer signs some receipt that it has, perhaps an old one again. What is kept on disk may lag behind.
    async fn acknowledge(&mut self) {
        let number = self.dice.roll(self.model.total().calls + 1);
        let number = if self.dice.roll(3) == 0 { number } else { self.model.total().calls };
        self.meter.acknowledge(number);
        self.acknowledged.0 = self.acknowledged.0.max(number);
        assert_eq!(self.meter.acknowledged(), self.acknowledged.0);
        if self.dice.roll(4) == 0 {
            let value = Some(self.acknowledged.0.to_string().into_bytes());
            let record = RecordWrite { kind: Kind::Receipt, id: self.scope(), value };
            let kept = self.store.apply(vec![Commit { records: vec![record], ..Commit::default() }]).await.expect("the store works");
            assert!(kept.iter().all(Result::is_ok));
            self.acknowledged.1 = self.acknowledged.0;
        }
    }

    /// The process ends without a word, and another begins with what is on disk.
    async fn crash(&mut self) {
        self.under_way.clear();
        self.store = Arc::new(Sqlite::open(self.path).expect("open again"));
        let usage = self.store.usage(&self.terms.id).await.expect("usage");
        self.meter = Meter::new(&self.terms, usage);
        let kept = self.store.record(Kind::Receipt, &self.scope()).await.expect("record");
        let kept: u64 = kept.map_or(0, |bytes| String::from_utf8_lossy(&bytes).parse().expect("a number"));
        assert_eq!(kept, self.acknowledged.1);
        self.acknowledged.0 = kept;
        self.meter.bound_exposure(EXPOSURE, kept);
        self.latest = Timestamp::MIN;
        self.seen.crashes += 1;
        self.audit().await;
    }

    /// What is on disk is what the model says, to the last unit.
    async fn audit(&mut self) {
        let usage: BTreeMap<_, _> = self.store.usage(&self.terms.id).await.expect("usage").into_iter().collect();
        let mut expected = self.model.buckets.clone();
        if self.model.overage != Usage::default() {
            expected.insert(OVERAGE.to_owned(), self.model.overage);
        }
        assert_eq!(usage, expected);
        assert_eq!(self.model.total().calls, self.model.charged.len() as u64, "each key once");
        let operations: BTreeSet<_> = self.model.charged.values().collect();
        assert_eq!(operations.len(), self.model.charged.len());
        assert_eq!(self.meter.total(), self.model.total(), "the meter counts what is durable");
    }

    /// The agreement is done with; another begins.
    async fn renew(&mut self) {
        self.under_way.drain(..).for_each(|call| self.meter.release(call.reservation));
        self.audit().await;
        self.seen.overage += u64::from(self.model.overage.calls > 0);
        self.terms = random_terms(&mut self.dice);
        self.meter = Meter::new(&self.terms, []);
        self.meter.bound_exposure(EXPOSURE, 0);
        (self.model, self.clock, self.latest, self.next_key, self.acknowledged) = (Model::default(), 0, Timestamp::MIN, 0, (0, 0));
    }

    async fn step(&mut self) {
        match self.dice.roll(100) {
            0..=54 if self.under_way.len() < OVERLAP => self.begin().await,
            55..=79 => self.commit().await,
            80..=91 => self.acknowledge().await,
            92..=94 if !self.under_way.is_empty() => {
                let at = self.dice.roll(self.under_way.len() as u64) as usize;
                let call = self.under_way.swap_remove(at);
                self.meter.release(call.reservation);
            }
            95..=98 => self.clock += self.dice.roll(2_400) as i64 - 600,
            99 if self.dice.roll(20) == 0 => self.clock += self.dice.roll(2 * 86_400) as i64 - 43_200,
            _ => {}
        }
        if self.next_key >= LIFE || self.clock > 6 * 86_400 {
            self.renew().await;
        }
    }
}

#[tokio::test]
async fn nothing_is_overspent_charged_twice_or_lost() {
    let (calls, seed) = (number("MCP_MODEL_CALLS", 3_000), number("MCP_MODEL_SEED", 1));
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("store.db");
    let mut world = World::new(&path, seed);
    let mut steps = 0_u64;
    while world.seen.calls < calls {
        world.step().await;
        steps += 1;
        assert!(steps < 1_000 * calls, "the schedule stands still: {:?}", world.seen);
    }
    world.renew().await;
    let seen = &world.seen;
    eprintln!("seed {seed}: {steps} steps, {seen:?}");
    let all = [seen.repeated, seen.duplicates, seen.exhausted, seen.unsigned, seen.crashes];
    assert!(all.iter().all(|count| *count > 0), "a schedule that tries too little: {seen:?}");
}

//! A state kept as a whole, and again after a part of it has changed; and a large one.

use std::time::{Duration, Instant};

use ::kernel::fixture::{Builder, Effect};
use anyhow::{Context as _, Result, ensure};
use protocol::{Client, Digest, api, manifest::Import};
use serde_json::{json, value::RawValue};
use tests::Publisher;

use crate::{
    arguments::Arguments,
    measure::median,
    node::Node,
    place::Place,
    report::{Gauge, Report},
};

/// One value's bytes.
const VALUE: u64 = 4 << 10;
/// Keys that one call writes.
const BATCH: u64 = 2_048;
/// Bytes of state that change less than it, in percent.
const CHANGED: u64 = 1;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let (size, large, rounds) = if arguments.quick { (10 << 20, 32 << 20, 1) } else { (100 << 20, 1 << 30, 3) };
    let node = Node::start(place, "snapshot", "bench-snapshot", &["mesh.enabled=false"]).await?;
    let component = register(&node.client).await?;
    again_after_a_change(&node, component, size, rounds, report).await?;
    one_large(&node, component, large, report).await?;
    node.stop().await
}

async fn again_after_a_change(node: &Node, component: Digest, size: u64, rounds: u64, report: &mut Report) -> Result<()> {
    let keys = size / VALUE;
    let (mut first_ms, mut again_ms, mut ratios, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let agent = Agent::spawn(node, component, &format!("state-{round}")).await?;
        agent.write(0, keys, round * 2 + 1).await?;
        let (first, took) = agent.snapshot().await?;
        ensure!(first.keys == keys && first.new_bytes >= Some(first.bytes), "another state: {first:?}");
        // Each in one place of its own would touch each chunk; what changes together mostly lies together.
        let changed = keys * CHANGED / 100;
        agent.write(keys / 3, changed, round * 2 + 2).await?;
        let (second, again) = agent.snapshot().await?;
        let (new, all) = (second.new_bytes.context("new bytes")?, first.new_bytes.context("new bytes")?);
        first_ms.push(took.as_secs_f64() * 1e3);
        again_ms.push(again.as_secs_f64() * 1e3);
        ratios.push(again.as_secs_f64() / took.as_secs_f64() * 100.0);
        shares.push(new as f64 / all as f64 * 100.0);
        agent.terminate().await?;
    }
    report.gauges(&format!("A snapshot of {} MB, and one after {CHANGED} % has changed (medians of {rounds})", size >> 20));
    let first = median(first_ms);
    let mut gauge = |what: &str, unit, value, aim, yardstick| {
        report.gauge(Gauge { section: "snapshot", what: what.into(), unit, value, aim, yardstick, detail: json!({ "bytes": size }) });
    };
    gauge("the first", "ms", first, None, None);
    gauge("the second", "ms", median(again_ms), None, Some(("the first", first)));
    gauge("the second's time, of the first's", "%", median(ratios), Some(5.0), None);
    gauge("the second's new bytes, of the first's", "%", median(shares), Some(5.0), None);
    Ok(())
}

/// As much state as one agent is to hold: written, read, kept, put back.
async fn one_large(node: &Node, component: Digest, size: u64, report: &mut Report) -> Result<()> {
    let agent = Agent::spawn(node, component, "large").await?;
    let keys = size / VALUE;
    let begun = Instant::now();
    agent.write(0, keys, 7).await?;
    let wrote = begun.elapsed();
    let held: api::StateOutline = node.client.get("/v1/agents/large/state").await?;
    ensure!(held.keys == keys && held.bytes == keys * (8 + VALUE), "{held:?}");
    let begun = Instant::now();
    let reads = 1_000;
    for at in 0..reads {
        agent.check(at * 7_919 % keys, 7).await?;
    }
    let read = begun.elapsed() / reads as u32;
    let (snapshot, took) = agent.snapshot().await?;
    agent.write(keys / 2, BATCH.min(keys / 2), 8).await?;
    let begun = Instant::now();
    let _: api::SnapshotOutline = node.client.post("/v1/agents/large/recover", &api::Recover { snapshot: snapshot.id }).await?;
    let recovered = begun.elapsed();
    agent.check(keys / 2, 7).await?;
    agent.check(keys - 1, 7).await?;

    report.gauges(&format!("{} MB of state in one agent", size >> 20));
    let mut gauge = |what: &str, unit, value| {
        report.gauge(Gauge {
            section: "snapshot",
            what: what.into(),
            unit,
            value,
            aim: None,
            yardstick: None,
            detail: json!({ "bytes": size }),
        });
    };
    gauge("written, 8 MB a call", "s", wrote.as_secs_f64());
    gauge("a key read through the socket", "us", read.as_secs_f64() * 1e6);
    gauge("kept in a snapshot", "s", took.as_secs_f64());
    gauge("verified and put back", "s", recovered.as_secs_f64());
    agent.terminate().await
}

/// An agent with a state of numbered keys.
struct Agent<'a> {
    client: &'a Client,
    name: String,
}

impl<'a> Agent<'a> {
    async fn spawn(node: &'a Node, component: Digest, name: &str) -> Result<Self> {
        let limits = Some(api::GivenLimits { fuel: Some(u64::MAX), wall_ms: Some(60_000), ..Default::default() });
        let spawn = api::Spawn { name: name.into(), component, pricing: None, limits, grants: Default::default() };
        let _: api::Agent = node.client.post("/v1/agents", &spawn).await?;
        Ok(Self { client: &node.client, name: name.into() })
    }

    async fn execute(&self, method: &str, numbers: [u64; 3]) -> Result<api::Executed> {
        // The plugin reads fixed places: three numbers of twelve digits.
        let [from, count, seed] = numbers.map(|number| format!("{number:012}"));
        let params = RawValue::from_string(format!(r#"{{"n":"{from}{count}{seed}"}}"#))?;
        let execute = api::Execute { method: method.into(), params, agreement: None, timeout_ms: Some(60_000) };
        Ok(self.client.post(&format!("/v1/agents/{}/execute", self.name), &execute).await?)
    }

    /// Writes values made of `seed` under `count` keys.
    async fn write(&self, from: u64, count: u64, seed: u64) -> Result<()> {
        let mut at = from;
        while at < from + count {
            let batch = BATCH.min(from + count - at);
            self.execute("write", [at, batch, seed]).await?;
            at += batch;
        }
        Ok(())
    }

    /// Fails if the value of a key isn't made of `seed`.
    async fn check(&self, key: u64, seed: u64) -> Result<()> {
        let executed = self.execute("check", [key, 1, seed]).await?;
        ensure!(executed.result.get() == "1", "key {key} isn't what was written: {}", executed.result);
        Ok(())
    }

    async fn snapshot(&self) -> Result<(api::SnapshotOutline, Duration)> {
        let begun = Instant::now();
        let path = format!("/v1/agents/{}/snapshots", self.name);
        let taken = self.client.post(&path, &api::TakeSnapshot::default()).await?;
        Ok((taken, begun.elapsed()))
    }

    async fn terminate(self) -> Result<()> {
        let _: api::Agent = self.client.delete(&format!("/v1/agents/{}", self.name)).await?;
        Ok(())
    }
}

async fn register(node: &Client) -> Result<Digest> {
    let publisher = Publisher::new();
    let plugin = publisher.sign("filler", component(), &[Import::State]);
    let digest = Digest::blake3(&plugin.component);
    let _: api::Publisher = node.put(&format!("/v1/publishers/{}", publisher.key().did()), &api::Trust { name: "bench".into() }).await?;
    let _: Digest = node.put_bytes(&format!("/v1/blobs/{digest}"), plugin.component).await?;
    let _: api::Plugin = node.post("/v1/plugins", &api::RegisterPlugin { manifest: plugin.manifest }).await?;
    Ok(digest)
}

/// `write`: keys of 8 characters, values of 4 KiB that no compressor makes smaller, each made of its number and a seed.
/// `check`: 1 if a key's value is that, else 0.
fn component() -> Vec<u8> {
    const NUMBER: &str = "
(func $number (param $at i32) (result i64) (local $sum i64) (local $end i32)
  (local.set $end (i32.add (local.get $at) (i32.const 12)))
  (loop $next
    (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 10))
      (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
  (local.get $sum))
(func $key (param $number i64) (local $at i32)
  (local.set $at (i32.const 72))
  (loop $next
    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
    (i32.store8 (local.get $at) (i32.wrap_i64 (i64.add (i64.const 48) (i64.rem_u (local.get $number) (i64.const 10)))))
    (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
    (br_if $next (i32.gt_u (local.get $at) (i32.const 64)))))
(func $value (param $state i64) (param $to i32) (local $at i32)
  (loop $next
    (local.set $state (i64.xor (local.get $state) (i64.shl (local.get $state) (i64.const 13))))
    (local.set $state (i64.xor (local.get $state) (i64.shr_u (local.get $state) (i64.const 7))))
    (local.set $state (i64.xor (local.get $state) (i64.shl (local.get $state) (i64.const 17))))
    (i64.store (i32.add (local.get $to) (local.get $at)) (local.get $state))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 4096)))))
(func $seeded (param $number i64) (param $seed i64) (result i64)
  (i64.add (i64.mul (local.get $number) (i64.const 0x9e3779b97f4a7c15)) (i64.add (i64.mul (local.get $seed) (i64.const 1000003)) (i64.const 1))))";
    const WRITE: &str = "(local $number i64) (local $end i64) (local $seed i64)
(local.set $number (call $number (i32.add (local.get $p) (i32.const 6))))
(local.set $end (i64.add (local.get $number) (call $number (i32.add (local.get $p) (i32.const 18)))))
(local.set $seed (call $number (i32.add (local.get $p) (i32.const 30))))
(loop $next
  (call $key (local.get $number))
  (call $value (call $seeded (local.get $number) (local.get $seed)) (i32.const 65536))
  (call $set (i32.const 64) (i32.const 8) (i32.const 65536) (i32.const 4096) (i32.const 32))
  (if (i32.load8_u (i32.const 32)) (then (unreachable)))
  (local.set $number (i64.add (local.get $number) (i64.const 1)))
  (br_if $next (i64.lt_u (local.get $number) (local.get $end))))
(call $ok (i32.const 900) (i32.const 4))";
    const CHECK: &str = "(local $number i64) (local $found i32)
(local.set $number (call $number (i32.add (local.get $p) (i32.const 6))))
(call $key (local.get $number))
(call $value (call $seeded (local.get $number) (call $number (i32.add (local.get $p) (i32.const 30)))) (i32.const 65536))
(call $get (i32.const 64) (i32.const 8) (i32.const 32))
(local.set $found (i32.load8_u (i32.const 32)))
(if (local.get $found)
  (then (local.set $found (call $same (i32.load offset=4 (i32.const 32)) (i32.load offset=8 (i32.const 32)) (i32.const 65536) (i32.const 4096)))))
(i32.store8 (i32.const 96) (i32.add (i32.const 48) (local.get $found)))
(call $ok (i32.const 96) (i32.const 1))";
    Builder::new()
        .state()
        .data(900, "null")
        .function(NUMBER)
        .method("write", Effect::Mutating, WRITE)
        .method("check", Effect::ReadOnly, CHECK)
        .build()
}

//! The sandbox in this process: what it takes beside the engine alone, and how soon it ends a loop.

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use ::kernel::{
    Call, Compiler, Config, Failure, Kernel, Plugin,
    fixture::{self, Bare, Builder, Effect, Memory},
};
use anyhow::{Result, anyhow, ensure};
use futures::FutureExt as _;
use protocol::{AgentId, api::Limits};
use serde_json::json;

use crate::{
    arguments::Arguments,
    measure::{self, Side, median, take_turns},
    place::Place,
    report::{Gauge, Report},
};

/// A call should take at most 1.2 times what the engine alone takes.
const AIM: f64 = 0.83;
/// 100 bytes.
const ECHO: &str = r#"{"path":"notes/2026/november.txt","text":"agents in a mesh, found by what they can do, run anywhere"}"#;
/// Whose calls they are.
static AGENT: LazyLock<AgentId> = LazyLock::new(AgentId::new);
/// The wall time of the calls that loop, in milliseconds.
const WALL: u64 = 100;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let component = Builder::new()
        .data(900, "null")
        .method("nothing", Effect::ReadOnly, "(call $ok (i32.const 900) (i32.const 4))")
        .method("echo", Effect::ReadOnly, "(call $ok (local.get $p) (local.get $n))")
        .method("loop", Effect::ReadOnly, "(loop $again (br $again)) unreachable")
        .build();
    let sandbox = Kernel::new(Config::new(place.directory("kernel"), [1; 32], Compiler::InProcess))?;
    let plugin = sandbox.load(&component, &fixture::manifest("bench", &component, &[])).await?;
    let bare = Arc::new(Bare::new(&component, 64).map_err(|error| anyhow!(error))?);

    report.races("Kernel::call, a fresh instance for each call, without state");
    for (method, params) in [("nothing", "{}"), ("echo", ECHO)] {
        let rounds = take_turns(&sides(&sandbox, &plugin, &bare, method, params), 1, arguments.pace()).await?;
        report.race("kernel", &format!("{method}, {} bytes", params.len()), 1, &rounds, (1, "wasmtime alone"), Some(AIM));
    }
    report.gauges(&format!("A loop is ended after its {WALL} ms: how much later, from when it was asked for"));
    let calls = if arguments.quick { 3 } else { 30 };
    overshoot(&sandbox, &plugin, 1, calls, report).await?;
    overshoot(&sandbox, &plugin, 16, calls.div_ceil(16), report).await
}

fn sides(sandbox: &Kernel, plugin: &Plugin, bare: &Arc<Bare>, method: &'static str, params: &'static str) -> [Side; 2] {
    let (sandbox, plugin, bare) = (sandbox.clone(), plugin.clone(), Arc::clone(bare));
    let expected = if method == "echo" { params } else { "null" };
    let ours: measure::Call = Arc::new(move |_| {
        let (sandbox, plugin) = (sandbox.clone(), plugin.clone());
        async move {
            let outcome = sandbox.call(&plugin, call(method, params, Limits::default())).await;
            ensure!(outcome.result? == expected.as_bytes(), "another answer");
            Ok(())
        }
        .boxed()
    });
    let theirs: measure::Call = Arc::new(move |_| {
        let bare = Arc::clone(&bare);
        async move {
            ensure!(bare.call(method, params).await.map_err(|error| anyhow!(error))? == expected, "another answer");
            Ok(())
        }
        .boxed()
    });
    [Side { call: ours, processes: Vec::new() }, Side { call: theirs, processes: Vec::new() }]
}

fn call(method: &str, params: &str, limits: Limits) -> Call {
    let state = Box::new(Memory::default());
    Call {
        agent: *AGENT,
        method: method.into(),
        params: params.into(),
        limits,
        state,
        depth: 0,
        label: String::new(),
        log: Box::new(()),
        outside: Box::new(()),
    }
}

/// Lets loops run into their wall time, `together` at a time.
async fn overshoot(sandbox: &Kernel, plugin: &Plugin, together: usize, rounds: usize, report: &mut Report) -> Result<()> {
    let limits = Limits { wall_ms: WALL, fuel: u64::MAX, ..Limits::default() };
    let mut over = Vec::new();
    for _ in 0..rounds {
        let loops: Vec<_> = (0..together)
            .map(|_| {
                let (sandbox, plugin) = (sandbox.clone(), plugin.clone());
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let outcome = sandbox.call(&plugin, call("loop", "{}", limits)).await;
                    (outcome, begun.elapsed().as_secs_f64() * 1e3 - WALL as f64)
                })
            })
            .collect();
        for ended in loops {
            let (outcome, late) = ended.await?;
            ensure!(matches!(outcome.result, Err(Failure::TimedOut { .. })), "{:?}", outcome.result);
            over.push(late);
        }
    }
    let most = over.iter().copied().fold(0.0, f64::max);
    let detail = json!({ "median_ms": median(over.clone()), "calls": over.len() });
    let mut gauge = |what: String, value, aim| {
        report.gauge(Gauge { section: "kernel", what, unit: "ms", value, aim, yardstick: None, detail: detail.clone() });
    };
    gauge(format!("{together} at a time, median"), median(over), None);
    gauge(format!("{together} at a time, the longest"), most, Some(50.0));
    Ok(())
}

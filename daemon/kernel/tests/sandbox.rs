//! What a plugin may do, what it may not, and that either leaves the next call as it should be.

mod shared;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use kernel::{
    Call, Compiler, Config, Error, Failure, Kernel, Outcome, Plugin, State, StateError,
    fixture::{self, Builder, Effect, Memory},
};
use protocol::{Code, Problem, api::Limits, manifest::Import};
use shared::{call, kernel, load, run, text};

/// A kernel with the fixture loaded, and an empty agent.
struct Bench {
    _home: tempfile::TempDir,
    kernel: Kernel,
    plugin: Plugin,
    state: Memory,
}

impl Bench {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("folder");
        let kernel = kernel(home.path());
        let plugin = load(&kernel, &fixture::misbehaving()).await;
        Self { _home: home, kernel, plugin, state: Memory::default() }
    }

    async fn run(&self, method: &str, params: &str) -> Outcome {
        run(&self.kernel, &self.plugin, method, params, &self.state).await
    }

    async fn limited(&self, method: &str, limits: Limits) -> Outcome {
        self.kernel.call(&self.plugin, call(method, "{}", &self.state, limits)).await
    }

    async fn problem(&self, method: &str, params: &str) -> Problem {
        self.run(method, params).await.result.expect_err("the call must fail").into()
    }
}

#[tokio::test]
async fn a_call_answers_and_is_metered() {
    let bench = Bench::new().await;
    let first = bench.run("echo", r#"{"a": [1, 2]}"#).await;
    let second = bench.run("echo", r#"{"a": [1, 2]}"#).await;
    assert_eq!(first.usage.calls, 1);
    assert_eq!(first.usage.egress_bytes, 13);
    assert!(first.usage.fuel > 0 && first.usage.wall_us > 0);
    assert_eq!(first.usage.fuel, second.usage.fuel, "the same call costs the same fuel");
    assert_eq!(text(second), r#"{"a": [1, 2]}"#);
    assert_eq!(text(bench.run("echo", "null").await), "{}", "null stands for no parameters");
    assert_eq!(text(bench.run("echo", " \n{\"a\": 1}\t\r\n").await), r#"{"a": 1}"#, "what is around a value is no part of it");
    let long = format!(r#"{{"a":"{}"}}"#, "é".repeat(1 << 20));
    assert_eq!(text(bench.run("echo", &long).await), long);
}

#[tokio::test]
async fn writes_are_kept_if_the_call_succeeds() {
    let bench = Bench::new().await;
    assert_eq!(text(bench.run("read", "{}").await), "null");
    bench.run("write", r#"{"v":1}"#).await.result.expect("written");
    assert_eq!(text(bench.run("read", "{}").await), r#"{"v":1}"#);
    let failed = bench.run("trap_after_write", r#"{"v":2}"#).await;
    assert!(failed.writes.is_empty() && matches!(failed.result, Err(Failure::Trapped(_))));
    let forbidden = bench.problem("forbidden", r#"{"v":3}"#).await;
    assert_eq!(forbidden.code, Code::PluginFailed);
    assert!(forbidden.detail.contains("read-only"), "{}", forbidden.detail);
    assert_eq!(text(bench.run("read", "{}").await), r#"{"v":1}"#);
}

#[tokio::test]
async fn the_counter_counts_over_calls() {
    let bench = Bench::new().await;
    for count in 1..=12 {
        assert_eq!(text(bench.run("count", "{}").await), format!("{{\"count\":{count}}}"));
    }
}

/// Compiled code tells what it used when it calls something; a loop that calls nothing is charged all the same.
#[tokio::test]
async fn a_loop_that_is_stopped_has_used_what_it_ran() {
    let bench = Bench::new().await;
    let whole = bench.limited("loop", Limits { fuel: 100_000_000, ..Limits::default() }).await;
    assert_eq!((whole.result.expect_err("it never ends").code(), whole.usage.fuel), (Code::OutOfFuel, 100_000_000));
    // As long again, and more, in which it can't have used nearly nothing.
    let wall_ms = whole.usage.wall_us.div_ceil(1_000) + 500;
    let stopped = bench.limited("loop", Limits { fuel: u64::MAX, wall_ms, ..Limits::default() }).await;
    assert_eq!(stopped.result.expect_err("it never ends").code(), Code::TimedOut);
    assert!(stopped.usage.fuel > 50_000_000, "{:?}", stopped.usage);
}

#[tokio::test]
async fn each_limit_has_its_own_name() {
    let bench = Bench::new().await;
    let limits = Limits::default();
    let code = |outcome: Outcome| outcome.result.expect_err("over the limit").code();

    let started = Instant::now();
    let slow = bench.limited("loop", Limits { wall_ms: 100, fuel: u64::MAX, ..limits }).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(slow.usage.wall_us >= 100_000 && slow.usage.fuel > 0, "{:?}", slow.usage);
    assert_eq!(code(slow), Code::TimedOut);

    let burnt = bench.limited("loop", Limits { fuel: 1_000_000, ..limits }).await;
    assert_eq!(burnt.usage.fuel, 1_000_000);
    assert_eq!(code(burnt), Code::OutOfFuel);

    assert_eq!(code(bench.limited("grow", limits).await), Code::OutOfMemory);
    assert_eq!(
        code(bench.limited("grow", Limits { memory: u64::MAX, ..limits }).await),
        Code::OutOfMemory,
        "the sandbox has its own limit"
    );
    assert_eq!(code(bench.limited("echo", Limits { memory: 1000, ..limits }).await), Code::OutOfMemory, "also at its start");
    assert_eq!(code(bench.limited("flood", limits).await), Code::ResultTooLarge);
    assert_eq!(code(bench.limited("echo", Limits { result_bytes: 1, ..limits }).await), Code::ResultTooLarge);
    let filled = bench.limited("fill", limits).await;
    assert!(filled.writes.is_empty());
    assert_eq!(code(filled), Code::StateQuota);
    assert_eq!(code(bench.limited("trap", limits).await), Code::PluginTrapped);
}

#[tokio::test]
async fn two_memories_share_one_limit() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let two = Builder::new()
        .function("(memory $second 1)")
        .method(
            "both",
            Effect::ReadOnly,
            "(drop (memory.grow 0 (local.get $n))) (drop (memory.grow 1 (i32.const 600))) (call $ok (local.get $p) (local.get $n))",
        )
        .build();
    let plugin = load(&kernel, &two).await;
    let outcome = |memory| kernel.call(&plugin, call("both", "{}", &Memory::default(), Limits { memory, ..Limits::default() }));
    outcome(40 << 20).await.result.expect("600 pages of 64 KiB fit 40 MiB");
    assert!(matches!(outcome(37 << 20).await.result, Err(Failure::OutOfMemory { .. })));
}

#[tokio::test]
async fn the_plugins_own_errors_are_told_apart() {
    let bench = Bench::new().await;
    let cases = [
        ("refuse", Code::PluginDenied),
        ("fail", Code::PluginFailed),
        ("invalid", Code::InvalidParams),
        ("garbage", Code::PluginBadResult),
        ("wrong", Code::PluginBadResult),
    ];
    for (method, code) in cases {
        assert_eq!(bench.problem(method, "{}").await.code, code, "{method}");
    }
    let unknown = bench.problem("dance", "{}").await;
    assert_eq!(unknown.code, Code::MethodNotFound);
    assert!(unknown.hint.expect("a hint").contains("echo, read, write"));
}

#[tokio::test]
async fn parameters_are_checked_before_anything_runs() {
    let bench = Bench::new().await;
    let refused = bench.run("strict", r#"{"text":"ok","more":1}"#).await;
    assert_eq!(refused.usage.calls, 0);
    let pointers = |problem: Problem| problem.errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>();
    assert_eq!(pointers(refused.result.expect_err("refused").into()), ["/more"]);
    assert_eq!(pointers(bench.problem("strict", "null").await), ["/text"]);
    assert_eq!(pointers(bench.problem("strict", r#"{"text":"0123456789"}"#).await), ["/text"]);
    for bad in ["", "{", "[1]", "\"text\"", "{\"a\":1} {}"] {
        assert_eq!(bench.problem("echo", bad).await.code, Code::InvalidParams, "{bad:?}");
    }
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(4 << 20));
    assert_eq!(bench.problem("echo", &long).await.code, Code::InvalidParams);
    assert!(bench.plugin.validate("strict", &serde_json::Value::Null).is_err());
    assert!(bench.plugin.validate("strict", &serde_json::json!({ "text": "a" })).is_ok());
}

/// Tells when it is dropped, with the guest that owned it.
struct Witness(&'static AtomicBool);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl State for Witness {
    async fn get(&mut self, _: &str) -> Result<Option<Vec<u8>>, StateError> {
        Err("the disk is gone".into())
    }

    async fn list(&mut self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<String>, StateError> {
        Err("the disk is gone".into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_stops_its_guest_and_frees_its_place() {
    static GONE: AtomicBool = AtomicBool::new(false);
    let home = tempfile::tempdir().expect("folder");
    let config = Config { max_concurrent: 1, ..Config::new(home.path().into(), [1; 32], Compiler::InProcess) };
    let kernel = Kernel::new(config).expect("kernel");
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let limits = Limits { fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() };
    let endless = Call { state: Box::new(Witness(&GONE)), ..call("loop", "{}", &Memory::default(), limits) };
    let (also, of) = (kernel.clone(), plugin.clone());
    let task = tokio::spawn(async move { also.call(&of, endless).await });

    let waiting = kernel.call(&plugin, call("echo", "{}", &Memory::default(), Limits { wall_ms: 50, ..limits }));
    // The endless call may not have begun yet: then this one simply runs.
    let mut outcome = waiting.await;
    while outcome.result.is_ok() {
        outcome = kernel.call(&plugin, call("echo", "{}", &Memory::default(), Limits { wall_ms: 50, ..limits })).await;
    }
    assert!(matches!(outcome.result, Err(Failure::Overloaded)), "{:?}", outcome.result);

    let stopped = kernel.clone();
    let stop = tokio::time::sleep(Duration::from_millis(1));
    let second = tokio::spawn({
        let (plugin, call) = (plugin.clone(), call("loop", "{}", &Memory::default(), limits));
        async move { stopped.call_until(&plugin, call, stop).await }
    });
    task.abort();
    let outcome = second.await.expect("no panic");
    assert!(matches!(outcome.result, Err(Failure::Stopped)) && outcome.usage.calls == 1, "{outcome:?}");
    assert!(task.await.expect_err("aborted").is_cancelled());
    assert!(GONE.load(Ordering::SeqCst), "the guest is gone once the call is dropped");
    kernel.call(&plugin, call("echo", "{}", &Memory::default(), limits)).await.result.expect("the place is free");
}

#[tokio::test]
async fn a_broken_store_is_not_the_plugins_fault() {
    static GONE: AtomicBool = AtomicBool::new(false);
    let bench = Bench::new().await;
    let call = Call { state: Box::new(Witness(&GONE)), ..call("read", "{}", &Memory::default(), Limits::default()) };
    let problem: Problem = bench.kernel.call(&bench.plugin, call).await.result.expect_err("must fail").into();
    assert_eq!(problem.code, Code::StoreFailed);
    assert!(problem.detail.contains("the disk is gone"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_run_side_by_side() {
    let bench = Bench::new().await;
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..500 {
        let (kernel, plugin) = (bench.kernel.clone(), bench.plugin.clone());
        let params = format!("{{\"i\":{i}}}");
        let call = call("echo", &params, &Memory::default(), Limits::default());
        calls.spawn(async move { (params, text(kernel.call(&plugin, call).await)) });
    }
    while let Some(done) = calls.join_next().await {
        let (sent, answered) = done.expect("no panic");
        assert_eq!(sent, answered);
    }
}

#[tokio::test]
async fn plugins_that_describe_themselves_wrongly_are_refused() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let body = "(call $ok (local.get $p) (local.get $n))";
    let plain = |name: &str| Builder::new().method(name, Effect::ReadOnly, body);
    let many = (0..65).fold(Builder::new(), |builder, i| builder.method(&format!("m{i}"), Effect::ReadOnly, body));
    let schema = |input: &str| Builder::new().method_with("m", Effect::ReadOnly, input, "{}", body);
    let cases = [
        (plain("Upper"), "a-z"),
        (plain("twice").method("twice", Effect::Mutating, body), "two of this name"),
        (Builder::new(), "1 to 64 methods"),
        (many, "1 to 64 methods"),
        (schema("{"), "isn't JSON"),
        (schema(r#"{"type":"string"}"#), "\"object\""),
        (schema(r#"{"type":"object","properties":{"a":{"$ref":"file:///etc/passwd"}}}"#), "plain pointer"),
    ];
    for (builder, expected) in cases {
        let component = builder.build();
        let refused = kernel.load(&component, &fixture::manifest("m", &component, &[])).await.expect_err(expected);
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(refused.code(), Code::InvalidPlugin);
    }
}

#[tokio::test]
async fn a_component_of_another_world_is_refused() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let refuse = async |component: &[u8]| {
        kernel.load(component, &fixture::manifest("m", component, &Import::ALL)).await.expect_err("must be refused")
    };
    let empty = wat::parse_str("(component)").expect("wat");
    assert!(matches!(refuse(&empty).await, Error::Shape(_)));
    let invalid = wat::parse_str("(component (core module (func (result i32))))").expect("wat");
    assert!(matches!(refuse(&invalid).await, Error::Compile(_)));
    let stuck = fixture::component(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "describe") (result i32) unreachable)
            (func (export "call") (param i32 i32 i32 i32) (result i32) unreachable))"#,
    );
    assert!(matches!(refuse(&stuck).await, Error::Describe(Failure::Trapped(_))));
}

#[tokio::test]
async fn damaged_compiled_code_is_made_anew() {
    let home = tempfile::tempdir().expect("folder");
    let component = fixture::misbehaving();
    let first = kernel(home.path());
    load(&first, &component).await;
    let code = std::fs::read_dir(home.path().join("code")).expect("folder").map(|entry| entry.expect("entry").path());
    let code = code.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "cwasm")).expect("compiled code");
    let good = std::fs::read(&code).expect("code");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle..middle + 64].fill(0xcc);
    std::fs::remove_file(&code).expect("removed");
    std::fs::write(&code, bad).expect("written");
    let second = kernel(home.path());
    let plugin = load(&second, &component).await;
    assert_eq!(text(run(&second, &plugin, "echo", "{}", &Memory::default()).await), "{}");
    assert_eq!(std::fs::read(&code).expect("code"), good, "compiled again, to the same code");
}

//! What guests reach outside of themselves: through whom, how much, for how long; and what all guests share.

mod shared;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kernel::{
    AgentCall, Call, Compiler, Config, Egress, Failure, HttpRequest, HttpResponse, Kernel, Outside, Plugin, Refused,
    fixture::{self, Builder, Effect, Memory},
};
use protocol::{Code, Problem, api::Limits, manifest::Import, wire::MAX_DEPTH};
use shared::{call, text};

async fn load(kernel: &Kernel, component: &[u8]) -> Plugin {
    let manifest = fixture::manifest("reaching", component, &[Import::Http, Import::Agents]);
    kernel.load(component, &manifest).await.expect("the fixture is sound")
}

fn kernel(home: &std::path::Path, max_concurrent: usize, max_memory: u64) -> Kernel {
    let config = Config::new(home.join("code"), [1; 32], Compiler::InProcess);
    Kernel::new(Config { max_concurrent, max_memory, ..config }).expect("a kernel")
}

fn with(method: &str, params: &str, limits: Limits, outside: impl Outside + 'static) -> Call {
    Call { outside: Box::new(outside), ..call(method, params, &Memory::default(), limits) }
}

/// Answers each request with what it was, and never to one of `/never`.
#[derive(Clone, Default)]
struct Web(Arc<Mutex<Vec<HttpRequest>>>);

#[async_trait]
impl Outside for Web {
    async fn http(&mut self, request: HttpRequest, egress: &mut Egress) -> Result<HttpResponse, String> {
        egress.spend(request.body.len() as u64)?;
        if request.url.ends_with("/never") {
            std::future::pending::<()>().await;
        }
        let body = format!("{:?}", request.url).into_bytes();
        self.0.lock().expect("no panic").push(request);
        Ok(HttpResponse { status: 418, headers: vec![("a".into(), "b".into())], body })
    }

    async fn call(&mut self, call: AgentCall, _: &mut Egress) -> Result<String, Refused> {
        Err(match call.agent.as_str() {
            "unknown" => Refused::UnknownMethod(call.method),
            "invalid" => Refused::InvalidParams(call.params),
            "denied" => Refused::Denied("no".into()),
            _ => Refused::Failed(format!("{} ms", call.timeout.as_millis())),
        })
    }
}

#[tokio::test]
async fn requests_go_through_whoever_made_the_call() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path(), 4, 0);
    let plugin = load(&kernel, &fixture::reaching()).await;
    let web = Web::default();
    let ask = |method: &str, params: &str| kernel.call(&plugin, with(method, params, Limits::default(), web.clone()));
    assert_eq!(text(ask("fetch", r#"{"url":"http://a/b"}"#).await), "\"http://a/b\"");
    assert_eq!(text(ask("status", r#"{"url":"http://a/b"}"#).await), "418");
    let posted = ask("post", r#"{"url":"http://c"}"#).await;
    // Its result, and what it sent.
    assert_eq!(posted.usage.egress_bytes, 10 + 18);
    assert_eq!(text(posted), "\"http://c\"");
    let seen = web.0.lock().expect("no panic").pop().expect("a request");
    assert_eq!((seen.method.as_str(), seen.body.as_slice()), ("POST", &br#"{"url":"http://c"}"#[..]));
    assert_eq!(seen.headers, [("x-plugin".to_owned(), "fixture".to_owned())]);

    let nothing = kernel.call(&plugin, with("fetch", r#"{"url":"http://a"}"#, Limits::default(), ())).await;
    assert!(matches!(nothing.result, Err(Failure::Failed(reason)) if reason.contains("not allowed")));
    let nobody = kernel.call(&plugin, with("relay", r#"{"to":"a"}"#, Limits::default(), ())).await;
    assert!(matches!(nobody.result, Err(Failure::Denied(reason)) if reason.contains("not allowed")));
}

#[tokio::test]
async fn what_leaves_is_limited_and_counted_whatever_becomes_of_the_call() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path(), 4, 0);
    let plugin = load(&kernel, &fixture::reaching()).await;
    let ask = |url: &str, limits: Limits| {
        let params = format!(r#"{{"url":"{url}"}}"#);
        let length = params.len() as u64;
        let call = with("post", &params, limits, Web::default());
        let (kernel, plugin) = (kernel.clone(), plugin.clone());
        async move { (kernel.call(&plugin, call).await, length) }
    };
    let few = Limits { egress_bytes: 10, ..Limits::default() };
    let (refused, _) = ask("http://a", few).await;
    assert_eq!(refused.usage.egress_bytes, 0);
    assert_eq!(Problem::from(refused.result.expect_err("over the limit")).code, Code::EgressQuota);

    // What was sent leaves less for the result.
    let (refused, length) = ask("http://a", Limits { egress_bytes: 20, ..Limits::default() }).await;
    assert_eq!(refused.usage.egress_bytes, length);
    assert!(matches!(refused.result, Err(Failure::ResultTooLarge { limit, .. }) if limit == 20 - length));

    let (stopped, length) = ask("http://a/never", Limits { wall_ms: 100, ..Limits::default() }).await;
    assert!(matches!(stopped.result, Err(Failure::TimedOut { .. })), "a call that waits is stopped");
    assert_eq!(stopped.usage.egress_bytes, length);
}

#[tokio::test]
async fn a_guest_is_told_why_another_agent_did_not_answer_and_how_long_it_may_wait() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path(), 4, 0);
    let plugin = load(&kernel, &fixture::reaching()).await;
    let limits = Limits { wall_ms: 5_000, ..Limits::default() };
    let ask = |to: &str| kernel.call(&plugin, with("relay", &format!(r#"{{"to":"{to}"}}"#), limits, Web::default()));
    let failure = async |to: &str| ask(to).await.result.expect_err("an error");
    assert!(matches!(failure("unknown!dance").await, Failure::Failed(text) if text.ends_with("dance")));
    assert!(matches!(failure("invalid/x").await, Failure::InvalidParams { detail, .. } if detail == r#"{"to":"x"}"#));
    assert!(matches!(failure("denied").await, Failure::Denied(text) if text == "no"));
    let Failure::Failed(left) = failure("late").await else { panic!("another failure") };
    let left: u64 = left.strip_suffix(" ms").and_then(|ms| ms.parse().ok()).expect("a number");
    assert!((1..=5_000).contains(&left), "{left}");
}

/// Calls the same plugin, one deeper.
#[derive(Clone)]
struct Deeper {
    kernel: Kernel,
    plugin: Plugin,
    depth: usize,
}

#[async_trait]
impl Outside for Deeper {
    async fn http(&mut self, _: HttpRequest, _: &mut Egress) -> Result<HttpResponse, String> {
        Err("there is no web".into())
    }

    async fn call(&mut self, call: AgentCall, _: &mut Egress) -> Result<String, Refused> {
        let deeper = Self { depth: self.depth + 1, ..self.clone() };
        let call = Call { depth: deeper.depth, ..with(&call.method, &call.params, Limits::default(), deeper) };
        let outcome = self.kernel.call(&self.plugin, call).await;
        outcome.result.map(|json| String::from_utf8(json).expect("JSON")).map_err(|failure| Refused::Failed(failure.to_string()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_calls_do_not_take_their_places() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path(), 1, 0);
    let plugin = load(&kernel, &fixture::reaching()).await;
    let limits = Limits { wall_ms: 60_000, ..Limits::default() };
    let start = |to: &str| {
        let (kernel, plugin) = (kernel.clone(), plugin.clone());
        let deeper = Deeper { kernel: kernel.clone(), plugin: plugin.clone(), depth: 0 };
        let call = with("relay", &format!(r#"{{"to":"{to}"}}"#), limits, deeper);
        tokio::spawn(async move { kernel.call(&plugin, call).await })
    };
    let deepest = ["x"; MAX_DEPTH - 1].join("/");
    let all: Vec<_> = (0..32).map(|_| start(&deepest)).collect();
    for one in all {
        assert_eq!(text(one.await.expect("no panic")), r#"{"to":""}"#);
    }
    let too_deep = start(&format!("{deepest}/x")).await.expect("no panic").result.expect_err("one too many");
    assert!(matches!(&too_deep, Failure::Failed(text) if text.contains("in a row")), "{too_deep}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_keep_to_a_ceiling_together() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path(), 8, 40 << 20);
    let holding = Builder::new()
        .method("hold", Effect::ReadOnly, "(drop (memory.grow (i32.const 400))) (loop $again (br $again)) unreachable")
        .method("take", Effect::ReadOnly, "(drop (memory.grow (i32.const 400))) (call $ok (local.get $p) (local.get $n))")
        .method("less", Effect::ReadOnly, "(call $ok (local.get $p) (local.get $n))")
        .build();
    let plugin = load(&kernel, &holding).await;
    let limits = Limits { fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() };
    let ask = |method: &str, wall_ms: u64| kernel.call(&plugin, with(method, "{}", Limits { wall_ms, ..limits }, ()));
    ask("take", 60_000).await.result.expect("25 MiB fit");
    let hold = |kernel: &Kernel, plugin: &Plugin| {
        let (kernel, plugin) = (kernel.clone(), plugin.clone());
        tokio::spawn(async move { kernel.call(&plugin, with("hold", "{}", limits, ())).await })
    };
    let mut held = hold(&kernel, &plugin);
    let full = loop {
        // Until the other one has grown, there is room; it may be the one that finds none.
        if let Err(failure) = ask("take", 60_000).await.result {
            break failure;
        }
        if held.is_finished() {
            held = hold(&kernel, &plugin);
        }
    };
    let problem = Problem::from(full);
    assert_eq!((problem.code, problem.retry_after), (Code::Overloaded, Some(1)), "{problem}");
    ask("less", 60_000).await.result.expect("what needs little has room");

    // Nearly full: who comes now waits, unless another call waits for it.
    let small = Kernel::new(Config { max_memory: 26 << 20, ..Config::new(home.path().join("small"), [1; 32], Compiler::InProcess) })
        .expect("a kernel");
    let plugin = load(&small, &holding).await;
    let holds = hold(&small, &plugin);
    let less = |depth: usize, wall_ms: u64| {
        let call = Call { depth, ..with("less", "{}", Limits { wall_ms, ..limits }, ()) };
        small.call(&plugin, call)
    };
    let waited = loop {
        if let Err(failure) = less(0, 50).await.result {
            break failure;
        }
    };
    assert!(matches!(waited, Failure::Overloaded), "{waited}");
    less(1, 60_000).await.result.expect("its caller waits for it");
    let (outcome, ()) = tokio::join!(less(0, 60_000), async { holds.abort() });
    outcome.result.expect("there is room again");
    held.abort();
}

//! Compiling in a child with limits. This program is that child too, so it brings its own `main`.

mod shared;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use kernel::{
    COMPILE_ARG, Compiler, Config, Error, Kernel,
    fixture::{self, Memory},
};
use protocol::manifest::Import;
use shared::{load, run, text};

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == COMPILE_ARG) {
        return kernel::compile_worker();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        the_childs_code_runs_here().await;
        what_the_child_refuses_is_told().await;
        a_child_that_needs_too_much_is_stopped().await;
        nobody_notices_a_flood_of_functions().await;
        a_compiler_that_cannot_start_is_told().await;
    });
    runtime.block_on(without_a_ticking_clock());
    ExitCode::SUCCESS
}

fn kernel_with(home: &Path, compiler: Compiler) -> Kernel {
    Kernel::new(Config::new(home.join("code"), [1; 32], compiler)).expect("a kernel")
}

fn here() -> Compiler {
    Compiler::Child(std::env::current_exe().expect("this program"))
}

async fn refusal(kernel: &Kernel, component: &[u8]) -> Error {
    kernel.load(component, &fixture::manifest("m", component, &[Import::State])).await.expect_err("must be refused")
}

async fn the_childs_code_runs_here() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel_with(home.path(), here());
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let state = Memory::default();
    assert_eq!(text(run(&kernel, &plugin, "count", "{}", &state).await), r#"{"count":1}"#);
    // From the cache now: this compiler could make nothing.
    let kernel = kernel_with(home.path(), Compiler::Child("/nowhere/at/all".into()));
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    assert_eq!(text(run(&kernel, &plugin, "count", "{}", &state).await), r#"{"count":2}"#);
}

async fn what_the_child_refuses_is_told() {
    let home = tempfile::tempdir().expect("folder");
    let invalid = wat::parse_str("(component (core module (func (result i32))))").expect("wat");
    let refused = refusal(&kernel_with(home.path(), here()), &invalid).await;
    assert!(matches!(&refused, Error::Compile(reason) if reason.contains("type mismatch")), "{refused}");
}

/// One function whose every step branches: small enough for all that is counted, too much for the limits.
async fn a_child_that_needs_too_much_is_stopped() {
    let home = tempfile::tempdir().expect("folder");
    let mut body = String::new();
    for i in 0..24 {
        let _ = write!(body, "(func (param i32) (result i32) {} (local.get 0))", tangle(i));
    }
    let bomb = wat::parse_str(format!("(component (core module {body}))")).expect("wat");
    let refused = refusal(&kernel_with(home.path(), here()), &bomb).await;
    assert!(matches!(&refused, Error::Compile(reason) if reason.contains("more than")), "{refused}");
}

fn tangle(seed: usize) -> String {
    let mut text = String::new();
    for i in 0..40_000 {
        let _ = write!(text, "(if (local.get 0) (then (local.set 0 (i32.add (local.get 0) (i32.const {})))))", i + seed);
    }
    text
}

/// A hundred thousand functions: none is compiled; where the count would let them pass, the child's own limits end it. A
/// loaded plugin answers all the while.
async fn nobody_notices_a_flood_of_functions() {
    let home = tempfile::tempdir().expect("folder");
    let function = "(func (param i32 i32) (result i32) (i32.add (i32.mul (local.get 0) (i32.const 77)) (i32.load (local.get 1))))";
    let bomb = wat::parse_str(format!("(component (core module (memory 1) {}))", function.repeat(100_000))).expect("wat");
    let counting = kernel_with(home.path(), Compiler::Child("/nowhere/at/all".into()));
    let refused = refusal(&counting, &bomb).await;
    assert!(matches!(refused, Error::TooLarge { what: "functions", found: 100_000, .. }), "{refused}");

    let config = Config { max_functions: u64::MAX, ..Config::new(home.path().join("code"), [1; 32], here()) };
    let kernel = Kernel::new(config).expect("a kernel");
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let also = kernel.clone();
    let compiling = tokio::spawn(async move { refusal(&also, &bomb).await });
    let mut answered = 0;
    while !compiling.is_finished() {
        run(&kernel, &plugin, "echo", "{}", &Memory::default()).await.result.expect("it goes on answering");
        answered += 1;
        tokio::task::yield_now().await;
    }
    let refused = compiling.await.expect("no panic");
    // On a busy machine its wall time may be over first.
    let limits = ["more than", "longer than"];
    assert!(matches!(&refused, Error::Compile(reason) if limits.iter().any(|limit| reason.contains(limit))), "{refused}");
    assert!(answered > 100, "{answered} calls meanwhile");
}

async fn a_compiler_that_cannot_start_is_told() {
    let home = tempfile::tempdir().expect("folder");
    let refused = refusal(&kernel_with(home.path(), Compiler::Child("/nowhere/at/all".into())), &fixture::misbehaving()).await;
    assert!(matches!(&refused, Error::Sandbox(reason) if reason.contains("/nowhere/at/all")), "{refused}");
}

/// An idle kernel's thread sleeps: it is woken by calls, not by time.
async fn without_a_ticking_clock() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel_with(home.path(), Compiler::InProcess);
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    run(&kernel, &plugin, "echo", "{}", &Memory::default()).await.result.expect("answered");
    let switches = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("tasks").map(|task| task.expect("task").path());
        let named = |task: &std::path::PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "kernel-epoch");
        let status = |task: std::path::PathBuf| std::fs::read_to_string(task.join("status")).expect("status");
        let count = |status: String| {
            let line = status.lines().find(|line| line.starts_with("voluntary")).expect("a count").to_owned();
            line.split_whitespace().last().expect("a number").parse::<u64>().expect("a number")
        };
        tasks.filter(named).map(status).map(count).sum::<u64>()
    };
    // Its last tick may still be due when the call returns.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let before = switches();
    assert!(before > 0, "the thread is there");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(switches(), before);
    drop(kernel);
}

//! Plugins that mean harm, or are simply wrong: what they try is refused or ended, and told by its name.

mod shared;

use std::sync::Arc;

use kernel::{
    Call, Compiler, Config, Error, Failure, Kernel, Level, Log,
    fixture::{self, Builder, Effect, Memory},
};
use parking_lot::Mutex;
use protocol::{
    Code,
    api::Limits,
    manifest::{INTERFACE, Import},
};
use shared::{call, kernel, load, run, text};

#[tokio::test]
async fn recursion_ends_where_the_guests_stack_does() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let state = Memory::default();
    for _ in 0..3 {
        let limits = Limits { fuel: u64::MAX, ..Limits::default() };
        let deep = kernel.call(&plugin, call("recurse", "{}", &state, limits)).await;
        let Err(Failure::Trapped(reason)) = &deep.result else { panic!("{deep:?}") };
        assert!(reason.contains("stack"), "{reason}");
        assert_eq!(text(run(&kernel, &plugin, "echo", "{}", &state).await), "{}");
    }
}

#[tokio::test]
async fn a_trap_amid_writes_leaves_none_of_them() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let state = Memory::default();
    run(&kernel, &plugin, "write", r#"{"v":1}"#, &state).await.result.expect("written");
    run(&kernel, &plugin, "count", "{}", &state).await.result.expect("counted");
    let before = state.snapshot();
    assert_eq!(before.len(), 2);
    let trapped = run(&kernel, &plugin, "trap_amid_writes", r#"{"v":2}"#, &state).await;
    assert!(trapped.writes.is_empty() && trapped.usage.calls == 1, "{trapped:?}");
    assert!(matches!(trapped.result, Err(Failure::Trapped(_))));
    assert_eq!(state.snapshot(), before);
}

/// A component of another version of the interface, whose manifest says so or says otherwise.
#[tokio::test]
async fn a_plugin_of_another_version_is_refused_with_both_versions() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let (package, ours) = INTERFACE.split_once('@').expect("a version");
    let module = Builder::new().state().method("read", Effect::ReadOnly, "(call $ok (local.get $p) (local.get $n))");
    let newer = |text: &str| text.replace(&format!("@{ours}"), "@0.9.0");
    let component = fixture::component_of(&newer(fixture::WIT), &newer(&module.text()));

    let mut manifest = fixture::manifest("m", &component, &[Import::State]);
    let refused = kernel.load(&component, &manifest).await.expect_err("what it imports isn't here");
    assert!(matches!(refused, Error::Import { .. }), "{refused}");
    assert!(refused.to_string().contains("0.9.0") && refused.to_string().contains(ours), "{refused}");

    manifest.interface = format!("{package}@0.9.0");
    let refused = kernel.load(&component, &manifest).await.expect_err("its manifest says so itself");
    assert!(matches!(refused, Error::Interface { .. }), "{refused}");
    assert!(refused.to_string().contains("0.9.0") && refused.to_string().contains(INTERFACE), "{refused}");
    assert_eq!(refused.code(), Code::InvalidPlugin);
}

#[tokio::test]
async fn a_component_that_is_cut_anywhere_is_refused() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let whole = fixture::misbehaving();
    // Signed as it is: its publisher's own upload broke off.
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let cut = &whole[..at];
        let refused = kernel.load(cut, &fixture::manifest("m", cut, &[Import::State])).await.expect_err("it is cut");
        assert_eq!(refused.code(), Code::InvalidPlugin, "at {at}: {refused}");
    }
}

/// A share that is never used up holds nobody back, but it must not let a loop keep its thread either.
#[tokio::test]
async fn a_loop_ends_in_time_under_a_share_that_is_never_used_up() {
    let home = tempfile::tempdir().expect("folder");
    let config = Config { cpu_percent: 10_000, ..Config::new(home.path().into(), [1; 32], Compiler::InProcess) };
    let kernel = Kernel::new(config).expect("a kernel");
    let plugin = load(&kernel, &fixture::misbehaving()).await;
    let limits = Limits { fuel: u64::MAX, wall_ms: 100, ..Limits::default() };
    let ended = kernel.call(&plugin, call("loop", "{}", &Memory::default(), limits)).await;
    assert!(matches!(ended.result, Err(Failure::TimedOut { .. })), "{:?}", ended.result);
}

/// Keeps what a guest logs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Log for Lines {
    fn line(&mut self, _: Level, line: &str) {
        self.0.lock().push(line.to_owned());
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_in_number_and_length() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    let flood = "(local $i i32)
        (loop $more
          (call $log (i32.const 1) (i32.const 0) (i32.const 65536))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 20000))))
        (call $ok (local.get $p) (local.get $n))";
    let component = Builder::new()
        .import("(import \"mcp-zero:plugin/log@0.1.0\" \"write\" (func $log (param i32 i32 i32)))")
        .method("flood", Effect::ReadOnly, flood)
        .build();
    let plugin = kernel.load(&component, &fixture::manifest("m", &component, &[Import::Log])).await.expect("sound");
    let lines = Lines::default();
    let call = Call { log: Box::new(lines.clone()), ..call("flood", "{}", &Memory::default(), Limits::default()) };
    // What it hands over counts: it may run into a limit, but the host keeps no more than it should.
    let _ = kernel.call(&plugin, call).await;
    let lines = lines.0.lock();
    assert_eq!(lines.len(), 101);
    assert!(lines.iter().all(|line| line.len() <= 4096), "each is bounded");
}

#[tokio::test]
async fn a_flood_of_keys_without_values_ends_like_any_other() {
    let home = tempfile::tempdir().expect("folder");
    let kernel = kernel(home.path());
    // Seven bits of the counter in each byte of the key: ASCII, and never the same twice.
    let flood = "(local $i i32)
        (loop $more
          (i32.store8 (i32.const 96) (i32.and (local.get $i) (i32.const 127)))
          (i32.store8 (i32.const 97) (i32.and (i32.shr_u (local.get $i) (i32.const 7)) (i32.const 127)))
          (i32.store8 (i32.const 98) (i32.shr_u (local.get $i) (i32.const 14)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (call $set (i32.const 96) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 32))
          (br_if $more (i32.eqz (i32.load8_u (i32.const 32)))))
        (call $error (i32.const 3) (i32.load offset=4 (i32.const 32)) (i32.load offset=8 (i32.const 32)))";
    let plugin = load(&kernel, &Builder::new().state().method("flood", Effect::Mutating, flood).build()).await;
    let limits = Limits { state_bytes: u64::MAX, fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() };
    let outcome = kernel.call(&plugin, call("flood", "{}", &Memory::default(), limits)).await;
    assert!(matches!(outcome.result, Err(Failure::StateQuota { unit: "keys", .. })), "{:?}", outcome.result);
    assert!(outcome.writes.is_empty());
}

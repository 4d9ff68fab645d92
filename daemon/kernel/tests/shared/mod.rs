//! What the tests of this crate share.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::Path;

use kernel::{Call, Compiler, Config, Kernel, Outcome, Plugin, fixture, fixture::Memory};
use protocol::{AgentId, api::Limits, manifest::Import};

/// A kernel that compiles in this process.
pub(crate) fn kernel(home: &Path) -> Kernel {
    Kernel::new(Config::new(home.join("code"), [1; 32], Compiler::InProcess)).expect("a kernel")
}

/// Loads a component that asks for `state`.
pub(crate) async fn load(kernel: &Kernel, component: &[u8]) -> Plugin {
    let manifest = fixture::manifest("fixture", component, &[Import::State]);
    kernel.load(component, &manifest).await.expect("the fixture is sound")
}

/// A call under limits.
pub(crate) fn call(method: &str, params: &str, state: &Memory, limits: Limits) -> Call {
    Call {
        agent: AgentId::new(),
        method: method.into(),
        params: params.into(),
        limits,
        state: Box::new(state.clone()),
        label: "test".into(),
        log: Box::new(()),
        outside: Box::new(()),
        depth: 0,
    }
}

/// Runs a call and commits what it wrote.
pub(crate) async fn run(kernel: &Kernel, plugin: &Plugin, method: &str, params: &str, state: &Memory) -> Outcome {
    let mut outcome = kernel.call(plugin, call(method, params, state, Limits::default())).await;
    state.commit(std::mem::take(&mut outcome.writes));
    outcome
}

/// The result as text.
pub(crate) fn text(outcome: Outcome) -> String {
    String::from_utf8(outcome.result.expect("the call succeeds")).expect("JSON is UTF-8")
}

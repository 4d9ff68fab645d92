//! The docs plugin, as it is shipped, end to end.

mod shared;

use kernel::{Compiler, Config, Kernel, Plugin, fixture, fixture::Memory};
use protocol::{Code, advert::Effect, api::Limits, manifest::Import};
use serde_json::{Value, json};
use shared::call;

const DOCS: &[u8] = include_bytes!("../../../mcpctl/plugins/docs/docs.wasm");

struct Library {
    _home: tempfile::TempDir,
    kernel: Kernel,
    plugin: Plugin,
    state: Memory,
}

impl Library {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("folder");
        let kernel = Kernel::new(Config::new(home.path().into(), [1; 32], Compiler::InProcess)).expect("kernel");
        let manifest = fixture::manifest("docs", DOCS, &[Import::State]);
        let plugin = kernel.load(DOCS, &manifest).await.expect("the shipped plugin loads");
        Self { _home: home, kernel, plugin, state: Memory::default() }
    }

    async fn run(&self, method: &str, params: Value) -> Value {
        let mut outcome = self.kernel.call(&self.plugin, call(method, &params.to_string(), &self.state, Limits::default())).await;
        self.state.commit(std::mem::take(&mut outcome.writes));
        let result = outcome.result.unwrap_or_else(|failure| panic!("{method}: {failure}"));
        serde_json::from_slice(&result).expect("JSON")
    }
}

#[tokio::test]
async fn it_asks_for_nothing_but_state() {
    assert!(DOCS.len() < 250_000, "{} bytes", DOCS.len());
    let library = Library::new().await;
    let methods: Vec<_> = library.plugin.methods().iter().map(|m| (m.name.as_str(), m.effect, m.idempotent)).collect();
    let expected = [("index", Effect::Mutating, true), ("search", Effect::ReadOnly, true), ("stats", Effect::ReadOnly, true)];
    assert_eq!(methods, expected);
}

#[tokio::test]
async fn documents_are_indexed_found_and_counted() {
    let library = Library::new().await;
    assert_eq!(library.run("stats", Value::Null).await, json!({ "documents": 0, "terms": 0, "bytes": 0 }));
    let fox = json!({ "path": "fox.md", "text": "# Foxes\nThe quick brown fox jumps over the lazy dog." });
    assert_eq!(library.run("index", fox.clone()).await, json!({ "path": "fox.md", "terms": 9, "bytes": 52 }));
    library.run("index", json!({ "path": "dog.md", "title": "Dogs", "text": "Ein Hund. A dog, a DOG." })).await;
    let found = library.run("search", json!({ "query": "Dog" })).await;
    assert_eq!(found["total"], 2);
    assert_eq!(found["hits"][0]["path"], "dog.md");
    assert_eq!(found["hits"][1]["title"], "Foxes");
    assert!(found["hits"][1]["snippet"].as_str().expect("text").contains("lazy dog"));
    let before = library.state.snapshot();
    library.run("index", fox).await;
    assert_eq!(library.state.snapshot(), before, "the same document again changes nothing");
    assert_eq!(library.run("stats", json!({})).await["documents"], 2);
}

#[tokio::test]
async fn wrong_parameters_name_the_field() {
    let library = Library::new().await;
    let refuse = async |method: &str, params: Value| {
        let call = call(method, &params.to_string(), &library.state, Limits::default());
        let problem: protocol::Problem = library.kernel.call(&library.plugin, call).await.result.expect_err("refused").into();
        assert_eq!(problem.code, Code::InvalidParams);
        problem.errors[0].pointer.clone()
    };
    assert_eq!(refuse("index", json!({ "path": "a" })).await, "/text");
    assert_eq!(refuse("index", json!({ "path": "a\n", "text": "" })).await, "/path");
    assert_eq!(refuse("search", json!({ "query": "a", "limit": 1000 })).await, "/limit");
    assert_eq!(refuse("search", json!({ "query": "a", "fuzzy": true })).await, "/fuzzy");
    assert_eq!(refuse("stats", json!([])).await, "");
}

/// A megabyte of which every word is another: the most that a text of this size can cost.
#[tokio::test]
async fn a_large_document_stays_within_the_default_limits() {
    let library = Library::new().await;
    let mut text = String::new();
    let mut number: u32 = 1;
    while text.len() < 1 << 20 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(&format!("w{number:08x} "));
    }
    let large = library.run("index", json!({ "path": "large", "text": text })).await;
    assert!(large["terms"].as_u64().expect("a number") > 100_000);
    text.replace_range(..1, "v");
    library.run("index", json!({ "path": "large", "text": text })).await;
    let last = text.split_whitespace().last().expect("a word").to_owned();
    let found = library.run("search", json!({ "query": last })).await;
    assert!(found["hits"][0]["snippet"].as_str().expect("text").contains(&last));
}

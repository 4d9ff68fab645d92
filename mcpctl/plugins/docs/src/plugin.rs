//! The WebAssembly side: the interface that the host knows.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::index::{self, Hit, Store};

wit_bindgen::generate!({ path: "../../../protocol/wit", world: "plugin" });

use self::mcp_zero::plugin::{state, types::Effect};

/// The longest path in bytes: it becomes part of a key.
const MAX_PATH: usize = 1000;

struct Docs;

export!(Docs);

/// The agent's state, as the host gives it.
struct Host;

impl Store for Host {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        state::get(key)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        state::set(key, value)
    }

    fn delete(&mut self, key: &str) -> Result<(), String> {
        state::delete(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
        state::list_keys(prefix, after, limit)
    }
}

#[derive(Deserialize)]
struct Index {
    path: String,
    text: String,
    title: Option<String>,
}

#[derive(Serialize)]
struct Indexed {
    path: String,
    terms: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Search {
    query: String,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Found {
    hits: Vec<Hit>,
    total: u64,
}

#[derive(Serialize)]
struct Totals {
    documents: u64,
    terms: u64,
    bytes: u64,
}

impl Guest for Docs {
    fn describe() -> Vec<Method> {
        vec![describe_index(), describe_search(), describe_stats()]
    }

    fn call(method: String, params: String) -> Result<String, Error> {
        match method.as_str() {
            "index" => {
                let Index { path, text, title } = read(&params)?;
                if path.len() > MAX_PATH {
                    return Err(Error::InvalidParams(format!("path is longer than {MAX_PATH} bytes")));
                }
                let document = index::index(&mut Host, &path, title.as_deref(), &text).map_err(Error::Failed)?;
                write(&Indexed { path, terms: document.terms, bytes: document.bytes })
            }
            "search" => {
                let Search { query, limit } = read(&params)?;
                let (hits, total) = index::search(&Host, &query, limit.unwrap_or(10)).map_err(Error::Failed)?;
                write(&Found { hits, total })
            }
            "stats" => {
                let stats = index::stats(&Host).map_err(Error::Failed)?;
                write(&Totals { documents: stats.documents, terms: stats.terms, bytes: stats.bytes })
            }
            _ => Err(Error::UnknownMethod(method)),
        }
    }
}

fn read<T: for<'a> Deserialize<'a>>(params: &str) -> Result<T, Error> {
    serde_json::from_str(params).map_err(|error| Error::InvalidParams(error.to_string()))
}

fn write(result: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(result).map_err(|error| Error::Failed(error.to_string()))
}

fn describe_index() -> Method {
    Method {
        name: "index".into(),
        description: "Adds a document to the search index, or replaces the one of the same path.".into(),
        effect: Effect::Mutating,
        idempotent: true,
        input_schema: json!({
            "type": "object",
            "properties": {
                "path": {
                    "type": "string", "minLength": 1, "maxLength": 500, "pattern": "^[^\\u0000-\\u001f\\u007f]+$",
                    "description": "The document's name, such as a file's path. Indexing a path again replaces its document."
                },
                "text": { "type": "string", "maxLength": 2_000_000, "description": "The document's plain text." },
                "title": { "type": "string", "minLength": 1, "maxLength": 200, "description": "A title; the text's first line if left out." }
            },
            "required": ["path", "text"],
            "additionalProperties": false
        })
        .to_string(),
        output_schema: json!({
            "type": "object",
            "properties": {
                "path": { "type": "string" },
                "terms": { "type": "integer", "minimum": 0, "description": "Different words in the document." },
                "bytes": { "type": "integer", "minimum": 0, "description": "Bytes of its text." }
            },
            "required": ["path", "terms", "bytes"],
            "additionalProperties": false
        })
        .to_string(),
    }
}

fn describe_search() -> Method {
    Method {
        name: "search".into(),
        description: "Finds the documents that have any of the query's words, the best first (BM25).".into(),
        effect: Effect::ReadOnly,
        idempotent: true,
        input_schema: json!({
            "type": "object",
            "properties": {
                "query": { "type": "string", "minLength": 1, "maxLength": 1000, "description": "Words to look for; case doesn't matter." },
                "limit": { "type": "integer", "minimum": 1, "maximum": 100, "default": 10, "description": "The most hits to return." }
            },
            "required": ["query"],
            "additionalProperties": false
        })
        .to_string(),
        output_schema: json!({
            "type": "object",
            "properties": {
                "hits": {
                    "type": "array", "maxItems": 100,
                    "items": {
                        "type": "object",
                        "properties": {
                            "path": { "type": "string" },
                            "title": { "type": "string" },
                            "score": { "type": "number", "minimum": 0, "description": "Comparable within one search." },
                            "snippet": { "type": "string", "description": "A piece of the text around a match." }
                        },
                        "required": ["path", "title", "score", "snippet"],
                        "additionalProperties": false
                    }
                },
                "total": { "type": "integer", "minimum": 0, "description": "All documents that match, shown or not." }
            },
            "required": ["hits", "total"],
            "additionalProperties": false
        })
        .to_string(),
    }
}

fn describe_stats() -> Method {
    Method {
        name: "stats".into(),
        description: "Tells how much is in the search index.".into(),
        effect: Effect::ReadOnly,
        idempotent: true,
        input_schema: json!({ "type": "object", "additionalProperties": false }).to_string(),
        output_schema: json!({
            "type": "object",
            "properties": {
                "documents": { "type": "integer", "minimum": 0 },
                "terms": { "type": "integer", "minimum": 0, "description": "Different words of each document, added up." },
                "bytes": { "type": "integer", "minimum": 0, "description": "Bytes of text in all documents." }
            },
            "required": ["documents", "terms", "bytes"],
            "additionalProperties": false
        })
        .to_string(),
    }
}

//! Greets, and remembers how often.

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "wit", world: "plugin" });

use mcp_zero::plugin::{log, state, types::Effect};

/// Under which key of the agent's state the count is.
const GREETED: &str = "greeted";

struct Plugin;

export!(Plugin);

impl Guest for Plugin {
    fn describe() -> Vec<Method> {
        let count = json!({ "type": "integer", "minimum": 0 });
        let greet = Method {
            name: "greet".into(),
            description: "Greets somebody, and counts it".into(),
            effect: Effect::Mutating,
            idempotent: false,
            input_schema: json!({
                "type": "object",
                "properties": { "name": { "type": "string", "minLength": 1, "maxLength": 100 } },
                "required": ["name"],
                "additionalProperties": false,
            })
            .to_string(),
            output_schema: json!({
                "type": "object",
                "properties": { "text": { "type": "string" }, "greeted": count },
                "required": ["text", "greeted"],
            })
            .to_string(),
        };
        let greeted = Method {
            name: "greeted".into(),
            description: "How often it has greeted".into(),
            effect: Effect::ReadOnly,
            idempotent: true,
            input_schema: json!({ "type": "object", "additionalProperties": false }).to_string(),
            output_schema: json!({ "type": "object", "properties": { "greeted": count }, "required": ["greeted"] })
                .to_string(),
        };
        vec![greet, greeted]
    }

    fn call(method: String, params: String) -> Result<String, Error> {
        match method.as_str() {
            "greet" => greet(&params),
            "greeted" => Ok(json!({ "greeted": count() }).to_string()),
            _ => Err(Error::UnknownMethod(method)),
        }
    }
}

#[derive(Deserialize)]
struct Greet {
    name: String,
}

fn greet(params: &str) -> Result<String, Error> {
    let Greet { name } = serde_json::from_str(params).map_err(|error| Error::InvalidParams(error.to_string()))?;
    let greeted = count() + 1;
    state::set(GREETED, greeted.to_string().as_bytes()).map_err(Error::Failed)?;
    log::write(log::Level::Info, &format!("greeting number {greeted}"));
    Ok(json!({ "text": format!("Hello, {name}!"), "greeted": greeted }).to_string())
}

fn count() -> u64 {
    let stored = state::get(GREETED).and_then(|bytes| String::from_utf8(bytes).ok());
    stored.and_then(|text| text.parse().ok()).unwrap_or(0)
}

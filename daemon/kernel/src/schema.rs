//! JSON Schemas of methods, made safe to evaluate outside the sandbox.
//!
//! A schema is the plugin's, but the host evaluates it, where neither fuel nor epochs stop it. So a schema may
//! not cost more than its size suggests: references point into the schema itself, never in a circle, and don't
//! multiply; patterns run on an engine whose time is linear; nothing is fetched.

use jsonschema::{Draft, PatternOptions, Validator, error::ValidationErrorKind};
use protocol::error::FieldError;
use serde_json::Value;

/// The longest text of a schema.
pub(crate) const MAX_TEXT: usize = 32 * 1024;
/// The most places of a schema, each reference counted as what it points to.
const MAX_PLACES: usize = 20_000;
/// The longest chain of references within references.
const MAX_CHAIN: usize = 32;
/// The most places that one answer complains about.
const MAX_ERRORS: usize = 16;
/// The most characters of a complaint.
const MAX_DETAIL: usize = 300;
/// The most values in one JSON text: each takes some 32 bytes once it is parsed, whatever it took as text.
const MAX_VALUES: usize = 1 << 20;

/// The one dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Schema {
    value: Value,
    validator: Validator,
}

impl Schema {
    /// Compiles the text of a schema; the error says what is wrong with it.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("it is longer than {MAX_TEXT} bytes"));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it isn't JSON: {error}"))?;
        let Some(members) = value.as_object() else { return Err("it isn't a JSON object".into()) };
        if members.get("$schema").is_some_and(|dialect| dialect != DIALECT) {
            return Err(format!("its $schema isn't {DIALECT}"));
        }
        Walk { root: &value, places: 0, chain: Vec::new() }.schema(&value)?;
        let patterns = PatternOptions::regex().size_limit(1 << 20).dfa_size_limit(1 << 20);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .build(&value)
            .map_err(|error| shorten(error.to_string()))?;
        Ok(Self { value, validator })
    }

    /// The schema itself.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// Whether it accepts nothing but objects.
    pub(crate) fn is_of_objects(&self) -> bool {
        self.value.get("type").is_some_and(|kind| kind == "object")
    }

    /// Checks a value, and names each place that is wrong.
    pub(crate) fn check(&self, value: &Value) -> Result<(), Vec<FieldError>> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let errors = self.validator.iter_errors(value).take(MAX_ERRORS).flat_map(|error| complaints(&error));
        Err(errors.take(MAX_ERRORS).collect())
    }
}

/// Where an error stands: at the member that is missing or too much, not at the object around it.
fn complaints(error: &jsonschema::ValidationError<'_>) -> Vec<FieldError> {
    let at = error.instance_path().to_string();
    let member = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            vec![FieldError { pointer: member(name), detail: "is required".into() }]
        }
        ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let unknown = |name: &String| FieldError { pointer: shorten(member(name)), detail: "is not known".into() };
            unexpected.iter().take(MAX_ERRORS).map(unknown).collect()
        }
        // Masked: the value may be long or private, and the caller has it.
        _ => vec![FieldError { pointer: shorten(at), detail: shorten(error.masked_with("the value").to_string()) }],
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Reads a JSON text that comes from outside.
pub(crate) fn parse(text: &str) -> Result<Value, Unreadable> {
    // Every value but the first follows a byte of its own.
    if text.len() > MAX_VALUES && !outside_strings_within(text, MAX_VALUES) {
        return Err(Unreadable::TooMany(MAX_VALUES));
    }
    serde_json::from_str(text).map_err(|error| Unreadable::Malformed(error.to_string()))
}

/// Whether no more values than `limit` follow the first; a comma or bracket outside of strings comes before each.
fn outside_strings_within(text: &str, limit: usize) -> bool {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count <= limit
}

/// Why a JSON text isn't read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It isn't JSON.
    Malformed(String),
    /// It holds more values than this.
    TooMany(usize),
}

/// Visits every place of a schema as an evaluator would.
struct Walk<'a> {
    root: &'a Value,
    places: usize,
    chain: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value) -> Result<(), String> {
        self.places += 1;
        if self.places > MAX_PLACES {
            return Err(format!("with its references followed, it has more than {MAX_PLACES} places"));
        }
        match schema {
            Value::Object(members) => members.iter().try_for_each(|(keyword, value)| self.keyword(schema, keyword, value)),
            Value::Array(items) => items.iter().try_for_each(|item| self.schema(item)),
            _ => Ok(()),
        }
    }

    fn keyword(&mut self, schema: &'a Value, keyword: &str, value: &'a Value) -> Result<(), String> {
        match (keyword, value) {
            ("$ref", Value::String(target)) => self.reference(target),
            ("$dynamicRef" | "$recursiveRef", Value::String(_)) => Err(format!("it uses {keyword}")),
            ("$id", Value::String(_)) if !std::ptr::eq(schema, self.root) => Err("it has an inner $id".into()),
            // Here keys are names, not keywords.
            ("properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas", Value::Object(named)) => {
                named.values().try_for_each(|inner| self.schema(inner))
            }
            // Here is no schema but a value.
            ("const" | "enum" | "default" | "examples", _) => Ok(()),
            (_, inner) => self.schema(inner),
        }
    }

    fn reference(&mut self, target: &'a str) -> Result<(), String> {
        let named = shorten(target.to_owned());
        let pointer = target.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let Some(pointer) = pointer.filter(|pointer| !pointer.contains('%')) else {
            return Err(format!("its reference {named:?} isn't a plain pointer (#/…) into itself"));
        };
        if self.chain.contains(&target) {
            return Err(format!("its reference {named:?} runs in a circle"));
        }
        if self.chain.len() == MAX_CHAIN {
            return Err(format!("it has references more than {MAX_CHAIN} deep"));
        }
        let found = self.root.pointer(pointer).ok_or_else(|| format!("its reference {named:?} points nowhere"))?;
        self.chain.push(target);
        self.schema(found)?;
        self.chain.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(schema: &Value) -> String {
        Schema::compile(&schema.to_string()).err().unwrap_or_else(|| "accepted".into())
    }

    #[test]
    fn errors_point_at_the_member() {
        let schema = json!({
            "type": "object", "required": ["path"], "additionalProperties": false,
            "properties": { "path": { "type": "string" }, "limit": { "$ref": "#/$defs/count" } },
            "$defs": { "count": { "type": "integer", "maximum": 9 } }
        });
        let schema = Schema::compile(&schema.to_string()).expect("a schema");
        let wrong = |value: Value| {
            let errors = schema.check(&value).expect_err("must be refused");
            errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
        };
        assert_eq!(wrong(json!({})), ["/path"]);
        assert_eq!(wrong(json!({ "path": "a", "pa/th": 1 })), ["/pa~1th"]);
        assert_eq!(wrong(json!({ "path": "a", "limit": 10 })), ["/limit"]);
        assert!(schema.check(&json!({ "path": "a", "limit": 9 })).is_ok());
        let long = schema.check(&json!({ "path": ["x".repeat(100_000)] })).expect_err("must be refused");
        assert!(long[0].detail.len() < 1000, "the value itself isn't quoted");
    }

    #[test]
    fn schemas_that_cost_more_than_their_size_are_refused() {
        assert!(refusal(&json!({ "$ref": "#" })).contains("circle"));
        assert!(refusal(&json!({ "items": { "$ref": "#/items" } })).contains("circle"));
        assert!(refusal(&json!({ "$ref": "https://example.org/schema" })).contains("plain pointer"));
        assert!(refusal(&json!({ "properties": { "default": { "$ref": "#" } } })).contains("circle"));
        assert!(refusal(&json!({ "$dynamicRef": "#x" })).contains("$dynamicRef"));
        assert!(refusal(&json!({ "$schema": "http://json-schema.org/draft-07/schema#" })).contains("2020-12"));
        let mut defs = serde_json::Map::new();
        for i in 0..30 {
            let twice = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
            defs.insert(format!("d{i}"), json!({ "allOf": [twice, twice] }));
        }
        defs.insert("d30".into(), json!({ "type": "object" }));
        assert!(refusal(&json!({ "$ref": "#/$defs/d0", "$defs": defs })).contains("places"));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert!(Schema::compile("{").is_err() && Schema::compile("true").is_err());
        assert!(refusal(&json!({ "type": "objekt" })) != "accepted");
        assert!(refusal(&json!({ "pattern": "(a)\\1" })) != "accepted", "back-references aren't linear");
        assert_eq!(refusal(&json!({ "const": { "$ref": "#" } })), "accepted", "a value, not a reference");
    }

    #[test]
    fn a_text_of_too_many_values_is_not_read() {
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(matches!(parse(&many), Err(Unreadable::TooMany(_))));
        assert!(parse(&format!("[\"\\\"{}\"]", ",".repeat(2 * MAX_VALUES))).is_ok(), "one long string is one value");
        assert!(matches!(parse("{\"a\":"), Err(Unreadable::Malformed(_))));
        assert!(parse(&"[".repeat(100_000)).is_err(), "nesting is bounded");
    }
}

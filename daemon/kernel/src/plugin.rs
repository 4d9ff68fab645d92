//! A loaded plugin: compiled, linked, and described by itself.

use std::{fmt, sync::Arc};

use protocol::{
    Digest,
    advert::{Effect, Method},
    error::FieldError,
    manifest::is_name,
};
use serde_json::Value;

use crate::{
    error::Error,
    host::{Guest, bindings},
    schema::Schema,
};

/// The most methods of a plugin.
const MAX_METHODS: usize = 64;
/// The longest description of a method in bytes: it goes into adverts and into models' prompts.
const MAX_DESCRIPTION: usize = 2 * 1024;
/// The longest description of a plugin as a whole, schemas included.
pub(crate) const MAX_DESCRIBED: usize = 256 * 1024;

/// A plugin that can be called. Cheap to clone; holds no memory of any call.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    digest: Digest,
    methods: Vec<Method>,
    schemas: Vec<Schemas>,
    pre: bindings::PluginPre<Guest>,
}

/// The compiled schemas of a method.
pub(crate) struct Schemas {
    /// Of its parameters.
    pub(crate) input: Schema,
    /// Of its result.
    pub(crate) output: Schema,
}

impl Plugin {
    /// Takes what the plugin says about itself, if that can be offered.
    pub(crate) fn new(digest: Digest, pre: bindings::PluginPre<Guest>, described: Vec<bindings::Method>) -> Result<Self, Error> {
        let (mut methods, mut schemas) = (Vec::<Method>::new(), Vec::new());
        let size: usize = described.iter().map(|m| m.description.len() + m.input_schema.len() + m.output_schema.len()).sum();
        let wrong = |method: &str, reason: String| Error::Method { method: method.chars().take(40).collect(), reason };
        if described.is_empty() || described.len() > MAX_METHODS || size > MAX_DESCRIBED {
            let reason = format!("a plugin has 1 to {MAX_METHODS} methods, described in at most {MAX_DESCRIBED} bytes");
            return Err(wrong("", reason));
        }
        for method in described {
            if methods.iter().any(|known| known.name == method.name) {
                return Err(wrong(&method.name, "there are two of this name".into()));
            }
            let name = method.name.clone();
            let (method, compiled) = check(method).map_err(|reason| wrong(&name, reason))?;
            methods.push(method);
            schemas.push(compiled);
        }
        Ok(Self(Arc::new(Loaded { digest, methods, schemas, pre })))
    }

    /// The component's digest.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Its methods, in the order in which it describes them.
    pub fn methods(&self) -> &[Method] {
        &self.0.methods
    }

    /// The method of this name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.find(name).map(|(method, _)| method)
    }

    /// Checks parameters against a method's input schema; `null` stands for no parameters, as in a call.
    ///
    /// Says nothing of a method that doesn't exist: ask [`Plugin::method`] first.
    pub fn validate(&self, method: &str, params: &Value) -> Result<(), Vec<FieldError>> {
        let Some((_, schemas)) = self.find(method) else { return Ok(()) };
        match params {
            Value::Null => schemas.input.check(&Value::Object(serde_json::Map::new())),
            given => schemas.input.check(given),
        }
    }

    /// A method and its compiled schemas.
    pub(crate) fn find(&self, name: &str) -> Option<(&Method, &Schemas)> {
        let at = self.0.methods.iter().position(|method| method.name == name)?;
        Some((&self.0.methods[at], &self.0.schemas[at]))
    }

    /// What instances are made of.
    pub(crate) fn pre(&self) -> &bindings::PluginPre<Guest> {
        &self.0.pre
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("digest", &self.0.digest).field("methods", &self.0.methods.len()).finish()
    }
}

fn check(method: bindings::Method) -> Result<(Method, Schemas), String> {
    if !is_name(&method.name) {
        return Err("a name has 1 to 32 of a-z 0-9 - _, beginning with a letter".into());
    }
    if method.description.trim().is_empty() || method.description.len() > MAX_DESCRIPTION {
        return Err(format!("a description has 1 to {MAX_DESCRIPTION} bytes"));
    }
    let input = Schema::compile(&method.input_schema).map_err(|reason| format!("its input schema: {reason}"))?;
    let output = Schema::compile(&method.output_schema).map_err(|reason| format!("its output schema: {reason}"))?;
    if !input.is_of_objects() {
        return Err("its input schema isn't of \"type\": \"object\"".into());
    }
    let offered = Method {
        name: method.name,
        description: method.description,
        effect: match method.effect {
            bindings::mcp_zero::plugin::types::Effect::ReadOnly => Effect::ReadOnly,
            bindings::mcp_zero::plugin::types::Effect::Mutating => Effect::Mutating,
        },
        idempotent: method.idempotent,
        input_schema: input.value().clone(),
        output_schema: output.value().clone(),
    };
    Ok((offered, Schemas { input, output }))
}

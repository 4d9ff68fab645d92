//! Why a plugin can't be loaded, and why a call failed: two questions, two types, one vocabulary of codes.

use std::path::PathBuf;

use protocol::{Code, Digest, Problem, error::FieldError, manifest::INTERFACE, wire::MAX_DEPTH};

/// Why a plugin can't be loaded, or the kernel not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Garbage, a core module, or a damaged file.
    #[error("the file isn't a component: {0}")]
    NotComponent(String),
    /// Over a limit that is checked before compiling.
    #[error("the component has {found} {what}; at most {limit} are allowed")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Not as long as its manifest says.
    #[error("the component has {found} bytes, its manifest says {stated}")]
    Size {
        /// By the manifest.
        stated: u64,
        /// By the file.
        found: u64,
    },
    /// Not the file that was signed.
    #[error("the component isn't the one that its manifest names ({stated})")]
    Digest {
        /// By the manifest.
        stated: Digest,
    },
    /// Built for another interface.
    #[error("the plugin is built for {found}; this node hosts {INTERFACE}")]
    Interface {
        /// By the manifest.
        found: String,
    },
    /// Imports what it may not.
    #[error("the component imports {name}: {reason}")]
    Import {
        /// The import.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Well formed, but not of the world `plugin`.
    #[error("the component doesn't fit the plugin interface: {0}")]
    Shape(String),
    /// The compiler refused it, or was stopped.
    #[error("the component can't be compiled: {0}")]
    Compile(String),
    /// Its `describe` failed.
    #[error("the plugin can't describe itself: {0}")]
    Describe(Failure),
    /// It describes a method that can't be offered.
    #[error("the plugin describes its method {method:?} wrongly: {reason}")]
    Method {
        /// The method's name as the plugin gives it.
        method: String,
        /// What is wrong.
        reason: String,
    },
    /// The cache of compiled code can't be used.
    #[error("the cache of compiled code at {path} can't be used")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The sandbox itself.
    #[error("the sandbox can't start: {0}")]
    Sandbox(String),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotComponent(_)
            | Self::Interface { .. }
            | Self::Import { .. }
            | Self::Shape(_)
            | Self::Compile(_)
            | Self::Method { .. } => Code::InvalidPlugin,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Size { .. } | Self::Digest { .. } => Code::BadSignature,
            Self::Describe(failure) => match failure.code() {
                Code::Overloaded => Code::Overloaded,
                _ => Code::InvalidPlugin,
            },
            Self::Cache { .. } | Self::Sandbox(_) => Code::Internal,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = match &error {
            Error::Cache { source, .. } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        let problem = Self::new(error.code(), detail);
        match error {
            Error::Size { .. } | Error::Digest { .. } => problem.hint("sign the manifest anew, or upload the file that it was made for"),
            Error::Cache { .. } => problem.hint("check the folder's owner, mode and free space"),
            _ => problem,
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The plugin has no such method.
    #[error("the plugin has no method {method:?}")]
    MethodNotFound {
        /// The name asked for.
        method: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The parameters aren't what the method takes.
    #[error("{detail}")]
    InvalidParams {
        /// In one sentence.
        detail: String,
        /// Each place that is wrong.
        errors: Vec<FieldError>,
    },
    /// The guest trapped.
    #[error("the plugin trapped: {0}")]
    Trapped(String),
    /// All fuel is used.
    #[error("the call used all of its {limit} units of fuel")]
    OutOfFuel {
        /// The limit.
        limit: u64,
    },
    /// The instance wanted more memory.
    #[error("the call wanted more than its {limit} bytes of memory")]
    OutOfMemory {
        /// The limit.
        limit: u64,
    },
    /// The wall time is over.
    #[error("the call took longer than its {limit_ms} ms")]
    TimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// Whoever wanted it wants it no more.
    #[error("the call was stopped, as its caller has gone")]
    Stopped,
    /// It failed after it had tried to write more state than it may.
    #[error("the call wanted to write more than its {limit} {unit} of state")]
    StateQuota {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// It failed after it had tried to send more than it may.
    #[error("the call wanted to send more than its {limit} bytes")]
    EgressQuota {
        /// The limit.
        limit: u64,
    },
    /// The result is too large.
    #[error("the result is over the limit of {limit} {unit}")]
    ResultTooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The plugin's own error.
    #[error("the plugin failed: {0}")]
    Failed(String),
    /// The plugin refused.
    #[error("the plugin refused the call: {0}")]
    Denied(String),
    /// The result isn't JSON, or breaks the method's schema.
    #[error("the plugin's result is wrong: {0}")]
    BadResult(String),
    /// The agent's state can't be read. Holds what [`crate::State`] answered.
    #[error("the agent's state can't be read")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No place in the sandbox became free in time.
    #[error("all places of the sandbox are taken")]
    Overloaded,
    /// All guests together hold the memory that they may.
    #[error("this node's agents hold all the memory that they may together")]
    Crowded,
    /// Too many calls wait for this one.
    #[error("at most {MAX_DEPTH} agents call one another in a row")]
    TooDeep,
}

impl Failure {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::MethodNotFound { .. } => Code::MethodNotFound,
            Self::InvalidParams { .. } => Code::InvalidParams,
            Self::Trapped(_) => Code::PluginTrapped,
            Self::OutOfFuel { .. } => Code::OutOfFuel,
            Self::OutOfMemory { .. } => Code::OutOfMemory,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::Stopped => Code::Cancelled,
            Self::StateQuota { .. } => Code::StateQuota,
            Self::ResultTooLarge { .. } => Code::ResultTooLarge,
            Self::Failed(_) => Code::PluginFailed,
            Self::Denied(_) => Code::PluginDenied,
            Self::BadResult(_) => Code::PluginBadResult,
            // What keeps the state may say more exactly what is wrong with it.
            Self::State(source) => source.downcast_ref::<Problem>().map_or(Code::StoreFailed, |problem| problem.code),
            Self::EgressQuota { .. } => Code::EgressQuota,
            Self::Overloaded | Self::Crowded => Code::Overloaded,
            Self::TooDeep => Code::CallDepth,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MethodNotFound { known, .. } => format!("its methods are: {}", known.join(", ")),
            Self::InvalidParams { .. } => "see the method's input schema".into(),
            Self::OutOfFuel { .. }
            | Self::OutOfMemory { .. }
            | Self::TimedOut { .. }
            | Self::StateQuota { .. }
            | Self::EgressQuota { .. } => "ask for less in one call, or let the agent's owner raise its limits".into(),
            Self::ResultTooLarge { .. } => "ask for less at a time".into(),
            Self::Trapped(_) | Self::BadResult(_) => "this is a fault of the plugin; tell its publisher".into(),
            Self::Overloaded | Self::Crowded => "try again in a moment".into(),
            Self::State(source) => return source.downcast_ref::<Problem>().and_then(|problem| problem.hint.clone()),
            Self::TooDeep | Self::Failed(_) | Self::Denied(_) | Self::Stopped => return None,
        })
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let detail = match &failure {
            Failure::State(source) => format!("{failure}: {source}"),
            _ => failure.to_string(),
        };
        let mut problem = Self::new(failure.code(), detail);
        problem.hint = failure.hint();
        match failure {
            Failure::InvalidParams { errors, .. } => problem.errors(errors),
            _ => problem,
        }
    }
}

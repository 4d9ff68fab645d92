//! Why terms can't be proposed.

use protocol::{Code, Problem};

/// What a party asked for and may not have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such template.
    #[error("there is no template {name:?}{}; templates are {valid}", near(.nearest))]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// The template whose name is nearest, if any is near.
        nearest: Option<String>,
        /// Every template.
        valid: String,
    },
    /// The template has no such parameter.
    #[error("template {template} has no parameter {name:?}{}; its parameters are {valid}", near(.nearest))]
    UnknownParameter {
        /// The template.
        template: String,
        /// What was asked for.
        name: String,
        /// The parameter whose name is nearest, if any is near.
        nearest: Option<String>,
        /// Every parameter.
        valid: String,
    },
    /// A parameter's value isn't one.
    #[error("parameter {name}: {value:?} is not {expected}")]
    BadParameter {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A template that nobody could agree on.
    #[error("template {name:?} is none: {what}")]
    BadTemplate {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The methods aren't names of methods, or are too many.
    #[error("{0:?} is not the name of a method")]
    BadMethod(String),
    /// What the terms allow has no price.
    #[error("{0}")]
    Price(String),
    /// More methods than terms may list.
    #[error("terms list at most {max} methods, not {found}; list none to cover all")]
    TooManyMethods {
        /// The most.
        max: usize,
        /// How many were listed.
        found: usize,
    },
}

/// `, did you mean "x"?`, where anything is near.
fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!(", did you mean {nearest:?}?")).unwrap_or_default()
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownTemplate { .. }
            | Self::UnknownParameter { .. }
            | Self::BadParameter { .. }
            | Self::BadTemplate { .. }
            | Self::BadMethod(_)
            | Self::Price(_)
            | Self::TooManyMethods { .. } => Code::InvalidRequest,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownTemplate { valid, .. } => format!("use one of {valid}"),
            Self::UnknownParameter { template, .. } => format!("'mcpctl agreement templates show {template}' tells what each takes"),
            Self::BadParameter { .. } | Self::BadTemplate { .. } | Self::BadMethod(_) | Self::Price(_) | Self::TooManyMethods { .. } => {
                return None;
            }
        })
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = Self::new(error.code(), error.to_string());
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

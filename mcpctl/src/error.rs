//! Why a command ends without success, and the exit code that says so.

use protocol::{
    Problem,
    error::{Code, Exit},
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The daemon, or an offline check, says what is wrong.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The command line asks for what can't be.
    #[error(transparent)]
    Usage(Problem),
    /// All has been said on stdout or by a child process; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

pub(crate) type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// A usage error: what is wrong, and what would be right.
    pub(crate) fn usage(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage(Problem::new(Code::InvalidRequest, detail).hint(hint))
    }

    /// What to print, if anything is left to say.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) | Self::Usage(problem) => Some(problem),
            Self::Exit(_) => None,
        }
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.code.exit() as u8,
            Self::Usage(_) => Exit::Usage as u8,
            Self::Exit(code) => *code,
        }
    }
}

impl From<anyhow::Error> for Error {
    /// Keeps a problem within; anything else is a plain failure with its chain of causes.
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Problem>() {
            Ok(problem) => problem.into(),
            Err(error) => Problem::new(Code::Internal, format!("{error:#}")).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_code() {
        assert_eq!(Error::from(Problem::new(Code::NotRunning, "x")).exit(), 3);
        assert_eq!(Error::usage("x", "y").exit(), 2);
        let wrapped = anyhow::Error::new(Problem::new(Code::TimedOut, "x")).context("while waiting");
        assert_eq!(Error::from(wrapped).exit(), 6);
    }
}

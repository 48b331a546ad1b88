//! Exit codes and errors: one sentence each, with what to do where there is something to do.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use promptmill_runtime::fleet::RoleError;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All items succeeded.
    Success = 0,
    /// We could not work: files, store, network.
    CouldNotWork = 1,
    /// Bad input: arguments, template, rows. The code clap uses as well.
    BadInput = 2,
    /// The batch is complete and some items failed.
    SomeFailed = 3,
    /// The cost limit was reached.
    Budget = 4,
    /// The first items all failed for one cause outside the rows.
    Suspect = 5,
    /// Stopped by a signal; `--resume` goes on.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The input is wrong; the words say where and how to mend it.
    Input(String),
    /// We could not work.
    Work(String, Option<Box<dyn Error + Send + Sync>>),
}

impl Failure {
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    pub(crate) fn work(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Work(message.into(), Some(source.into()))
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Input(_) => Exit::BadInput,
            Self::Work(..) => Exit::CouldNotWork,
        }
    }
}

impl From<RoleError> for Failure {
    fn from(error: RoleError) -> Self {
        let (what, source) = error.into_parts();
        Self::Work(what, source)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(message) | Self::Work(message, None) => f.write_str(message),
            Self::Work(message, Some(source)) => {
                write!(f, "{message}")?;
                let mut cause: Option<&(dyn Error + 'static)> = Some(source.as_ref());
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

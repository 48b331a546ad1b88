//! What can go wrong inside the store, before it is told to a caller as a `StoreError`.

use promptmill_ports::StoreError;
use rusqlite::ErrorCode;

/// A failed step: SQLite's error, or one that is already in the caller's words.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// The step itself says no.
    Store(StoreError),
}

impl Fault {
    /// A refusal in words fit to show.
    pub(crate) fn conflict(words: impl Into<String>) -> Self {
        Self::Store(StoreError::Conflict(words.into()))
    }

    /// A stored value that cannot be read.
    pub(crate) fn corrupt(words: impl Into<String>) -> Self {
        Self::Store(StoreError::Corrupt(words.into()))
    }

    /// Whether the connection may be left in a bad state and should be opened anew.
    pub(crate) fn taints_connection(&self) -> bool {
        match self {
            Self::Sql(error) => !matches!(
                error.sqlite_error_code(),
                None | Some(ErrorCode::ConstraintViolation | ErrorCode::DiskFull | ErrorCode::TooBig)
            ),
            Self::Store(_) => false,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<promptmill_domain::batch::BatchRefusal> for Fault {
    fn from(refusal: promptmill_domain::batch::BatchRefusal) -> Self {
        Self::Store(refusal.into())
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => classify(error),
            Fault::Store(error) => error,
        }
    }
}

/// Sorts SQLite's errors by what a caller can do. An error nobody foresaw may go away; damage does not.
fn classify(error: rusqlite::Error) -> StoreError {
    use rusqlite::Error as E;
    match &error {
        E::FromSqlConversionFailure(..)
        | E::InvalidColumnType(..)
        | E::IntegralValueOutOfRange(..)
        | E::Utf8Error(..) => StoreError::Corrupt(error.to_string()),
        _ => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
                StoreError::Corrupt(error.to_string())
            }
            Some(ErrorCode::TooBig) => {
                StoreError::Conflict("a value is larger than the store can keep".to_owned())
            }
            _ => StoreError::unavailable(error),
        },
    }
}

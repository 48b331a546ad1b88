//! What can go wrong with a store, by what the caller can do about it.

/// A failed store call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such record for this tenant.
    #[error("not found")]
    NotFound,
    /// The record is in a state that does not allow the step; the words are fit to show.
    #[error("{0}")]
    Conflict(String),
    /// The store cannot be reached or is out of space; the step may or may not have happened, and repeating it is safe.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read; repeating does not help.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Wraps a driver's error that may go away.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }

    /// That an import into the store was begun and has not ended.
    pub fn unfinished_import() -> Self {
        Self::Conflict(
            "an import into this store has not ended: let it end, or remove the store and import into a new one"
                .to_owned(),
        )
    }
}

impl From<promptmill_domain::batch::BatchRefusal> for StoreError {
    fn from(refusal: promptmill_domain::batch::BatchRefusal) -> Self {
        Self::Conflict(refusal.to_string())
    }
}

/// The result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

//! Why a rule is refused.

/// Why there is no timetable: one sentence that says what is wrong and what would be right, by the member that is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern is not one, or never comes.
    #[error("{0}")]
    Pattern(String),
    /// The time zone is not known.
    #[error("{0}")]
    Zone(String),
    /// The interval is too short or too long.
    #[error("{0}")]
    Seconds(String),
    /// The start is behind the last tick there is.
    #[error("{0}")]
    Start(String),
    /// The end is not behind the start, or no tick lies before it.
    #[error("{0}")]
    End(String),
}

impl RuleError {
    /// The member to blame: `pattern`, `zone`, `seconds`, `start` or `end`.
    pub const fn member(&self) -> &'static str {
        match self {
            Self::Pattern(_) => "pattern",
            Self::Zone(_) => "zone",
            Self::Seconds(_) => "seconds",
            Self::Start(_) => "start",
            Self::End(_) => "end",
        }
    }
}

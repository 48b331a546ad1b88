//! Why rows were not taken.

use std::io;

use promptmill_rowio::{ReadError, RowProblem};

/// Bad rows whose problems are told; all are counted.
const TOLD: usize = 100;

/// Why rows were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Some of them do not fit.
    Rows(BadRows),
    /// There are more than may be.
    TooMany {
        /// How many may be.
        limit: u64,
    },
    /// The input is not rows at all: not text, or empty.
    NotRows(String),
    /// The input ended early.
    Broken(Broken),
    /// Stored rows that were to be taken cannot be read.
    Corrupt(String),
    /// Nobody takes them any more; who did knows why.
    Unwanted,
}

impl Refused {
    /// What is said where nobody asks for the place of each problem.
    pub fn told(&self) -> String {
        match self {
            Self::Rows(bad) => {
                let first = bad.problems.first();
                let first = first.map(|bad| format!(": row {}: {}", bad.line, bad.problem));
                format!("{}{}", bad.summary(), first.unwrap_or_default())
            }
            Self::TooMany { limit } => format!("there are more than {limit} rows"),
            Self::NotRows(words) | Self::Corrupt(words) => words.clone(),
            Self::Broken(broken) => broken.to_string(),
            Self::Unwanted => "the rows were given up".to_owned(),
        }
    }
}

/// Unpacked bytes for each packed one from which on an input counts as a bomb, once it has unfolded to [`RATIO_FROM`].
pub const MAX_RATIO: u64 = 200;

/// Bytes that any input may unfold to.
pub const RATIO_FROM: u64 = 1024 * 1024;

/// Why the bytes of an upload ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Whoever sent it is gone.
    #[error("the body ended before it was complete")]
    Cut,
    /// It unfolds to more than rows plausibly do.
    #[error("the body unfolds to more than {MAX_RATIO} times its size")]
    Bomb,
    /// It is not what its header says.
    #[error("the body is not complete and valid {0}")]
    Corrupt(&'static str),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        Self::other(broken)
    }
}

/// The rows that do not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadRows {
    /// How many.
    pub bad: u64,
    /// Of how many.
    pub rows: u64,
    /// The first problems.
    pub problems: Vec<BadRow>,
}

/// One thing that is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// 1-based line on which the row begins.
    pub line: u64,
    /// What and where.
    pub problem: RowProblem,
}

impl BadRows {
    /// Counts a row that does not fit.
    pub fn add(&mut self, line: u64, problems: Vec<RowProblem>) {
        self.bad += 1;
        let room = TOLD.saturating_sub(self.problems.len());
        self.problems.extend(problems.into_iter().take(room).map(|problem| BadRow { line, problem }));
    }

    /// What is said about all of them.
    pub fn summary(&self) -> String {
        let Self { bad, rows, problems } = self;
        let shown = if problems.len() == TOLD {
            format!("; the first {TOLD} problems are told")
        } else {
            String::new()
        };
        format!("{bad} of {rows} rows cannot be used, and nothing was stored{shown}")
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Broken(error.downcast::<Broken>().unwrap_or(Broken::Cut)),
            ReadError::NotText(what) => Self::NotRows(what.to_string()),
            ReadError::Header(problems) => Self::Rows(BadRows {
                bad: 1,
                rows: 1,
                problems: problems
                    .problems
                    .into_iter()
                    .take(TOLD)
                    .map(|problem| BadRow { line: problems.line, problem })
                    .collect(),
            }),
            ReadError::TooManyRows { limit } => Self::TooMany { limit: u64::from(limit) },
        }
    }
}

//! Why rows were not taken, and what the client is told of it.

use promptmill_ports::StoreError;
use promptmill_rowio::{ReadError, RowProblem};

use super::inflate::Broken;
use super::submit::too_many_rows;
use crate::extract::cut_off;
use crate::problem::{FieldError, Problem, ProblemId};

/// Bad rows whose problems are told; all are counted.
const TOLD: usize = 100;

/// Why rows were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
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

/// The rows that do not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BadRows {
    /// How many.
    pub(crate) bad: u64,
    /// Of how many.
    pub(crate) rows: u64,
    /// The first problems.
    pub(crate) problems: Vec<BadRow>,
}

/// One thing that is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// 1-based line on which the row begins.
    pub(crate) line: u64,
    /// What and where.
    pub(crate) problem: RowProblem,
}

impl BadRows {
    /// Counts a row that does not fit.
    pub(crate) fn add(&mut self, line: u64, problems: Vec<RowProblem>) {
        self.bad += 1;
        let room = TOLD.saturating_sub(self.problems.len());
        self.problems.extend(problems.into_iter().take(room).map(|problem| BadRow { line, problem }));
    }

    /// What is said about all of them.
    pub(crate) fn summary(&self) -> String {
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

/// Why a part was not made.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// For its rows.
    Refused(Refused),
    /// For another reason, which is told.
    Problem(Problem),
}

impl From<StoreError> for NotTaken {
    fn from(error: StoreError) -> Self {
        Self::Problem(error.into())
    }
}

impl NotTaken {
    /// What the client is told; `place` says where a bad row stands.
    pub(crate) fn into_problem(self, place: impl Fn(&BadRow) -> FieldError) -> Problem {
        let refused = match self {
            Self::Problem(problem) => return problem,
            Self::Refused(refused) => refused,
        };
        match refused {
            Refused::Rows(bad) => {
                let problem = Problem::new(ProblemId::InvalidRows).detail(bad.summary());
                problem.errors(bad.problems.iter().map(place))
            }
            Refused::TooMany { limit } => too_many_rows(limit),
            Refused::NotRows(words) => Problem::new(ProblemId::InvalidRows).detail(words),
            Refused::Broken(Broken::Cut) => cut_off(),
            Refused::Broken(broken @ Broken::Bomb) => {
                Problem::new(ProblemId::PayloadTooLarge).detail(broken.to_string())
            }
            Refused::Broken(broken @ Broken::Corrupt(_)) => {
                Problem::new(ProblemId::BadRequest).detail(broken.to_string())
            }
            Refused::Corrupt(words) => StoreError::Corrupt(words).into(),
            Refused::Unwanted => Problem::internal("rows were given up without a reason"),
        }
    }
}

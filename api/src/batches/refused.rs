//! What the client is told of rows that were not taken.

use promptmill_intake::{BadRow, Broken, Refused};
use promptmill_ports::StoreError;

use super::submit::too_many_rows;
use crate::extract::cut_off;
use crate::problem::{FieldError, Problem, ProblemId};

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

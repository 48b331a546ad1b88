//! The table: each measure with its target, the limit beyond which it counts as a failure, our figure and the verdict.

use std::fmt;

use crate::figures::{Number, Runs};

/// What a measure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// The smaller, the better.
    AtMost {
        /// What is aimed at.
        target: f64,
        /// Above it the measure has failed.
        failure: f64,
    },
    /// The larger, the better.
    AtLeast {
        /// What is aimed at.
        target: f64,
        /// Below it the measure has failed.
        failure: f64,
    },
    /// Told for comparison, not judged.
    Told,
}

/// What came of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The target is reached.
    Met,
    /// Between target and failure.
    Missed,
    /// Beyond the failure limit.
    Failed,
    /// There is no goal.
    Told,
}

impl Goal {
    /// Judges a figure. One that is not a number reaches nothing.
    pub fn judge(self, figure: f64) -> Verdict {
        let (reached, bearable) = match self {
            Self::AtMost { target, failure } => (figure <= target, figure <= failure),
            Self::AtLeast { target, failure } => (figure >= target, figure >= failure),
            Self::Told => return Verdict::Told,
        };
        match (reached, bearable) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Missed,
            (false, false) => Verdict::Failed,
        }
    }

    /// Target and failure limit as they stand in the table.
    fn columns(self, unit: &str) -> (String, String) {
        let with_unit = |sign: &str, limit: f64| format!("{sign} {}{unit}", Number(limit));
        match self {
            Self::AtMost { target, failure } => (with_unit("<=", target), with_unit(">", failure)),
            Self::AtLeast { target, failure } => (with_unit(">=", target), with_unit("<", failure)),
            Self::Told => (String::new(), String::new()),
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What was measured.
    pub measure: String,
    /// What it is to reach.
    pub goal: Goal,
    /// Written behind each number; begins with a space where there is to be one.
    pub unit: &'static str,
    /// What was measured, run by run.
    pub runs: Runs,
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct Table(Vec<Line>);

impl Table {
    /// Takes one more line.
    pub fn push(&mut self, measure: impl Into<String>, goal: Goal, unit: &'static str, runs: Runs) {
        self.0.push(Line { measure: measure.into(), goal, unit, runs });
    }

    /// The lines so far.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// Whether a measure is beyond its failure limit.
    pub fn has_failures(&self) -> bool {
        self.0.iter().any(|line| line.verdict() == Verdict::Failed)
    }
}

impl Line {
    /// What came of it: the median decides.
    pub fn verdict(&self) -> Verdict {
        self.goal.judge(self.runs.median())
    }

    fn figure(&self) -> String {
        let median = format!("{}{}", Number(self.runs.median()), self.unit);
        let (least, most) = self.runs.spread();
        if self.runs.len() < 2 { median } else { format!("{median} ({} to {})", Number(least), Number(most)) }
    }

    fn columns(&self) -> [String; 5] {
        let (target, failure) = self.goal.columns(self.unit);
        let verdict = match self.verdict() {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::Failed => "FAILED",
            Verdict::Told => "",
        };
        [self.measure.clone(), target, failure, self.figure(), verdict.to_owned()]
    }
}

/// Markdown that reads well as it is.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["measure", "target", "a failure", "figure", "verdict"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(self.0.iter().map(Line::columns)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..5).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            for (cell, width) in line.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                for width in &widths {
                    write!(f, "|{}", "-".repeat(width + 2))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

//! Which call meets which fault: a script per marker, or chance that always falls the same way for the same seed.

use std::collections::HashMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dice::Dice;
use crate::fault::{Fault, RetryAfter};

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A good reply.
    #[default]
    Clean,
    /// A fault.
    Fault(Fault),
    /// A good reply with exactly this text, whatever was asked for.
    Say(String),
}

impl From<Fault> for Step {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What happens to the calls of one marker, in the order they arrive, repair calls included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The first calls.
    pub steps: Vec<Step>,
    /// Every call after them.
    pub then: Step,
}

/// A fault and how often it happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// The fault.
    pub fault: Fault,
    /// Its part of all calls, 0 to 1.
    pub probability: f64,
}

/// The faults of a double. A marker's own script goes first, then the script for all markers, then chance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultPlan {
    /// Faults by chance; what the probabilities leave over is clean.
    pub faults: Vec<Weighted>,
    /// At most this many transient faults by chance follow each other for one marker (or one body without a marker).
    pub longest_run: u32,
    /// Scripts by marker (the text between `[[row:` and `]]`).
    pub scripts: HashMap<String, Script>,
    /// The script of every marker that has none of its own.
    pub every_marker: Option<Script>,
}

/// Ready-made plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// No fault.
    None,
    /// A quarter of all calls, every transient kind; each marker gets its valid reply within four calls.
    Standard,
    /// Half of all calls are told to slow down.
    Storm,
    /// Every call: 404, no such model.
    UnknownModel,
    /// Every call: 401.
    RefusedKey,
}

/// A text that is not a preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPreset;

impl std::fmt::Display for InvalidPreset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a preset: none, standard, storm, unknown_model or refused_key")
    }
}

impl std::error::Error for InvalidPreset {}

impl FromStr for Preset {
    type Err = InvalidPreset;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "standard" => Ok(Self::Standard),
            "storm" => Ok(Self::Storm),
            "unknown_model" => Ok(Self::UnknownModel),
            "refused_key" => Ok(Self::RefusedKey),
            _ => Err(InvalidPreset),
        }
    }
}

impl From<Preset> for FaultPlan {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::None => Self::none(),
            Preset::Standard => Self::standard(),
            Preset::Storm => Self::storm(),
            Preset::UnknownModel => Self::always(Fault::UnknownModel),
            Preset::RefusedKey => Self::always(Fault::Unauthorized),
        }
    }
}

impl FaultPlan {
    /// No fault.
    pub fn none() -> Self {
        Self { longest_run: 3, ..Self::default() }
    }

    /// About a quarter of all calls faulty, every transient kind, at most three in a row for one marker.
    pub fn standard() -> Self {
        const PER_MILLE: [(Fault, u32); 30] = [
            // A pause stops the whole lane, so the faults that begin one are rare.
            (Fault::RateLimited(RetryAfter::Seconds(1)), 3),
            (Fault::RateLimited(RetryAfter::Date(1)), 2),
            (Fault::RateLimited(RetryAfter::Absent), 12),
            (Fault::Overloaded(RetryAfter::Absent), 12),
            (Fault::RequestTimeout, 6),
            (Fault::ServerError, 12),
            (Fault::BadGateway, 12),
            (Fault::GatewayTimeout, 6),
            (Fault::EdgeTimeout, 6),
            (Fault::ProviderOverloaded, 6),
            (Fault::ErrorReply, 8),
            (Fault::ErrorChoice, 8),
            (Fault::ErrorFinish, 8),
            (Fault::Cut, 12),
            (Fault::ResetMidBody, 10),
            (Fault::ErrorMidStream, 12),
            (Fault::EmptyContent, 8),
            (Fault::NullContent, 4),
            (Fault::NoChoices, 4),
            (Fault::Truncated, 10),
            (Fault::NotJson, 6),
            (Fault::Html, 6),
            (Fault::WrongContentType, 4),
            (Fault::ResetBeforeReply, 10),
            (Fault::SlowFirstByte, 8),
            (Fault::Hang, 2),
            (Fault::Dribble, 8),
            (Fault::InvalidReply, 25),
            (Fault::Fenced, 8),
            (Fault::SurrogateInReply, 4),
        ];
        let mut plan = Self::none();
        for (fault, per_mille) in PER_MILLE {
            plan = plan.with(fault, f64::from(per_mille) / 1_000.0);
        }
        plan.with(Fault::InProse, 0.006).with(Fault::SurrogateInContent, 0.004)
    }

    /// Half of all calls refused for their rate, with and without a pause, at most three in a row for one marker.
    pub fn storm() -> Self {
        Self::none()
            .with(Fault::RateLimited(RetryAfter::Absent), 0.25)
            .with(Fault::RateLimited(RetryAfter::Seconds(1)), 0.15)
            .with(Fault::RateLimited(RetryAfter::Date(1)), 0.03)
            .with(Fault::Overloaded(RetryAfter::Absent), 0.07)
    }

    /// Every call meets `fault`, without an end.
    pub fn always(fault: Fault) -> Self {
        Self { longest_run: u32::MAX, ..Self::default() }.with(fault, 1.0)
    }

    /// The same with `fault` in `probability` of all calls.
    #[must_use]
    pub fn with(mut self, fault: Fault, probability: f64) -> Self {
        self.faults.push(Weighted { fault, probability });
        self
    }

    /// The same with these steps for the first calls of `marker`; the calls after them are clean.
    #[must_use]
    pub fn script<S: Into<Step>>(
        mut self,
        marker: impl Into<String>,
        steps: impl IntoIterator<Item = S>,
    ) -> Self {
        let steps = steps.into_iter().map(Into::into).collect();
        self.scripts.insert(marker.into(), Script { steps, then: Step::Clean });
        self
    }

    /// The same with these steps for the first calls of every marker that has no script of its own.
    #[must_use]
    pub fn script_every<S: Into<Step>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        let steps = steps.into_iter().map(Into::into).collect();
        self.every_marker = Some(Script { steps, then: Step::Clean });
        self
    }

    /// The same with `step` for every call of `marker`.
    #[must_use]
    pub fn always_for(mut self, marker: impl Into<String>, step: impl Into<Step>) -> Self {
        self.scripts.insert(marker.into(), Script { steps: Vec::new(), then: step.into() });
        self
    }

    /// Whether no call can meet a fault by this plan.
    pub(crate) fn is_quiet(&self) -> bool {
        self.faults.is_empty() && self.scripts.is_empty() && self.every_marker.is_none()
    }

    /// What the call number `nth` (from 0) of `marker` meets; `chance` stands for marker and seed, `run` is how many
    /// transient faults the marker has just had in a row.
    pub(crate) fn step(&self, marker: Option<&str>, chance: u64, nth: u32, run: u32) -> Step {
        let script = marker.and_then(|marker| self.scripts.get(marker).or(self.every_marker.as_ref()));
        if let Some(script) = script {
            let step = usize::try_from(nth).ok().and_then(|nth| script.steps.get(nth));
            return step.unwrap_or(&script.then).clone();
        }
        let mut roll = Dice::new(chance.wrapping_add(u64::from(nth))).unit();
        for Weighted { fault, probability } in &self.faults {
            if roll < *probability {
                let blocks = !fault.is_permanent() && !fault.leaves_valid_reply();
                return if blocks && run >= self.longest_run { Step::Clean } else { Step::Fault(*fault) };
            }
            roll -= probability;
        }
        Step::Clean
    }
}

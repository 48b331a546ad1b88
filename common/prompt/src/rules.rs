//! Rules: expressions over a reply and its row that must hold.

use minijinja::Value as Jinja;
use promptmill_domain::Reason;

use crate::jinja::{RuleExpression, run_message};

/// What a rule that does not hold makes of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The model is told and asked again.
    Repair,
    /// The reply is refused for good.
    Reject,
}

/// One rule, compiled.
pub(crate) struct Rule {
    pub(crate) expression: RuleExpression,
    pub(crate) message: String,
    pub(crate) consequence: Consequence,
}

/// What the rules say about one reply.
#[derive(Default)]
pub(crate) struct Broken {
    pub(crate) reasons: Vec<Reason>,
    pub(crate) rejects: bool,
}

/// Evaluates every rule; one that cannot be evaluated does not hold.
pub(crate) fn check(rules: &[Rule], output: Jinja, variables: &Jinja) -> Broken {
    let mut broken = Broken::default();
    let context = Jinja::from_pairs([("output", output), ("variables", variables.clone())]);
    for rule in rules {
        let message = match rule.expression.eval(context.clone()) {
            Ok(value) if value.is_true() => continue,
            Ok(_) => rule.message.clone(),
            Err(error) => format!("{} ({})", rule.message, run_message(&error)),
        };
        broken.reasons.push(Reason::whole(message));
        broken.rejects |= rule.consequence == Consequence::Reject;
    }
    broken
}

//! The message that asks the model again, with the reasons why its reply was not accepted.

use promptmill_domain::{Message, Reason, Role};

use crate::output::OutputSpec;
use crate::problem::shorten;

const REASONS: usize = 20;
const REASON_CHARACTERS: usize = 300;

/// The user message that follows a reply which was not accepted. Its length is bounded whatever the reasons are.
pub(crate) fn message(output: &OutputSpec, reasons: &[Reason]) -> Message {
    let mut content = String::from("Your last reply was not accepted:\n");
    for reason in reasons.iter().take(REASONS) {
        content.push_str("- ");
        content.push_str(&shorten(&reason.to_string(), REASON_CHARACTERS));
        content.push('\n');
    }
    if reasons.len() > REASONS {
        content.push_str(&format!("- and {} more\n", reasons.len() - REASONS));
    }
    content.push_str(match output {
        OutputSpec::Json { schema: Some(_) } => {
            "Reply again with the complete corrected JSON that satisfies the required schema. \
             Send only the bare JSON: no code fence, no comments, no text before or after it."
        }
        OutputSpec::Json { schema: None } => {
            "Reply again with the complete corrected JSON. \
             Send only the bare JSON: no code fence, no comments, no text before or after it."
        }
        OutputSpec::Text { choices, .. } if !choices.is_empty() => {
            "Reply again with exactly one of the allowed texts and nothing else."
        }
        OutputSpec::Text { .. } => "Reply again with the complete corrected text and nothing else.",
    });
    Message { role: Role::User, content }
}

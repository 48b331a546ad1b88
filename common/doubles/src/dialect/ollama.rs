//! Ollama's native chat: one JSON object, or lines of them that end with `done: true`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Particulars, delivery};
use crate::fault::Fault;
use crate::reply::{Finish, Speech, literal, pieces};
use crate::wire::{Answer, JSON};

const NDJSON: &str = "application/x-ndjson";
/// What a generated token takes, in the durations that are reported.
const NANOS_PER_TOKEN: u64 = 2_000_000;

/// The reply around `speech`, bent by those faults that live in the envelope.
pub(crate) fn reply(call: &Particulars<'_>, speech: &Speech, fault: Option<Fault>) -> Answer {
    let head =
        format!(r#""model":{},"created_at":"{}""#, literal(&call.asked.model), rfc3339(SystemTime::now()));
    let text = speech.text.as_deref().unwrap_or_default();
    let message = |text: &str| format!(r#""message":{{"role":"assistant","content":{}}}"#, literal(text));
    if call.asked.empty {
        let body = format!(r#"{{{head},{},"done":true,"done_reason":"load"}}"#, message(""));
        let mut answer = if call.asked.stream {
            Answer::stream(NDJSON, vec![body + "\n"])
        } else {
            Answer::whole(200, JSON, body)
        };
        answer.delivery.valid = true;
        return answer;
    }
    let last = |text: &str| format!(r#"{{{head},{},"done":true,{}}}"#, message(text), counters(speech));
    let mut answer = if call.asked.stream {
        let mut lines: Vec<String> = pieces(text, call.asked.chance)
            .iter()
            .map(|piece| format!("{{{head},{},\"done\":false}}\n", message(piece)))
            .collect();
        match fault {
            Some(Fault::ErrorMidStream) => {
                lines.push("{\"error\":\"an error was encountered while running the model\"}\n".to_owned());
            }
            Some(Fault::Cut) => {}
            _ => lines.push(last("") + "\n"),
        }
        Answer::stream(NDJSON, lines)
    } else if fault == Some(Fault::Cut) {
        Answer::whole(200, JSON, format!(r#"{{{head},{},"done":false}}"#, message(text)))
    } else {
        Answer::whole(200, JSON, last(text))
    };
    if !matches!(fault, Some(Fault::ErrorMidStream | Fault::Cut)) {
        answer.delivery = delivery(speech, 0);
    }
    answer
}

/// The last object's particulars; a counter that is zero is left out.
fn counters(speech: &Speech) -> String {
    let reason = if speech.finish == Finish::Length { "length" } else { "stop" };
    let eval = speech.completion_tokens * NANOS_PER_TOKEN;
    let prompt = speech.prompt_tokens * NANOS_PER_TOKEN / 10;
    let fields = [
        ("total_duration", eval + prompt + 1_000_000),
        ("load_duration", 1_000_000),
        ("prompt_eval_count", speech.prompt_tokens),
        ("prompt_eval_duration", prompt),
        ("eval_count", speech.completion_tokens),
        ("eval_duration", eval),
    ];
    let mut text = format!(r#""done_reason":"{reason}""#);
    for (name, value) in fields.into_iter().filter(|(_, value)| *value > 0) {
        text.push_str(&format!(",\"{name}\":{value}"));
    }
    text
}

/// The time as RFC 3339 with nanoseconds, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days to a date of the proleptic Gregorian calendar in eras of 400 years, counted from 1 March of the year 0.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_nanoseconds() {
        let at = |seconds, nanos| rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_767_225_599, 0), "2025-12-31T23:59:59.000000000Z");
    }
}

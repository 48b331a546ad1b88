//! Chat completions as OpenRouter speaks them, and in the plainer form of compatible servers.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::json;

use super::{Particulars, delivery, unix_seconds};
use crate::config::Provider;
use crate::fault::Fault;
use crate::ledger::Delivery;
use crate::reply::{Finish, Speech, literal, pieces};
use crate::wire::{Answer, JSON};

/// Prices in 10^-12 US dollars a token: those of the example model in the documentation.
const PROMPT_PRICE: u64 = 500_000;
const COMPLETION_PRICE: u64 = 1_500_000;

/// The reply around `speech`, bent by those faults that live in the envelope.
pub(crate) fn reply(call: &Particulars<'_>, speech: &Speech, fault: Option<Fault>) -> Answer {
    let mut envelope = Envelope::new(call, speech);
    if fault == Some(Fault::SameId) {
        "always-the-same".clone_into(&mut envelope.id);
    }
    let answer = if call.asked.stream { envelope.events(fault) } else { envelope.whole(fault) };
    if envelope.openrouter { answer.header("x-generation-id", envelope.id.clone()) } else { answer }
}

struct Envelope<'a> {
    openrouter: bool,
    include_usage: bool,
    chance: u64,
    id: String,
    created: u64,
    model: String,
    speech: &'a Speech,
    cost_pico: u64,
}

impl<'a> Envelope<'a> {
    fn new(call: &Particulars<'_>, speech: &'a Speech) -> Self {
        let openrouter = call.asked.provider == Provider::OpenRouter;
        let created = unix_seconds(SystemTime::now());
        let id = if openrouter {
            format!("gen-{created}-{:016x}", call.id)
        } else {
            format!("chatcmpl-{:016x}", call.id)
        };
        let cost = speech.prompt_tokens * PROMPT_PRICE + speech.completion_tokens * COMPLETION_PRICE;
        Self {
            openrouter,
            include_usage: openrouter || call.asked.include_usage,
            chance: call.asked.chance,
            id,
            created,
            model: literal(&call.asked.model),
            speech,
            cost_pico: if openrouter { cost } else { 0 },
        }
    }

    fn whole(&self, fault: Option<Fault>) -> Answer {
        if fault == Some(Fault::ErrorReply) {
            let error = if self.openrouter {
                json!({"error": {"code": 502, "message": "Provider returned error", "metadata": {"error_type": "provider_unavailable"}}})
            } else {
                json!({"error": {"message": "upstream failed", "type": "api_error", "param": null, "code": null}})
            };
            return Answer::whole(200, JSON, error.to_string());
        }
        let mut choice = String::new();
        if fault != Some(Fault::NoChoices) {
            self.write_choice(&mut choice, fault);
        }
        // Nothing is charged where the provider failed.
        let charged = self.speech.finish != Finish::Error;
        let body = format!(
            r#"{{{},"choices":[{choice}],"usage":{}}}"#,
            self.head("chat.completion"),
            self.usage(charged)
        );
        let mut answer = Answer::whole(200, JSON, body);
        answer.delivery = delivery(self.speech, if charged { self.cost_pico } else { 0 });
        answer
    }

    fn write_choice(&self, choice: &mut String, fault: Option<Fault>) {
        let text = self.speech.text.as_deref().map_or_else(|| "null".to_owned(), literal);
        let finish = self.speech.finish.as_str();
        let native = if self.openrouter {
            format!(r#""native_finish_reason":"{finish}","logprobs":null,"#)
        } else {
            String::new()
        };
        let reasoning = if self.openrouter { r#","refusal":null,"reasoning":null"# } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            choice,
            r#"{{"index":0,"finish_reason":"{finish}",{native}"message":{{"role":"assistant","content":{text}{reasoning}}}"#
        );
        if fault == Some(Fault::ErrorChoice) {
            choice.push_str(r#","error":{"code":502,"message":"upstream closed","metadata":{"error_type":"provider_unavailable"}}"#);
        }
        choice.push('}');
    }

    fn head(&self, object: &str) -> String {
        let Self { id, created, model, .. } = self;
        let provider = if self.openrouter {
            r#","provider":"SomeHost","system_fingerprint":null"#
        } else {
            r#","system_fingerprint":"fp_double""#
        };
        format!(r#""id":"{id}","object":"{object}","created":{created},"model":{model}{provider}"#)
    }

    fn usage(&self, charged: bool) -> String {
        let Speech { prompt_tokens, completion_tokens, .. } = self.speech;
        let total = prompt_tokens + completion_tokens;
        let counts = format!(
            r#""prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"total_tokens":{total}"#
        );
        if !self.openrouter {
            return format!("{{{counts}}}");
        }
        let cost = if charged { dollars(self.cost_pico) } else { "0".to_owned() };
        format!(
            r#"{{{counts},"prompt_tokens_details":{{"cached_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0}},"cost":{cost},"is_byok":false,"cost_details":{{"upstream_inference_cost":null}}}}"#
        )
    }

    fn events(&self, fault: Option<Fault>) -> Answer {
        let head = self.head("chat.completion.chunk");
        let event = |choices: &str| format!("data: {{{head},\"choices\":[{choices}]}}\n\n");
        let mut events = Vec::new();
        if self.openrouter {
            events.push(": OPENROUTER PROCESSING\n\n".to_owned());
        }
        let text = self.speech.text.as_deref().unwrap_or_default();
        for (at, piece) in pieces(text, self.chance).iter().enumerate() {
            let role = if at == 0 || self.openrouter { r#""role":"assistant","# } else { "" };
            let piece = literal(piece);
            events.push(event(&format!(
                r#"{{"index":0,"delta":{{{role}"content":{piece}}},"finish_reason":null}}"#
            )));
        }
        match fault {
            Some(Fault::ErrorMidStream) if self.openrouter => {
                let error = r#""error":{"code":"server_error","message":"Provider disconnected","metadata":{"error_type":"provider_unavailable"}}"#;
                let choice = r#"{"index":0,"delta":{"content":""},"finish_reason":"error"}"#;
                events.push(format!("data: {{{head},{error},\"choices\":[{choice}]}}\n\n"));
                return unusable(events);
            }
            Some(Fault::ErrorMidStream) => {
                // Compatible servers turn the error into an empty chunk and end without a word.
                events.push(event(r#"{"index":0,"delta":{"content":""},"finish_reason":null}"#));
                return unusable(events);
            }
            Some(Fault::ErrorEvent) => {
                let error = json!({"error": {"message": "upstream failed", "type": "server_error", "param": null, "code": null}});
                events.push(format!("data: {error}\n\n"));
                return unusable(events);
            }
            Some(Fault::Cut) => return unusable(events),
            _ => {}
        }
        let finish = self.speech.finish.as_str();
        let delta = if self.openrouter { r#"{"role":"assistant","content":""}"# } else { "{}" };
        events.push(event(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":"{finish}"}}"#)));
        if self.include_usage {
            let usage = self.usage(true);
            events.push(format!("data: {{{head},\"choices\":[],\"usage\":{usage}}}\n\n"));
        }
        if fault != Some(Fault::NoDone) {
            events.push("data: [DONE]\n\n".to_owned());
        }
        let mut answer = Answer::stream("text/event-stream", events);
        answer.delivery = delivery(self.speech, self.cost_pico);
        if !self.include_usage {
            answer.delivery = Delivery { prompt_tokens: 0, completion_tokens: 0, ..answer.delivery };
        }
        answer
    }
}

fn unusable(events: Vec<String>) -> Answer {
    Answer::stream("text/event-stream", events)
}

/// 10^-12 dollars as a decimal number; prices are whole 10^-7 dollars.
fn dollars(pico: u64) -> String {
    let tenth_micro = pico / 100_000;
    format!("{}.{:07}", tenth_micro / 10_000_000, tenth_micro % 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_an_exact_decimal_number() {
        assert_eq!(dollars(41_200_000), "0.0000412");
        assert_eq!(dollars(3_000_000_500_000), "3.0000005");
        assert_eq!(dollars(0), "0.0000000");
    }
}

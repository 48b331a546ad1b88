//! Streamed calls against the doubles, which were written from the providers' pages and not from these clients.

use std::sync::{Arc, Mutex};

use promptmill_domain::{FailureKind, Flag};
use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Provider};
use promptmill_provider::{
    CallFailure, ChatProvider, ChatReply, ChatRequest, Delta, DeltaSink, Ollama, OllamaConfig,
    OpenAiCompatible, OpenAiCompatibleConfig, OpenRouter, OpenRouterConfig,
};

use crate::support::{KEY, client, request};

const ALL: [Provider; 3] = [Provider::OpenRouter, Provider::Ollama, Provider::OpenAi];

fn provider(doubles: &Doubles, provider: Provider) -> Box<dyn ChatProvider> {
    let (url, client) = (doubles.base_url(provider), client());
    let api_key = Some(KEY.into());
    match provider {
        Provider::OpenRouter => {
            let config = OpenRouterConfig { base_url: url, api_key, ..OpenRouterConfig::default() };
            Box::new(OpenRouter::new(config, &client).unwrap())
        }
        Provider::Ollama => {
            let config = OllamaConfig { host: url, ..OllamaConfig::default() };
            Box::new(Ollama::new(config, &client).unwrap())
        }
        Provider::OpenAi => {
            let config = OpenAiCompatibleConfig { base_url: url, ..OpenAiCompatibleConfig::default() };
            Box::new(OpenAiCompatible::new(config, &client).unwrap())
        }
    }
}

async fn stream(provider: &dyn ChatProvider) -> (Result<ChatReply, CallFailure>, String) {
    let told = Arc::new(Mutex::new(String::new()));
    let sink = DeltaSink::new({
        let told = told.clone();
        move |delta| {
            if let Delta::Text(text) = delta {
                told.lock().unwrap().push_str(text);
            }
        }
    });
    let result = provider.chat(&ChatRequest { deltas: Some(sink), ..request() }).await;
    let told = told.lock().unwrap().clone();
    (result, told)
}

fn doubles(plan: FaultPlan) -> Doubles {
    Doubles::start(Config { plan, ..Config::default() }).unwrap()
}

#[tokio::test]
async fn a_streamed_reply_tells_all_that_a_whole_one_tells() {
    let doubles = doubles(FaultPlan::none());
    for kind in ALL {
        let provider = provider(&doubles, kind);
        let (reply, told) = stream(&*provider).await;
        let reply = reply.unwrap();
        assert_eq!(told, reply.content, "{kind:?}");
        assert!(reply.flags.is_empty() && reply.usage.is_some(), "{kind:?}: {:?}", reply.flags);
        assert_eq!(reply.cost.is_some(), kind == Provider::OpenRouter);
        assert_eq!(reply.generation.is_some(), kind != Provider::Ollama);
    }
    // What the clients counted is what the doubles put on the wire.
    assert_eq!(doubles.ledger().totals().valid_replies, 3);
}

#[tokio::test]
async fn a_stream_that_is_not_whole_is_never_a_reply() {
    let faults = [
        (Fault::Cut, FailureKind::MalformedReply),
        (Fault::ErrorEvent, FailureKind::ProviderError),
        (Fault::EmptyContent, FailureKind::EmptyReply),
        (Fault::Html, FailureKind::MalformedReply),
        (Fault::NotJson, FailureKind::MalformedReply),
        (Fault::ResetBeforeReply, FailureKind::ConnectionFailed),
        (Fault::ServerError, FailureKind::ProviderError),
    ];
    for kind in ALL {
        for (fault, failure) in faults {
            let doubles = doubles(FaultPlan::always(fault));
            let (result, _) = stream(&*provider(&doubles, kind)).await;
            let Err(found) = result else { panic!("{kind:?} {fault:?} gave a reply") };
            assert_eq!(found.kind, failure, "{kind:?} {fault:?}: {found}");
            assert!(found.transient, "{found}");
        }
        let reset = doubles(FaultPlan::always(Fault::ResetMidBody));
        let (result, _) = stream(&*provider(&reset, kind)).await;
        // A reset may overtake what was sent before it.
        let kinds = [FailureKind::MalformedReply, FailureKind::ConnectionFailed];
        assert!(result.is_err_and(|found| kinds.contains(&found.kind)), "{kind:?}");
        let doubles = doubles(FaultPlan::always(Fault::ErrorMidStream));
        let (result, told) = stream(&*provider(&doubles, kind)).await;
        // A compatible server says nothing and ends.
        let expected =
            if kind == Provider::OpenAi { FailureKind::MalformedReply } else { FailureKind::ProviderError };
        assert_eq!(result.map(|reply| reply.content).unwrap_err().kind, expected, "{kind:?}");
        assert!(!told.is_empty(), "{kind:?}: what came before the error was told");
    }
}

#[tokio::test]
async fn a_stream_in_odd_pieces_or_without_its_closing_mark_is_whole() {
    for kind in ALL {
        for fault in [Fault::Dribble, Fault::NoDone, Fault::SurrogateInReply] {
            let doubles = doubles(FaultPlan::always(fault));
            let (result, told) = stream(&*provider(&doubles, kind)).await;
            let reply = result.unwrap_or_else(|failure| panic!("{kind:?} {fault:?}: {failure}"));
            assert_eq!((told, reply.usage.is_some()), (reply.content, true), "{kind:?} {fault:?}");
            assert_eq!(reply.flags == [Flag::SurrogatesReplaced], fault == Fault::SurrogateInReply);
        }
    }
}

//! Faults that look the same whoever makes them: broken connections, garbage, wrapped and damaged texts.

use promptmill_doubles::{Fault, FaultPlan, Provider, RetryAfter, Step};
use serde_json::Value;

use crate::client::{
    End, Reply, ask, ask_json, chat, check_conforms, content, send_chat, start, start_with, streamed,
    wait_until,
};

const ALL: [Provider; 3] = [Provider::OpenRouter, Provider::Ollama, Provider::OpenAi];

#[test]
fn a_cut_body_is_shorter_than_declared() {
    for provider in [Provider::OpenRouter, Provider::OpenAi] {
        let doubles = start_with(Fault::Cut);
        let reply = chat(&doubles, provider, &ask("1"));
        assert_eq!((reply.status, reply.end), (200, End::Closed), "{provider:?}");
        let declared: usize = reply.header("content-length").unwrap().parse().unwrap();
        assert!(!reply.body.is_empty() && reply.body.len() < declared);
        wait_until(|| doubles.ledger().totals().in_flight == 0);
        assert_eq!(
            (doubles.ledger().marker("1").undelivered, doubles.ledger().marker("1").replies_sent),
            (1, 0)
        );
    }
}

#[test]
fn a_body_is_reset_in_the_middle() {
    for provider in ALL {
        for body in [ask("1"), streamed(ask("2"))] {
            let reply = chat(&start_with(Fault::ResetMidBody), provider, &body);
            assert_eq!((reply.status, reply.end), (200, End::Reset), "{provider:?}");
            assert!(!reply.body.is_empty());
        }
    }
}

#[test]
fn a_connection_is_reset_before_any_byte_and_after_a_hang() {
    for fault in [Fault::ResetBeforeReply, Fault::Hang] {
        for provider in ALL {
            let doubles = start_with(fault);
            assert_eq!(send_chat(&doubles, provider, &ask("1")).read().unwrap_err(), End::Reset, "{fault:?}");
            wait_until(|| doubles.ledger().totals().in_flight == 0);
            assert_eq!(doubles.ledger().marker("1").faults[fault.name()], 1);
            assert_eq!(chat(&doubles, provider, &ask("1")).status, 200);
        }
    }
}

#[test]
fn garbage_is_a_200_that_no_json_parser_takes() {
    let kinds = [
        (Fault::NotJson, "application/json"),
        (Fault::Html, "text/html"),
        (Fault::WrongContentType, "text/plain"),
    ];
    for (fault, content_type) in kinds {
        for provider in ALL {
            let doubles = start_with(fault);
            let reply = chat(&doubles, provider, &ask("1"));
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)));
            assert!(serde_json::from_slice::<Value>(&reply.body).is_err());
            let record = doubles.ledger().marker("1");
            assert_eq!((record.replies_sent, record.valid_replies), (1, 0));
        }
    }
}

#[test]
fn a_slow_and_a_dribbled_reply_are_good() {
    for fault in [Fault::SlowFirstByte, Fault::Dribble] {
        for provider in ALL {
            let doubles = start_with(fault);
            check_conforms(&content(provider, &chat(&doubles, provider, &ask_json(provider, "1"))));
            assert_eq!(chat(&doubles, provider, &streamed(ask_json(provider, "2"))).end, End::Complete);
            assert_eq!(doubles.ledger().totals().valid_replies, 2);
            assert_eq!(doubles.ledger().totals().faults[fault.name()], 2);
        }
    }
}

#[test]
fn fenced_and_wrapped_json_hold_what_was_asked_for() {
    for provider in ALL {
        let fenced = content(provider, &chat(&start_with(Fault::Fenced), provider, &ask_json(provider, "1")));
        let inner =
            fenced.as_str().unwrap().strip_prefix("```json\n").and_then(|rest| rest.strip_suffix("\n```"));
        check_conforms(&inner.unwrap().into());
        let prose = content(provider, &chat(&start_with(Fault::InProse), provider, &ask_json(provider, "1")));
        let prose = prose.as_str().unwrap();
        check_conforms(&prose[prose.find('{').unwrap()..=prose.rfind('}').unwrap()].into());
    }
}

#[test]
fn half_a_surrogate_pair_stands_in_the_outer_or_in_the_inner_json() {
    for provider in ALL {
        let outer = chat(&start_with(Fault::SurrogateInReply), provider, &ask_json(provider, "1"));
        assert!(serde_json::from_slice::<Value>(&outer.body).is_err());
        assert_eq!(outer.text().matches(r"\ud83d").count(), 1);
        let mended = Reply { body: outer.text().replace(r"\ud83d", r"\ufffd").into_bytes(), ..outer };
        check_conforms(&content(provider, &mended));

        let inner = chat(&start_with(Fault::SurrogateInContent), provider, &ask_json(provider, "1"));
        let text = content(provider, &inner);
        assert!(serde_json::from_str::<Value>(text.as_str().unwrap()).is_err());
        check_conforms(&text.as_str().unwrap().replace(r"\ud83d", r"\ufffd").into());
    }
}

#[test]
fn retry_after_is_seconds_a_date_or_absent() {
    let header = |fault| {
        let reply = chat(&start_with(fault), Provider::OpenRouter, &ask("1"));
        (reply.status, reply.header("retry-after").map(str::to_owned))
    };
    assert_eq!(header(Fault::RateLimited(RetryAfter::Absent)), (429, None));
    assert_eq!(header(Fault::RateLimited(RetryAfter::Seconds(7))), (429, Some("7".to_owned())));
    assert_eq!(header(Fault::Overloaded(RetryAfter::Seconds(3))), (503, Some("3".to_owned())));
    let (status, date) = header(Fault::RateLimited(RetryAfter::Date(90)));
    let date = date.unwrap();
    assert_eq!((status, date.len(), date.ends_with(" GMT")), (429, 29, true), "{date}");
}

#[test]
fn a_fault_that_cannot_show_is_not_recorded() {
    // A reply in words breaks no schema and fits no fence.
    for fault in [Fault::InvalidReply, Fault::Fenced, Fault::InProse] {
        let doubles = start_with(fault);
        chat(&doubles, Provider::OpenRouter, &ask("1"));
        assert!(doubles.ledger().totals().faults.is_empty());
        assert_eq!(doubles.ledger().totals().valid_replies, 1);
    }
}

#[test]
fn a_script_can_put_words_into_the_models_mouth() {
    let plan = FaultPlan::none().script("1", [Step::Say("yes\n\"sir\"".to_owned())]);
    let doubles = start(plan);
    for provider in ALL {
        doubles.ledger().reset();
        assert_eq!(content(provider, &chat(&doubles, provider, &ask("1"))), "yes\n\"sir\"");
        assert_ne!(content(provider, &chat(&doubles, provider, &ask("1"))), "yes\n\"sir\"");
    }
}

#[test]
fn a_text_names_its_row() {
    let doubles = start(FaultPlan::none());
    for provider in ALL {
        let text = content(provider, &chat(&doubles, provider, &ask("abc-7")));
        assert!(text.as_str().unwrap().contains("(row abc-7)"));
    }
}

#[test]
fn a_stream_without_its_closing_mark_is_good_all_the_same() {
    for provider in [Provider::OpenRouter, Provider::OpenAi] {
        let doubles = start_with(Fault::NoDone);
        let reply = chat(&doubles, provider, &streamed(ask("1")));
        assert_eq!((reply.status, reply.end), (200, End::Complete), "{provider:?}");
        assert!(!reply.text().contains("[DONE]") && reply.text().contains(r#""finish_reason":"stop""#));
        assert_eq!(doubles.ledger().marker("1").valid_replies, 1);
    }
}

#[test]
fn an_error_event_holds_nothing_else_and_ends_the_stream() {
    for provider in [Provider::OpenRouter, Provider::OpenAi] {
        let doubles = start_with(Fault::ErrorEvent);
        let reply = chat(&doubles, provider, &streamed(ask("1")));
        assert_eq!((reply.status, reply.end), (200, End::Complete), "{provider:?}");
        let events = reply.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert!(events.len() > 1 && last["error"]["message"].is_string() && last.get("choices").is_none());
        assert_eq!(doubles.ledger().marker("1").valid_replies, 0);
    }
}

#[test]
fn faults_of_a_stream_show_as_their_relatives_where_there_is_none() {
    for provider in ALL {
        assert_eq!(chat(&start_with(Fault::NoDone), provider, &ask("1")).status, 200);
        let doubles = start_with(Fault::ErrorEvent);
        chat(&doubles, provider, &ask("1"));
        assert_eq!(doubles.ledger().marker("1").valid_replies, 0, "{provider:?}");
        assert!(!doubles.ledger().marker("1").faults.contains_key("error_event"));
    }
}

#[test]
fn a_dripping_reply_is_good_and_takes_its_pauses() {
    let config = promptmill_doubles::Config {
        plan: FaultPlan::always(Fault::Drip),
        drip: std::time::Duration::from_millis(20),
        ..promptmill_doubles::Config::default()
    };
    let doubles = promptmill_doubles::Doubles::start(config).unwrap();
    for provider in ALL {
        let begun = std::time::Instant::now();
        check_conforms(&content(provider, &chat(&doubles, provider, &ask_json(provider, "1"))));
        assert!(begun.elapsed() >= std::time::Duration::from_millis(60), "{provider:?}");
        assert_eq!(chat(&doubles, provider, &streamed(ask_json(provider, "2"))).end, End::Complete);
    }
    assert_eq!(doubles.ledger().totals().valid_replies, 6);
}

#[test]
fn a_huge_reply_is_100_mb_with_and_without_a_declared_length() {
    use std::io::{Read as _, Write as _};
    let doubles = start_with(Fault::Huge);
    let mut lengths = std::collections::BTreeSet::new();
    for n in 0..8 {
        let body = ask(&n.to_string()).to_string();
        let mut stream = std::net::TcpStream::connect(doubles.addr()).unwrap();
        let head = "POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length:";
        stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let mut start = vec![0; 4096];
        stream.read_exact(&mut start).unwrap();
        let start = String::from_utf8(start).unwrap();
        assert!(start.starts_with("HTTP/1.1 200") && start.contains(r#"{"id":"huge""#), "{start}");
        // One body of each kind is read to its end.
        if lengths.insert(start.contains("content-length")) {
            assert!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap() > 99_000_000);
        }
    }
    assert_eq!(lengths.len(), 2);
    assert_eq!(doubles.ledger().totals().valid_replies, 0);
}

#[test]
fn a_bomb_is_small_on_the_wire_and_100_mb_unpacked() {
    use std::io::Read as _;
    let reply = chat(&start_with(Fault::GzipBomb), Provider::OpenAi, &ask("1"));
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert!(reply.body.len() < 200_000);
    let mut unpacked = flate2::read::MultiGzDecoder::new(&reply.body[..]).take(3_000_000);
    assert_eq!(std::io::copy(&mut unpacked, &mut std::io::sink()).unwrap(), 3_000_000);
}

#[test]
fn ids_repeat_and_a_count_is_no_number() {
    let doubles = start_with(Fault::SameId);
    let replies = ["1", "2"].map(|n| chat(&doubles, Provider::OpenRouter, &ask(n)).json());
    assert_eq!(
        (&replies[0]["id"], &replies[1]["id"]),
        (&"always-the-same".into(), &"always-the-same".into())
    );
    for provider in ALL {
        let doubles = start_with(Fault::NotANumber);
        let reply = chat(&doubles, provider, &ask("1"));
        assert!(reply.text().contains("NaN") && serde_json::from_slice::<Value>(&reply.body).is_err());
        assert_eq!(doubles.ledger().totals().valid_replies, 0);
    }
}

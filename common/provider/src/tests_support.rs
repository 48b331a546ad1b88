//! Requests and replies the unit tests of several modules build on.

use std::sync::{Arc, Mutex};

use promptmill_domain::{Message, ModelSettings, Role};
use serde_json::Value;

use crate::chat::{ChatRequest, Delta, DeltaSink, ResponseFormat};
use crate::http::WholeReply;

/// A request with every setting and no pass-through option.
pub(crate) fn request() -> ChatRequest {
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    ChatRequest {
        model: "acme/model-a".into(),
        messages: vec![
            message(Role::System, "Reply with JSON only."),
            message(Role::User, "Where is \"Oslo\"?"),
        ],
        settings: Arc::new(ModelSettings {
            temperature: Some(0.0),
            top_p: Some(0.9),
            max_tokens: Some(400),
            seed: Some(7),
            stop: vec!["\n\n".to_owned()],
            extra: serde_json::Map::new(),
        }),
        format: ResponseFormat::Text,
        seed_hint: 1,
        item_key: "item-1".into(),
        attempt: 1,
        deltas: None,
    }
}

/// A sink, and what it took.
pub(crate) fn listening() -> (DeltaSink, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = DeltaSink::new({
        let told = told.clone();
        move |delta| {
            let Delta::Text(text) = delta else { panic!("a provider does not begin a call for its caller") };
            told.lock().unwrap().push(text.to_owned());
        }
    });
    (sink, told)
}

/// The same with these pass-through options.
pub(crate) fn request_with(extra: Value) -> ChatRequest {
    let mut request = request();
    let Value::Object(extra) = extra else { panic!("options are an object") };
    Arc::make_mut(&mut request.settings).extra = extra;
    request
}

/// A reply that was read whole.
pub(crate) fn reply_of(status: u16, content_type: &str, body: &str) -> WholeReply {
    WholeReply {
        status,
        content_type: content_type.to_owned().into(),
        generation: None,
        retry_after: None,
        body: body.as_bytes().to_vec().into(),
    }
}

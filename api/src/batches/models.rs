//! The models of a batch: the one that is asked first, and those that are asked when it does not do.

use promptmill_domain::fallback::check_models;
use promptmill_domain::{Fallback, FallbackModel, FallbackOn, MaxPrice, ModelRef, Money};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::draft::lane_of;
use crate::App;
use crate::problem::{FieldError, Problem};

/// One model, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum ModelsArg {
    One(String),
    Several(Vec<String>),
}

impl ModelsArg {
    /// The models, one at least.
    pub(crate) fn parsed(&self) -> Result<Vec<ModelRef>, FieldError> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts.as_slice(),
        };
        if texts.is_empty() {
            return Err(FieldError::at("/model", "must be a model, or several"));
        }
        let parse = |(at, text): (usize, &String)| {
            let pointer = match self {
                Self::One(_) => "/model".to_owned(),
                Self::Several(_) => format!("/model/{at}"),
            };
            text.parse::<ModelRef>().map_err(|error| FieldError::at(pointer, error.to_string()))
        };
        let models: Vec<_> = texts.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        check_models(&models).map_err(|(at, wrong)| FieldError::at(format!("/model/{at}"), wrong))?;
        Ok(models)
    }
}

/// The most that a model may cost, US dollars for a million tokens.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = MaxPrice)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaxPriceBody {
    /// Of prompts.
    #[schema(pattern = "^[0-9]{1,7}([.][0-9]{1,12})?$", example = "2.50")]
    prompt: String,
    /// Of replies.
    #[schema(pattern = "^[0-9]{1,7}([.][0-9]{1,12})?$", example = "10")]
    completion: String,
}

impl MaxPriceBody {
    /// The same, read.
    pub(crate) fn parsed(&self) -> Result<MaxPrice, FieldError> {
        let money = |name: &str, text: &str| {
            let wrong = "must be US dollars for a million tokens, written like \"2.50\"";
            // An exponent is a number's business, and not a price's.
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(text);
            let money = plain.and_then(|text| text.parse::<Money>().ok());
            money.ok_or_else(|| FieldError::at(format!("/max_price/{name}"), wrong))
        };
        Ok(MaxPrice {
            prompt: money("prompt", &self.prompt)?,
            completion: money("completion", &self.completion)?,
        })
    }
}

impl From<MaxPrice> for MaxPriceBody {
    fn from(most: MaxPrice) -> Self {
        Self { prompt: most.prompt.to_string(), completion: most.completion.to_string() }
    }
}

/// What follows the first model.
///
/// # Errors
/// `invalid` at a model whose provider is not configured.
pub(crate) fn fallback(
    app: &App,
    further: &[ModelRef],
    on: Option<&[FallbackOn]>,
    max_price: Option<MaxPrice>,
) -> Result<Fallback, Problem> {
    let with_lane = |(at, model): (usize, &ModelRef)| {
        let lane = lane_of(app, model, &format!("/model/{}", at + 1))?;
        Ok(FallbackModel { model: model.clone(), lane })
    };
    let models: Vec<_> = further.iter().enumerate().map(with_lane).collect::<Result<_, Problem>>()?;
    let on = match on {
        _ if models.is_empty() => vec![],
        None => FallbackOn::ALL.to_vec(),
        Some(on) => on.to_vec(),
    };
    Ok(Fallback { models, on, max_price })
}

//! Sampling settings as the wire has them.

use promptmill_domain::ModelSettings;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::problem::FieldError;
use crate::shapes::StopText;

const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

/// Sampling settings. What is left out is the template's, or else the provider's own.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(as = Settings)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsBody {
    /// Sampling temperature.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Nucleus sampling.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// The most output tokens of one call.
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    max_tokens: Option<u64>,
    /// Seed for best-effort determinism.
    #[schema(minimum = -9223372036854775808_i64, maximum = 9223372036854775807_i64)]
    seed: Option<i64>,
    /// Texts that end the reply, at most 16.
    #[schema(value_type = Option<Vec<StopText>>, max_items = 16, inline)]
    stop: Option<Vec<String>>,
    /// Provider options we do not know, merged into the request body as they are.
    #[schema(value_type = Option<Object>)]
    extra: Option<serde_json::Map<String, serde_json::Value>>,
}

impl SettingsBody {
    /// The settings, or everything that is wrong with them; `pointer` is where they stand.
    pub(crate) fn checked(&self, pointer: &str) -> Result<ModelSettings, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut check = |fits: bool, name: &str, detail: &str| {
            if !fits {
                errors.push(FieldError::at(format!("{pointer}/{name}"), detail));
            }
        };
        let within = |value: Option<f64>, most: f64| value.is_none_or(|value| (0.0..=most).contains(&value));
        check(within(self.temperature, 2.0), "temperature", "must be 0 to 2");
        check(within(self.top_p, 1.0), "top_p", "must be 0 to 1");
        let max_tokens = self.max_tokens.map(|tokens| u32::try_from(tokens).unwrap_or(0));
        check(max_tokens != Some(0), "max_tokens", "must be 1 to 4294967295");
        let stop = self.stop.clone().unwrap_or_default();
        let fits = |text: &String| (1..=MAX_STOP_BYTES).contains(&text.len());
        check(
            stop.len() <= MAX_STOPS && stop.iter().all(fits),
            "stop",
            "must be at most 16 texts of 1 to 1024 bytes",
        );
        let extra = self.extra.clone().unwrap_or_default();
        if !errors.is_empty() {
            return Err(errors);
        }
        let Self { temperature, top_p, seed, .. } = *self;
        Ok(ModelSettings { temperature, top_p, max_tokens, seed, stop, extra })
    }
}

#[cfg(test)]
mod tests;

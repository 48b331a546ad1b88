//! The settings there are.

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// What it is called in the file, with the tables it stands in: `mongo.url`.
    pub key: &'static str,
    /// Its variable of the environment.
    pub env: &'static str,
    /// What its value is in the file.
    pub kind: Kind,
    /// Whether it is never shown, and may be taken from a file of its own: `mongo.url_file`, `PROMPTMILL_MONGO_URL_FILE`.
    pub secret: bool,
    /// Whose it is and what it is, where no argument of a role says so.
    pub about: Option<(&'static str, &'static str)>,
}

/// What a value is in the file. In the environment everything is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `"text"`
    Text,
    /// `64`
    Number,
    /// `true` or `false`
    Switch,
    /// `["10.0.0.0/8", "fd00::/8"]`; separated by commas in the environment.
    List,
    /// `{ acme = 3, other = 2 }`; `acme=3,other=2` in the environment.
    Shares,
}

impl Kind {
    /// For an error: what is to stand there.
    pub(crate) const fn expected(self) -> &'static str {
        match self {
            Self::Text => "must be a text in quotes",
            Self::Number => "must be a whole number without quotes",
            Self::Switch => "must be true or false",
            Self::List => "must be a list of texts, for example [\"10.0.0.0/8\"]",
            Self::Shares => "must be a table of whole numbers, for example { acme = 3 }",
        }
    }
}

const fn setting(key: &'static str, env: &'static str, kind: Kind) -> Setting {
    Setting { key, env, kind, secret: false, about: None }
}

const fn secret(key: &'static str, env: &'static str) -> Setting {
    Setting { key, env, kind: Kind::Text, secret: true, about: None }
}

impl Setting {
    const fn about(self, of: &'static str, about: &'static str) -> Self {
        Self { about: Some((of, about)), ..self }
    }

    /// Its name in the environment when it is taken from a file.
    pub fn env_file(&self) -> String {
        format!("{}_FILE", self.env)
    }

    pub(crate) fn of_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The secret of which `key` names the file.
    pub(crate) fn of_file_key(key: &str) -> Option<&'static Self> {
        Self::of_key(key.strip_suffix("_file")?).filter(|setting| setting.secret)
    }

    /// The setting with this variable of the environment.
    pub fn of_env(env: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.env == env)
    }
}

/// Of every command that does work.
const ALL: &str = "all";

/// Every setting, in the order of the reference page.
pub const SETTINGS: &[Setting] = &[
    setting("listen", "PROMPTMILL_LISTEN", Kind::Text),
    setting("metrics_listen", "PROMPTMILL_METRICS_LISTEN", Kind::Text),
    setting("data", "PROMPTMILL_DATA", Kind::Text),
    secret("master_key", "PROMPTMILL_MASTER_KEY").about(
        "serve, api, scheduler",
        "Encrypts webhook secrets, the same for every api and scheduler of a fleet: `k1:` and 32 bytes in base64 (`openssl rand -base64 32`). \
         `serve` makes one in its data folder where none is given.",
    ),
    secret("bootstrap_key", "PROMPTMILL_BOOTSTRAP_KEY").about(
        "serve, api",
        "An API key (`promptmill key generate` prints one) that `serve` and `api` keep at their start as that of an owner of the tenant `default`, \
         for containers. One that is known already stays as it is, revoked too.",
    ),
    setting("log", "PROMPTMILL_LOG", Kind::Text).about(
        ALL,
        "What to log to standard error, for example `info` or `warn,promptmill_worker=debug`. Without it `info` for services, `error` for other commands.",
    ),
    setting("log_json", "PROMPTMILL_LOG_JSON", Kind::Switch).about(ALL, "Log JSON, one object a line."),
    setting("prices", "PROMPTMILL_PRICES", Kind::List).about(
        ALL,
        "What models cost, before what a provider lists, each `PROVIDER:NAME=PROMPT/REPLY` in US dollars for a million tokens: \
         `openai:gpt-4o=2.50/10`. A name may end with `*`. Used where a provider does not report what a call cost, and for estimates.",
    ),
    setting("public_url", "PROMPTMILL_PUBLIC_URL", Kind::Text),
    secret("mongo.url", "PROMPTMILL_MONGO_URL"),
    setting("mongo.database", "PROMPTMILL_MONGO_DATABASE", Kind::Text),
    secret("redis.url", "PROMPTMILL_REDIS_URL"),
    setting("redis.prefix", "PROMPTMILL_REDIS_PREFIX", Kind::Text),
    setting("api.requests_per_second", "PROMPTMILL_REQUESTS_PER_SECOND", Kind::Number),
    setting("api.schedule_seconds", "PROMPTMILL_SCHEDULE_SECONDS", Kind::Number),
    setting("api.proxies", "PROMPTMILL_PROXIES", Kind::List),
    setting("api.leave_after", "PROMPTMILL_LEAVE_AFTER", Kind::Number),
    setting("worker.concurrency", "PROMPTMILL_CONCURRENCY", Kind::Number),
    setting("worker.stop_within", "PROMPTMILL_STOP_WITHIN", Kind::Number),
    setting("scheduler.poll_ms", "PROMPTMILL_POLL_MS", Kind::Number),
    setting("tenants.running_batches", "PROMPTMILL_RUNNING_BATCHES", Kind::Number),
    setting("tenants.weights", "PROMPTMILL_WEIGHTS", Kind::Shares),
    setting("tenants.max_cost_per_day", "PROMPTMILL_MAX_COST_PER_DAY", Kind::List),
    setting("tenants.max_cost_per_month", "PROMPTMILL_MAX_COST_PER_MONTH", Kind::List),
    secret("mail.url", "PROMPTMILL_MAIL_URL").about(
        "serve, scheduler",
        "The SMTP server over which people are written to: `smtps://USER:PASSWORD@HOST:465`, `smtp://USER:PASSWORD@HOST:587?tls=required`, or `smtp://HOST:25`, which is not encrypted and takes no password but on a loopback address. Without it nobody is.",
    ),
    setting("mail.from", "PROMPTMILL_MAIL_FROM", Kind::Text),
    setting("webhooks.subnets", "PROMPTMILL_WEBHOOK_SUBNETS", Kind::List),
    setting("schedules.source_subnets", "PROMPTMILL_SOURCE_SUBNETS", Kind::List),
    secret("providers.openrouter.api_key", "OPENROUTER_API_KEY").about(ALL, "The key for OpenRouter."),
    setting("providers.openrouter.base_url", "OPENROUTER_BASE_URL", Kind::Text)
        .about(ALL, "Where OpenRouter is, if not at `https://openrouter.ai/api/v1`."),
    setting("providers.openrouter.requests_per_minute", "OPENROUTER_REQUESTS_PER_MINUTE", Kind::Number)
        .about(ALL, "Calls of OpenRouter that may begin in a minute, in the whole fleet; learned where it is not set."),
    setting("providers.openrouter.tokens_per_minute", "OPENROUTER_TOKENS_PER_MINUTE", Kind::Number)
        .about(ALL, "Tokens of prompts and replies of OpenRouter in a minute, in the whole fleet."),
    setting("providers.openrouter.concurrency", "OPENROUTER_CONCURRENCY", Kind::Number)
        .about(ALL, "Calls of OpenRouter at the same time, in the whole fleet; learned where it is not set."),
    setting("providers.openrouter.timeout", "OPENROUTER_TIMEOUT", Kind::Number)
        .about(ALL, "Seconds after which a call of OpenRouter is given up that was not answered to its end; at most as long as by default."),
    setting("providers.ollama.host", "OLLAMA_HOST", Kind::Text)
        .about(ALL, "Where Ollama is, if not at `http://127.0.0.1:11434`."),
    secret("providers.ollama.api_key", "OLLAMA_API_KEY").about(ALL, "The key of ollama.com or of a proxy before Ollama."),
    setting("providers.ollama.requests_per_minute", "OLLAMA_REQUESTS_PER_MINUTE", Kind::Number)
        .about(ALL, "Calls of Ollama that may begin in a minute, in the whole fleet; learned where it is not set."),
    setting("providers.ollama.tokens_per_minute", "OLLAMA_TOKENS_PER_MINUTE", Kind::Number)
        .about(ALL, "Tokens of prompts and replies of Ollama in a minute, in the whole fleet."),
    setting("providers.ollama.concurrency", "OLLAMA_CONCURRENCY", Kind::Number)
        .about(ALL, "Calls of Ollama at the same time, in the whole fleet; learned where it is not set."),
    setting("providers.ollama.timeout", "OLLAMA_TIMEOUT", Kind::Number)
        .about(ALL, "Seconds after which a call of Ollama is given up that was not answered to its end; at most as long as by default."),
    setting("providers.openai.base_url", "OPENAI_BASE_URL", Kind::Text)
        .about(ALL, "Where the OpenAI-compatible server is, if not at `https://api.openai.com/v1`."),
    secret("providers.openai.api_key", "OPENAI_API_KEY").about(ALL, "The key of the OpenAI-compatible server."),
    setting("providers.openai.requests_per_minute", "OPENAI_REQUESTS_PER_MINUTE", Kind::Number)
        .about(ALL, "Calls of the OpenAI-compatible server that may begin in a minute, in the whole fleet; learned where it is not set."),
    setting("providers.openai.tokens_per_minute", "OPENAI_TOKENS_PER_MINUTE", Kind::Number)
        .about(ALL, "Tokens of prompts and replies of the OpenAI-compatible server in a minute, in the whole fleet."),
    setting("providers.openai.concurrency", "OPENAI_CONCURRENCY", Kind::Number)
        .about(ALL, "Calls of the OpenAI-compatible server at the same time, in the whole fleet; learned where it is not set."),
    setting("providers.openai.timeout", "OPENAI_TIMEOUT", Kind::Number)
        .about(ALL, "Seconds after which a call of the OpenAI-compatible server is given up that was not answered to its end; at most as long as by default."),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_settings_share_a_name_and_no_key_is_a_table_of_another() {
        let keys: HashSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        let envs: HashSet<_> = SETTINGS.iter().map(|setting| setting.env).collect();
        assert_eq!((keys.len(), envs.len()), (SETTINGS.len(), SETTINGS.len()));
        for key in &keys {
            assert!(!keys.iter().any(|other| other.starts_with(&format!("{key}."))), "{key}");
            assert!(Setting::of_file_key(key).is_none(), "{key} reads as the file of another");
        }
    }
}

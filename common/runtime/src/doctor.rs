//! A look at all that a process will need: servers, this machine, providers. Each finding is one sentence, with what mends it.

use std::path::Path;
use std::time::Duration;

use promptmill_domain::{FailureKind, Money};
use promptmill_hub_redis::RedisHubOptions;
use promptmill_ports::Finding;
use promptmill_provider::{CallFailure, Credential};
use promptmill_settings::Settings;
use promptmill_store_mongo::MongoOptions;
use rustix::process::{Resource, getrlimit};
use tokio::time::timeout;

use crate::clock::SystemClock;
use crate::files::raise_file_limit;
use crate::fleet::store_of;
use crate::providers::{ProviderError, ProviderSettings, Providers, install_tls};

/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Open files of a process that serves many; each caller is one.
const MANY_FILES: u64 = 65_536;
const FEW_FILES: u64 = 4_096;

/// Free bytes of the disk with the data.
const LITTLE_SPACE: u64 = 5 * 1024 * 1024 * 1024;
const NO_SPACE: u64 = 256 * 1024 * 1024;

/// What there is to say of MongoDB and Redis.
pub async fn servers(settings: &Settings) -> Vec<Finding> {
    install_tls();
    let (mut findings, mut of_redis) = (Vec::new(), Vec::new());
    let (mongo, redis) = tokio::join!(
        timeout(PATIENCE, mongo(settings, &mut findings)),
        timeout(PATIENCE, redis(settings, &mut of_redis)),
    );
    let late = |name| {
        let seconds = PATIENCE.as_secs();
        Finding::wrong(format!("{name} does not answer for {seconds} s; its log and the way there tell why"))
    };
    findings.extend(mongo.err().map(|_| late("MongoDB")));
    findings.append(&mut of_redis);
    findings.extend(redis.err().map(|_| late("Redis")));
    findings
}

async fn mongo(settings: &Settings, findings: &mut Vec<Finding>) {
    match store_of(settings) {
        Some((url, database)) => {
            let options = MongoOptions::new(url, database);
            promptmill_store_mongo::examine(&options, &SystemClock, findings).await;
        }
        None => findings.push(unset("mongo.url", "PROMPTMILL_MONGO_URL")),
    }
}

async fn redis(settings: &Settings, findings: &mut Vec<Finding>) {
    let Some(url) = settings.get("PROMPTMILL_REDIS_URL") else {
        findings.push(unset("redis.url", "PROMPTMILL_REDIS_URL"));
        return;
    };
    let mut options = RedisHubOptions::new(url);
    if let Some(prefix) = settings.get("PROMPTMILL_REDIS_PREFIX") {
        options.prefix = prefix;
    }
    promptmill_hub_redis::examine(&options, &SystemClock, findings).await;
}

fn unset(key: &str, env: &str) -> Finding {
    Finding::wrong(format!("{key} is not set; say where the server is, there or in {env}"))
}

/// What there is to say of this machine; with the folder of the data, where there is one.
pub fn machine(data: Option<&Path>) -> Vec<Finding> {
    raise_file_limit();
    // No number means no limit.
    let mut findings = vec![files(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))];
    findings.extend(data.map(folder));
    findings
}

fn files(limit: u64) -> Finding {
    let mend = "raise it: LimitNOFILE= of systemd, ulimits of compose, or ulimit -Hn";
    match limit {
        0..FEW_FILES => {
            Finding::wrong(format!("a process may have {limit} files open, and each caller is one; {mend}"))
        }
        FEW_FILES..MANY_FILES => {
            Finding::note(format!("a process may have {limit} files open; for many callers {mend}"))
        }
        u64::MAX => Finding::good("a process may have any number of files open"),
        _ => Finding::good(format!("a process may have {limit} files open")),
    }
}

fn folder(data: &Path) -> Finding {
    let shown = data.display();
    // A folder that will be made is on the disk of the nearest one that is there.
    let there = data.ancestors().find(|folder| folder.exists() && !folder.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new("."));
    if let Err(error) = tempfile::tempfile_in(there) {
        return Finding::wrong(format!(
            "nothing can be written to {shown} ({error}); let this user own the folder, or name another with --data"
        ));
    }
    let Ok(disk) = rustix::fs::statvfs(there) else {
        return Finding::note(format!(
            "how full the disk of {shown} is cannot be told; look that it has room"
        ));
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let has = format!("the disk of {shown} has {:.1} GiB free", free as f64 / 1024.0_f64.powi(3));
    match free {
        0..NO_SPACE => Finding::wrong(format!("{has}; free some, or what is submitted will be refused")),
        NO_SPACE..LITTLE_SPACE => Finding::note(format!("{has}; enlarge it before much is submitted")),
        _ => Finding::good(has),
    }
}

/// A provider that takes the key.
fn answers(name: &str, credential: Credential, models: usize) -> Finding {
    let answers = format!("{name} answers and has {models} models");
    match credential.left {
        None => Finding::good(answers),
        Some(Money::ZERO) => Finding::wrong(format!(
            "{name} answers, but nothing is left of the limit of the key; raise it, or wait until it begins anew"
        )),
        Some(left) => Finding::good(format!("{answers}; ${left} are left of the limit of the key")),
    }
}

/// What there is to say of the providers that are configured: they are asked, and nothing is generated.
pub async fn providers(settings: &Settings) -> Vec<Finding> {
    let providers = match ProviderSettings::from_env(|name| settings.get(name)).and_then(Providers::new) {
        Ok(providers) => providers,
        Err(ProviderError::Config { variable, source }) => {
            return vec![Finding::wrong(format!("{} is wrong: {source}", settings.place(variable)))];
        }
        Err(error) => return vec![Finding::wrong(format!("the providers cannot be set up: {error}"))],
    };
    let configured = [
        ("openrouter", "OPENROUTER_API_KEY", &["OPENROUTER_API_KEY"][..]),
        ("ollama", "OLLAMA_API_KEY", &["OLLAMA_HOST", "OLLAMA_API_KEY"]),
        ("openai", "OPENAI_API_KEY", &["OPENAI_BASE_URL", "OPENAI_API_KEY"]),
    ];
    let mut findings = Vec::new();
    for (name, key, said_by) in configured {
        if said_by.iter().all(|env| settings.value(env).is_none()) {
            continue;
        }
        let Some(provider) = providers.get(name) else { continue };
        let asking = async {
            let credential = provider.check_credential().await?;
            Ok::<_, CallFailure>((credential, provider.models().await?))
        };
        findings.push(match timeout(PATIENCE, asking).await {
            Ok(Ok((credential, models))) => answers(name, credential, models.len()),
            Ok(Err(failure)) if failure.kind == FailureKind::CredentialRefused => Finding::wrong(format!(
                "{name} refuses the key; mend {}",
                settings.place(key).trim_end_matches(':')
            )),
            Ok(Err(failure)) if failure.kind == FailureKind::ConnectionFailed => Finding::wrong(format!(
                "{name} cannot be reached ({}); start it, or mend {} or the way there",
                failure.message,
                settings.place(said_by[0]).trim_end_matches(':')
            )),
            Ok(Err(failure)) => Finding::note(format!(
                "{name} does not tell its models ({}); calls will tell",
                failure.kind.as_str()
            )),
            Err(_) => Finding::wrong(format!(
                "{name} does not answer for {} s; look at the server and the way there",
                PATIENCE.as_secs()
            )),
        });
    }
    if findings.is_empty() {
        findings.push(Finding::note(
            "no provider is configured, so what is called is an Ollama of this machine, if there is one, or demo:any; set OPENROUTER_API_KEY, OLLAMA_HOST or OPENAI_BASE_URL",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use promptmill_ports::Verdict;

    use super::*;

    #[test]
    fn a_key_of_which_nothing_is_left_is_told() {
        let of = |left: Option<&str>| {
            let finding =
                answers("openrouter", Credential { left: left.map(|left| left.parse().unwrap()) }, 3);
            (finding.verdict, finding.sentence)
        };
        assert_eq!(of(None), (Verdict::Good, "openrouter answers and has 3 models".to_owned()));
        let some = "openrouter answers and has 3 models; $4.25 are left of the limit of the key";
        assert_eq!(of(Some("4.25")), (Verdict::Good, some.to_owned()));
        let (verdict, sentence) = of(Some("0"));
        assert!(verdict == Verdict::Wrong && sentence.contains("raise it"), "{sentence}");
    }
}

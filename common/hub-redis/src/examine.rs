//! A look at Redis before a fleet is built on it: can it be reached, does it keep every key, and may we do what a hub does?

use std::time::Duration;

use promptmill_ports::{Clock, Finding};
use redis::{Cmd, ErrorKind, FromRedisValue as _, RedisError, ServerErrorKind, Value, cmd};

use crate::hub::RedisHubOptions;
use crate::link::Link;

/// What the tests run against, and what is promised.
const TESTED: &str = "7.0";
const OLDEST: u32 = 6;

/// The keys of the probe are gone after that, whatever happens.
const PROBE_ENDS_AFTER: Duration = Duration::from_secs(10);

/// Share of its memory that Redis uses.
const NEARLY_FULL: f64 = 0.8;

/// Adds what there is to say of the Redis of `options`, as it is found; one that makes the rest pointless is the last. Writes a key of its own that ends by itself.
pub async fn examine(options: &RedisHubOptions, clock: &dyn Clock, findings: &mut Vec<Finding>) {
    if let Err(stopped) = look(options, clock, findings).await {
        findings.push(stopped);
    }
}

async fn look(
    options: &RedisHubOptions,
    clock: &dyn Clock,
    findings: &mut Vec<Finding>,
) -> Result<(), Finding> {
    let link = Link::new(&options.url).map_err(|error| Finding::wrong(format!("{error}; mend redis.url")))?;
    let report = link.target().report().await.map_err(|error| unreached(&link, &error))?;
    let of = |name: &str| report.lines().find_map(|line| line.trim_end().strip_prefix(name));
    findings.push(version(of("redis_version:").unwrap_or_default()));
    // Of a cluster any node may have answered, and commands find the masters.
    if of("role:") == Some("slave") && !link.target().is_cluster() {
        return Err(Finding::wrong(
            "Redis is a replica, which takes no writes; name the master in redis.url, or the sentinels: redis+sentinel://HOST:PORT/MASTER",
        ));
    }
    findings.push(policy(of("maxmemory_policy:")));
    findings.extend(memory(of("used_memory:"), of("maxmemory:")));
    let before = clock.now_ms();
    let time = link.request(&cmd("TIME")).await;
    let after = clock.now_ms();
    if let Some((seconds, micros)) = time.ok().and_then(|time| <(u64, u64)>::from_redis_value(time).ok()) {
        findings.push(Finding::of_clock("Redis", seconds * 1_000 + micros / 1_000, before, after));
    }
    findings.push(rights(&link, &options.prefix).await);
    Ok(())
}

fn unreached(link: &Link, error: &RedisError) -> Finding {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Finding::wrong(
            "Redis refuses the user or the password of redis.url; mend them: redis://USER:PASSWORD@HOST:PORT",
        ),
        _ if error.code() == Some("NOAUTH") => {
            Finding::wrong("Redis wants a password; put it into redis.url: redis://:PASSWORD@HOST:PORT")
        }
        _ if error.code() == Some("WRONGPASS") => Finding::wrong(
            "Redis refuses the user or the password of redis.url; mend them: redis://USER:PASSWORD@HOST:PORT",
        ),
        _ if error.code() == Some("NOPERM") => {
            Finding::wrong("the user of redis.url may not call INFO; allow it")
        }
        _ => Finding::wrong(format!(
            "Redis does not answer ({}); start it, or mend redis.url or the way there",
            link.unavailable(error).0
        )),
    }
}

fn version(version: &str) -> Finding {
    let major = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < OLDEST {
        return Finding::wrong(format!("Redis is {version}; install {OLDEST} or newer"));
    }
    Finding::good(format!("Redis is {version} (tested with {TESTED})"))
}

fn policy(policy: Option<&str>) -> Finding {
    match policy {
        Some("noeviction") => Finding::good("Redis keeps every key (maxmemory-policy noeviction)"),
        Some(policy) => Finding::wrong(format!(
            "Redis drops keys when its memory is full (maxmemory-policy {policy}); set maxmemory-policy to noeviction"
        )),
        None => Finding::note("Redis does not tell its maxmemory-policy; it must be noeviction"),
    }
}

fn memory(used: Option<&str>, most: Option<&str>) -> Option<Finding> {
    let number = |text: Option<&str>| text?.parse::<f64>().ok();
    let (used, most) = (number(used)?, number(most)?);
    if most == 0.0 {
        return None;
    }
    let percent = format!("Redis uses {:.0} % of its maxmemory", used / most * 100.0);
    Some(match used / most > NEARLY_FULL {
        true => Finding::note(format!("{percent}; give it more, or hints will be refused when it is full")),
        false => Finding::good(percent),
    })
}

/// Whether the user may do everything that a hub does.
async fn rights(link: &Link, prefix: &str) -> Finding {
    let key = format!("{prefix}:{{doctor}}:{:032x}", rand::random::<u128>());
    let with = |name: &str, args: &[&str]| {
        let mut command = cmd(name);
        command.arg(&key).arg(args);
        command
    };
    let ends_after = PROBE_ENDS_AFTER.as_millis().to_string();
    let fields = format!("{key}:fields");
    let of_fields = |name: &str, args: &[&str]| {
        let mut command = cmd(name);
        command.arg(&fields).arg(args);
        command
    };
    let mut unknown_script = cmd("EVALSHA");
    unknown_script.arg("0".repeat(40)).arg(0);
    let mut script = cmd("EVAL");
    script.arg("return redis.call('ZCARD', KEYS[1])").arg(1).arg(&key);
    let mut publish = cmd("PUBLISH");
    publish.arg(format!("{prefix}:doctor")).arg("");
    let commands: [(&str, Cmd); 19] = [
        ("PING", cmd("PING")),
        ("TIME", cmd("TIME")),
        ("ZADD", with("ZADD", &["NX", "1", "probe"])),
        ("PEXPIRE", with("PEXPIRE", &[&ends_after])),
        ("ZCARD", with("ZCARD", &[])),
        ("ZSCORE", with("ZSCORE", &["probe"])),
        ("HSET", of_fields("HSET", &["probe", "1"])),
        ("PEXPIRE", of_fields("PEXPIRE", &[&ends_after])),
        ("HGET", of_fields("HGET", &["probe"])),
        ("HMGET", of_fields("HMGET", &["probe"])),
        ("HGETALL", of_fields("HGETALL", &[])),
        ("HDEL", of_fields("HDEL", &["probe"])),
        ("EVALSHA", unknown_script),
        ("EVAL", script),
        ("ZPOPMIN", with("ZPOPMIN", &["1"])),
        ("BZPOPMIN", with("BZPOPMIN", &["0.001"])),
        ("SET", with("SET", &["1", "PX", &ends_after])),
        ("GET", with("GET", &[])),
        ("PUBLISH", publish),
    ];
    let mut refused = Vec::new();
    for (name, command) in commands {
        match link.request(&command).await {
            Ok(Value::ServerError(error)) if error.code() == "NOPERM" => refused.push(name),
            Err(error) if error.code() == Some("NOPERM") => refused.push(name),
            // There is none of that name, but it may be called.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
            Err(error) if error.code() == Some("OOM") => {
                return Finding::wrong(
                    "Redis refuses writes, because its memory is full; give it more (maxmemory)",
                );
            }
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                return Finding::wrong("Redis takes no writes; name the master in redis.url");
            }
            Err(error) => {
                return Finding::wrong(format!(
                    "Redis does not do {name} ({}); its log tells why",
                    link.unavailable(&error).0
                ));
            }
            Ok(_) => {}
        }
    }
    match link.target().subscribe(&format!("{prefix}:doctor")).await {
        Err(error) if error.code() == Some("NOPERM") => refused.push("SUBSCRIBE"),
        Err(error) => {
            let why = link.unavailable(&error).0;
            return Finding::wrong(format!("Redis does not do SUBSCRIBE ({why}); its log tells why"));
        }
        Ok(_) => {}
    }
    refused.dedup();
    if refused.is_empty() {
        return Finding::good("Redis lets us do all that a hub does");
    }
    Finding::wrong(format!(
        "the user of redis.url may not call {}; allow it +@all on the keys and channels {prefix}:*",
        refused.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use promptmill_ports::Verdict;

    use super::*;

    #[test]
    fn what_info_tells_is_judged() {
        assert_eq!(["7.0.15", "10.0", "6.2.1"].map(|text| version(text).verdict), [Verdict::Good; 3]);
        assert_eq!(["5.0.7", ""].map(|text| version(text).verdict), [Verdict::Wrong; 2]);
        assert_eq!(policy(Some("noeviction")).verdict, Verdict::Good);
        assert_eq!(policy(Some("volatile-lru")).verdict, Verdict::Wrong);
        assert_eq!(policy(None).verdict, Verdict::Note);
        assert_eq!(memory(Some("10"), Some("0")), None);
        assert_eq!(memory(Some("10"), Some("100")).unwrap().verdict, Verdict::Good);
        assert_eq!(memory(Some("90"), Some("100")).unwrap().verdict, Verdict::Note);
    }
}

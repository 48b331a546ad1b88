//! `promptmill doctor`: what is wrong with an installation, a sentence each with what mends it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use promptmill_ports::{Finding, Verdict};
use promptmill_runtime::{Settings, doctor};
use promptmill_settings::strange_variables;
use promptmill_vault::Vault;
use serde_json::json;

use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0: nothing is wrong; 1: something is. Servers are asked, a document and a key are written and taken away, \
nothing is generated."
)]
pub(crate) struct DoctorArgs {
    /// What is to run here. Default: a fleet where MongoDB or Redis is named in the settings.
    #[arg(value_enum)]
    of: Option<Installation>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Installation {
    Serve,
    Fleet,
}

pub(crate) async fn doctor(args: DoctorArgs, settings: &Settings) -> Result<Exit, Failure> {
    let names_servers =
        ["PROMPTMILL_MONGO_URL", "PROMPTMILL_REDIS_URL"].iter().any(|env| settings.value(env).is_some());
    let of = args.of.unwrap_or(if names_servers { Installation::Fleet } else { Installation::Serve });
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut findings: Vec<_> = strange_variables(variables)
        .into_iter()
        .map(|strange| Finding::wrong(format!("{strange}; take it away")))
        .collect();
    findings.extend(master_key(of, settings));
    let data =
        || PathBuf::from(settings.get("PROMPTMILL_DATA").unwrap_or_else(|| "promptmill-data".to_owned()));
    let data = (of == Installation::Serve).then(data);
    findings.extend(doctor::machine(data.as_deref()));
    let servers = async {
        match of {
            Installation::Fleet => doctor::servers(settings).await,
            Installation::Serve => Vec::new(),
        }
    };
    let (servers, providers) = tokio::join!(servers, doctor::providers(settings));
    findings.extend(servers);
    findings.extend(providers);
    for finding in &findings {
        tell(finding, args.json);
    }
    let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    Ok(if wrong == 0 { Exit::Success } else { Exit::CouldNotWork })
}

fn master_key(of: Installation, settings: &Settings) -> Option<Finding> {
    match settings.get("PROMPTMILL_MASTER_KEY") {
        Some(keys) => Some(match Vault::from_keys(&keys) {
            Ok(_) => Finding::good("the master key can be used"),
            Err(error) => {
                let place = settings.place("PROMPTMILL_MASTER_KEY");
                Finding::wrong(format!(
                    "{place} cannot be used: {error}; make one with: echo \"k1:$(openssl rand -base64 32)\""
                ))
            }
        }),
        None if of == Installation::Fleet => Some(Finding::wrong(
            "master_key is not set, without which no api and no scheduler starts; make one with: echo \"k1:$(openssl rand -base64 32)\"",
        )),
        None => None,
    }
}

fn tell(Finding { verdict, sentence }: &Finding, as_json: bool) {
    let word = match verdict {
        Verdict::Good => "good",
        Verdict::Note => "note",
        Verdict::Wrong => "wrong",
    };
    if as_json {
        println!("{}", json!({"verdict": word, "sentence": sentence}));
    } else {
        println!("{word:5}  {sentence}");
    }
}

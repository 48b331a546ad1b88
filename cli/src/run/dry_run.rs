//! `--dry-run` and `--estimate`: everything but the calls.

use std::sync::Arc;

use promptmill_domain::estimate::{Bound, Estimate, Sample};
use promptmill_domain::{Message, ModelRef};
use promptmill_prompt::{Template, estimate_tokens};
use promptmill_runtime::Settings;

use super::intake::{Choice, Source, each_row};
use super::providers;
use crate::args::RunArgs;
use crate::exit::{Exit, Failure};
use crate::progress::cents;

/// Checks and renders all rows, shows the first prompt and about how many tokens the prompts have.
pub(crate) async fn dry_run(
    args: &RunArgs,
    template: &Arc<Template>,
    source: Source,
) -> Result<Exit, Failure> {
    let Prompts { sample, first } = prompts(args, template, source).await?;
    for message in &first {
        println!("--- {}\n{}", message.role.as_str(), message.content);
    }
    println!("---");
    // Rows of a sample are taken to be like the others.
    let tokens = sample.prompt_tokens * sample.of / sample.rows.max(1);
    println!(
        "{} rows are good; {} would run, with about {tokens} prompt tokens before replies and repairs. Nothing was called.",
        sample.rows, sample.of
    );
    Ok(Exit::Success)
}

/// Checks and renders all rows, and tells what they will take at least and at most.
pub(crate) async fn estimate(
    args: &RunArgs,
    template: &Arc<Template>,
    source: Source,
    model: &ModelRef,
    settings: &Settings,
) -> Result<Exit, Failure> {
    let providers = providers(settings)?;
    let Prompts { sample, .. } = prompts(args, template, source).await?;
    let price = providers.price(model).await;
    let reply_limit = template.settings().max_tokens;
    let estimate = Estimate::new(sample, reply_limit, template.max_repairs(), price);
    println!("{} rows would run on {model}:", sample.of);
    println!("{:9} {:>12} {:>15} {:>15} {:>14}", "", "calls", "prompt tokens", "reply tokens", "US dollars");
    for (name, bound) in [("at least", estimate.least), ("at most", estimate.most)] {
        let Bound { calls, tokens, cost } = bound;
        let cost = cost.map_or_else(|| "unknown".to_owned(), cents);
        println!("{name:9} {calls:>12} {:>15} {:>15} {cost:>14}", tokens.prompt, tokens.completion);
    }
    if price.is_none() {
        println!("No price of {model} is known; PROMPTMILL_PRICES takes one.");
    }
    if reply_limit.is_none() {
        println!(
            "A reply is taken to be at most {} tokens; max_tokens of the template sets a limit.",
            promptmill_domain::estimate::REPLY_WITHOUT_LIMIT
        );
    }
    if args.cache {
        println!("Rows that ask the same are counted one by one; with --cache they make one call.");
    }
    println!("Attempts that fail and are repeated are not counted. Nothing was called.");
    Ok(Exit::Success)
}

/// What the rows ask.
struct Prompts {
    sample: Sample,
    /// The first of them.
    first: Vec<Message>,
}

async fn prompts(args: &RunArgs, template: &Arc<Template>, source: Source) -> Result<Prompts, Failure> {
    let choice = Choice::of(args);
    let template = template.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let (mut first, mut tokens) = (None, 0u64);
        let most = if let Choice::First(rows) = choice { rows } else { u32::MAX };
        let rows = each_row(&source, &template, most, |row| {
            let messages = row.rendered.unwrap_or_default();
            tokens += estimate_tokens(&messages);
            first.get_or_insert(messages);
            true
        })?;
        Ok::<_, Failure>((rows, tokens, first.unwrap_or_default()))
    });
    let (rows, prompt_tokens, first) =
        checked.await.map_err(|error| Failure::work("reading the rows broke off", error))??;
    let of = match choice {
        Choice::Sample { rows: sample, .. } => sample.min(rows),
        Choice::All | Choice::First(_) => rows,
    };
    Ok(Prompts { sample: Sample { rows: rows.into(), prompt_tokens, of: of.into() }, first })
}

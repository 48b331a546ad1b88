//! `--dry-run`: everything but the calls.

use std::sync::Arc;

use promptmill_prompt::{Template, estimate_tokens};

use super::intake::{Choice, Source, each_row};
use crate::args::RunArgs;
use crate::exit::{Exit, Failure};

/// Checks and renders all rows, shows the first prompt and about how many tokens the prompts have.
pub(crate) async fn dry_run(
    args: &RunArgs,
    template: &Arc<Template>,
    source: Source,
) -> Result<Exit, Failure> {
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
    let (rows, tokens, first) =
        checked.await.map_err(|error| Failure::work("reading the rows broke off", error))??;
    for message in &first {
        println!("--- {}\n{}", message.role.as_str(), message.content);
    }
    println!("---");
    let taken = match choice {
        Choice::Sample { rows: sample, .. } => sample.min(rows),
        Choice::All | Choice::First(_) => rows,
    };
    // Rows of a sample are taken to be like the others.
    let tokens = tokens * u64::from(taken) / u64::from(rows.max(1));
    println!(
        "{rows} rows are good; {taken} would run, with about {tokens} prompt tokens before replies and repairs. Nothing was called."
    );
    Ok(Exit::Success)
}

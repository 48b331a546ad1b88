//! The folder that holds the state of a run: whether it may be used, and what an earlier run left in it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use promptmill_domain::{Batch, BatchSpec, BatchState, TenantId};
use promptmill_ports::{BatchFilter, PageLimit, StoreError};
use promptmill_runtime::{Engine, EngineError, Providers};

use super::target::Target;
use crate::args::RunArgs;
use crate::exit::Failure;

/// The folder, not opened yet.
pub(crate) struct StateDir {
    path: PathBuf,
}

/// What an earlier run left.
pub(crate) enum Found {
    /// Nothing that was acknowledged.
    Nothing,
    /// A batch with all of its rows.
    Earlier(Box<Batch>),
}

impl StateDir {
    pub(crate) fn choose(args: &RunArgs, target: &Target) -> Result<Self, Failure> {
        let path = args.state.clone().or_else(|| target.state_dir());
        let path = path.ok_or_else(|| {
            Failure::input("--out - needs --state DIR: the folder that holds the state of the run")
        })?;
        if path.exists() && !path.is_dir() {
            return Err(Failure::input(format!(
                "{} is to hold the state of the run and is not a folder",
                path.display()
            )));
        }
        // A run that was killed while it made the folder may have left any of its own files there.
        let holds_others = || {
            let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(b"promptmill.");
            std::fs::read_dir(&path)
                .is_ok_and(|entries| entries.flatten().any(|entry| !ours(&entry.file_name())))
        };
        if holds_others() {
            return Err(Failure::input(format!(
                "{} holds other files; the state of a run needs a folder of its own (--state DIR)",
                path.display()
            )));
        }
        Ok(Self { path })
    }

    /// Opens the store in it, after throwing away what was there when that was asked for.
    pub(crate) fn open(&self, args: &RunArgs, providers: &Arc<Providers>) -> Result<Engine, Failure> {
        let shown = self.path.display();
        if args.resume && !self.path.join(DATABASE).exists() {
            return Err(Failure::input(format!(
                "there is no run to resume in {shown}; leave --resume out to begin one"
            )));
        }
        let unusable =
            |error| Failure::work(format!("the state of the run in {shown} cannot be opened"), error);
        if args.fresh && self.path.exists() {
            // Opened first: a run that is under way there holds the lock and must not lose its files. Damage is no reason to keep them.
            match Engine::embedded(&self.path, providers.clone()) {
                Ok(engine) => drop(engine),
                Err(EngineError::Store(_, StoreError::Corrupt(_))) => {}
                Err(error) => return Err(unusable(error)),
            }
            std::fs::remove_dir_all(&self.path)
                .map_err(|error| Failure::work(format!("{shown} cannot be removed"), error))?;
        }
        Engine::embedded(&self.path, providers.clone()).map_err(unusable)
    }

    /// What an earlier run left; a draft that never became a batch is removed.
    pub(crate) async fn look(
        &self,
        engine: &Engine,
        tenant: &TenantId,
        resume: bool,
    ) -> Result<Found, Failure> {
        let unreadable = |error| {
            Failure::work(format!("the state of the run in {} cannot be read", self.path.display()), error)
        };
        let mut found = Found::Nothing;
        let (all, limit) = (BatchFilter::default(), PageLimit::items(100));
        let batches = engine.store.batches(tenant, &all, None, limit).await.map_err(unreadable)?.batches;
        for batch in batches {
            if batch.state == BatchState::Draft {
                while !engine.store.delete(tenant, batch.id).await.map_err(unreadable)? {}
            } else {
                found = Found::Earlier(Box::new(batch));
            }
        }
        match &found {
            Found::Earlier(earlier) if !resume => Err(Failure::input(format!(
                "{} holds an earlier run ({}); go on with it by --resume, or throw it away by --fresh",
                self.path.display(),
                earlier.state.as_str()
            ))),
            _ => Ok(found),
        }
    }
}

/// The file by which a folder is known to hold a run.
const DATABASE: &str = "promptmill.db";

/// Refuses to go on with a run whose template, model or rows are not those it began with.
pub(crate) async fn must_be_same(
    engine: &Engine,
    tenant: &TenantId,
    earlier: &Batch,
    wanted: &BatchSpec,
    digest: [u8; 32],
) -> Result<(), Failure> {
    let parts = engine
        .store
        .parts(tenant, earlier.id)
        .await
        .map_err(|error| Failure::work("the rows of the run cannot be read", error))?;
    let mut changed = Vec::new();
    if earlier.spec.template != wanted.template {
        changed.push("the template");
    }
    if (&earlier.spec.model, &earlier.spec.fallback) != (&wanted.model, &wanted.fallback) {
        changed.push("the model");
    }
    if earlier.spec.cache != wanted.cache {
        changed.push("--cache");
    }
    if parts.iter().map(|part| part.digest).ne([digest]) {
        changed.push("the rows");
    }
    if changed.is_empty() {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{} changed since the run began, so its outcomes would not belong together; undo that, or begin anew with --fresh",
        changed.join(" and ")
    )))
}

//! Puts back what has got lost: schedules of configs that are not there, and those of configs that
//! are gone. Forgets old runs and reminders.

use std::collections::BTreeSet;

use patchbay_plugin::schedules;
use patchbay_plugin::{Failure, Retry, Value, credentials, json};

use crate::configs::Config;
use crate::database;
use crate::runs;
use crate::settings::Settings;

pub fn run() -> Result<Value, Failure> {
    let settings = Settings::load()?;
    let configs = Config::all()?;
    let (mut restored, mut failed) = (0, None);
    for config in &configs {
        // One that cannot be registered does not stop the others.
        match config.register() {
            Ok(has_changed) => restored += u32::from(has_changed),
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    let removed = forget_strays(&configs)?;
    let runs = runs::forget_old(settings.keep_runs_days)?;
    database::execute(
        "delete from mrlearn.reminders where day < (now() - interval '7 days')::date",
        &[],
    )?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(json!({
            "configs": configs.len(), "schedulesRestored": restored, "schedulesRemoved": removed, "runsForgotten": runs,
        })),
    }
}

/// What belongs to a config that is gone: a deletion that was cut off.
fn forget_strays(configs: &[Config]) -> Result<u32, Failure> {
    let known: BTreeSet<String> = configs.iter().map(|config| config.id.to_string()).collect();
    let is_stray = |name: &str| {
        let id = name.rsplit('-').next().unwrap_or_default();
        !id.is_empty() && id.chars().all(|c| c.is_ascii_digit()) && !known.contains(id)
    };
    let lost = |error: patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError| {
        Failure::new(&error.code, error.message, Retry::Backoff)
    };
    let (mut removed, mut after) = (0, None::<String>);
    loop {
        let page = schedules::page(after.as_deref(), 100).map_err(lost)?;
        let Some(last) = page.last() else { break };
        after = Some(last.schedule.id.clone());
        for state in page.iter().filter(|state| is_stray(&state.schedule.id)) {
            removed += u32::from(schedules::remove(&state.schedule.id).map_err(lost)?);
        }
    }
    let mut after = None::<String>;
    loop {
        let page = credentials::page(after.as_deref(), 100).map_err(lost)?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for info in page.iter().filter(|info| is_stray(&info.name)) {
            credentials::remove(&info.name).map_err(lost)?;
        }
    }
    Ok(removed)
}

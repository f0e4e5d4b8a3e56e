//! `patchbay doctor`: every finding says how to repair it.

mod audit;
mod configuration;
mod operators;
mod plugins;
mod postgres;
mod redis;
mod secrets;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use patchbay_cli::Output;
use serde::Serialize;

use crate::config::{Config, ConfigError};
use crate::dev_state::DevState;

/// The page about the supported setups.
const INFRASTRUCTURE: &str = "see docs/operations/infrastructure.md";
/// The longest wait for Postgres or Redis.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    check: &'static str,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            mend: None,
        });
    }

    fn bad(
        &mut self,
        check: &'static str,
        level: Level,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            level,
            message: message.into(),
            mend: Some(mend.into()),
        });
    }
}

/// Runs every check. The configuration must be usable.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.ok("configuration", "can be used");
    examine_with(config, &mut findings).await;
    findings.0
}

async fn examine_with(config: &Config, findings: &mut Findings) {
    configuration::check_config(config, findings);
    configuration::check_limits(config, findings);
    let store = postgres::check_database(config, findings).await;
    redis::check_redis(config, findings).await;
    let keys = secrets::check_master_key(config, findings);
    if let Some(store) = store {
        let kept = secrets::check_secrets(keys.as_ref(), &store, findings).await;
        plugins::check_plugins(config, &store, &kept, findings).await;
        plugins::check_schedules(config, &store, findings).await;
        audit::check_ledger(config, &store, findings).await;
        operators::check_operators(config, &store, findings).await;
        store.close().await;
    }
}

pub(crate) async fn run(file: Option<&Path>, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    match configuration(file) {
        Ok((config, dev)) => {
            let message = dev.as_ref().map_or_else(
                || "can be used".to_owned(),
                |dev| format!("that of `patchbay dev` in {}", dev.dir.display()),
            );
            findings.ok("configuration", message);
            examine_with(&config, &mut findings).await;
            if let Some(dev) = &dev {
                findings
                    .0
                    .iter_mut()
                    .for_each(|finding| of_dev(finding, dev));
            }
        }
        Err(error) => {
            for problem in error.0 {
                let mend = "`patchbay config` and docs/operations/configuration.md list every key";
                findings.bad("configuration", Level::Error, problem, mend);
            }
        }
    }
    let rows = findings.0.iter().map(|finding| {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let mend = finding
            .mend
            .as_ref()
            .map(|mend| format!(" → {mend}"))
            .unwrap_or_default();
        vec![
            mark.to_owned(),
            finding.check.to_owned(),
            format!("{}{mend}", finding.message),
        ]
    });
    let head = ["RESULT", "CHECK", "FINDING"];
    output.table_keeping(head.len(), &head, rows.collect(), &findings.0);
    let failed = findings
        .0
        .iter()
        .any(|finding| finding.level == Level::Error);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The present configuration, or else that of the `patchbay dev` host that runs here.
fn configuration(file: Option<&Path>) -> Result<(Config, Option<DevState>), ConfigError> {
    let error = match Config::from_process(file) {
        Ok(config) => return Ok((config, None)),
        Err(error) => error,
    };
    let Some(dev) = DevState::find().filter(|dev| !dev.given.is_empty()) else {
        return Err(error);
    };
    Config::of_dev(file, dev.given.clone())
        .map(|config| (config, Some(dev)))
        .map_err(|_| error)
}

/// The servers of `patchbay dev` have no setting that could be corrected.
fn of_dev(finding: &mut Finding, dev: &DevState) {
    let (server, variable) = match finding.check {
        "redis" => ("Redis", "REDIS_URL"),
        "postgres" => ("Postgres", "DATABASE_URL"),
        _ => return,
    };
    let names_variable = |mend: &String| mend.contains(variable);
    if finding.mend.as_ref().is_some_and(names_variable) && dev.given.contains_key(variable) {
        finding.mend = Some(format!(
            "{server} of `patchbay dev` does not run. Stop `patchbay dev` with Ctrl-C if it runs, and start it again: it starts {server}, too. \
             Its data stays"
        ));
    }
}

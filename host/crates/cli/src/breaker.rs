//! `patchbay breaker …`

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::breakers::{
    BreakerOrder, BreakerView, BreakersClose, BreakersList, BreakersOpen,
};
use patchbay_api::operation::NoQuery;
use patchbay_model::words::counted;

use super::client::{Client, ClientArgs, Received};
use super::names;
use super::output::Output;

#[derive(Subcommand)]
pub enum BreakerCommand {
    /// List the outside hosts of active plugins, with their breakers in the answering host
    List,
    /// Open a breaker: refuse all calls of a plugin to a host until it is closed; jobs that need
    /// the host wait
    Open(OutsideHost),
    /// Close a breaker: let calls through again
    Close(OutsideHost),
}

#[derive(Args)]
pub struct OutsideHost {
    /// Name of the plugin
    #[arg(add = names::plugins())]
    plugin: String,
    /// Outside host as shown by `breaker list`, or any part that matches one host only
    host: String,
    /// Why, for the next operator and the audit trail
    #[arg(long)]
    reason: String,
}

impl From<OutsideHost> for Json<BreakerOrder> {
    fn from(
        OutsideHost {
            plugin,
            host,
            reason,
        }: OutsideHost,
    ) -> Self {
        Json(BreakerOrder {
            plugin,
            host,
            reason,
        })
    }
}

impl BreakerCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List)
    }
}

pub(crate) async fn run(
    command: BreakerCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        BreakerCommand::List => {
            let breakers = client.ask::<BreakersList>((), none, NoBody).await?;
            let rows = breakers.data.iter().map(|breaker| {
                vec![
                    breaker.plugin.to_string(),
                    breaker.host.clone(),
                    state(breaker),
                    failures(breaker),
                    breaker.opened_at.clone().unwrap_or_default(),
                    breaker.last_failure.clone().unwrap_or_default(),
                ]
            });
            output.table_keeping(
                2,
                &[
                    "PLUGIN",
                    "HOST",
                    "STATE",
                    "FAILURES",
                    "OPENED",
                    "LAST FAILURE",
                ],
                rows.collect(),
                &breakers.raw,
            );
            if breakers.data.is_empty() {
                output.note("No active plugin calls an outside host");
            }
        }
        BreakerCommand::Open(host) => tell(
            &client.ask::<BreakersOpen>((), none, host.into()).await?,
            output,
        ),
        BreakerCommand::Close(host) => tell(
            &client.ask::<BreakersClose>((), none, host.into()).await?,
            output,
        ),
    }
    Ok(())
}

fn tell(breaker: &Received<BreakerView>, output: Output) {
    let BreakerView {
        plugin,
        host,
        already,
        ..
    } = &breaker.data;
    let unchanged = match already {
        true => ". Nothing has changed: it was so already",
        false => "",
    };
    output.done(
        &format!(
            "{plugin} {host}: {}, on the host that answered{unchanged}",
            state(&breaker.data)
        ),
        &breaker.raw,
    );
}

pub(super) fn state(breaker: &BreakerView) -> String {
    match (&breaker.opened_by, breaker.probe_in_ms) {
        (Some(by), _) => format!(
            "open, by {by}: {}",
            breaker.reason.as_deref().unwrap_or_default()
        ),
        (None, Some(ms)) => match &breaker.next_try_at {
            Some(at) => format!("open, next try in {} s ({at})", ms.div_ceil(1_000)),
            None => format!("open, next try in {} s", ms.div_ceil(1_000)),
        },
        (None, None) if breaker.state == "half-open" => "half-open, the next call tries".into(),
        (None, None) => breaker.state.clone(),
    }
}

/// Failures that opened it, or that count towards opening.
fn failures(breaker: &BreakerView) -> String {
    match breaker.opened_after {
        Some(failures) => format!("opened after {}", counted(failures, "failure")),
        None if breaker.is_closed() => format!("{} of {}", breaker.failures, breaker.opens_at),
        None if breaker.opened_by.is_some() => "opened by an operator".to_owned(),
        // A host of the version before does not say it.
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn breaker(more: Value) -> BreakerView {
        let mut view = json!({ "plugin": "email", "host": "smtp://mail:587", "state": "closed", "failures": 2, "opensAt": 5,
            "withinMs": 30_000, "openMs": 15_000, "timesOpened": 0, "deferredJobs": 0 });
        for (name, value) in more.as_object().into_iter().flatten() {
            view[name] = value.clone();
        }
        serde_json::from_value(view).expect("a breaker")
    }

    #[test]
    fn failures_are_those_that_count_or_those_that_opened_it() {
        assert_eq!(failures(&breaker(json!({}))), "2 of 5");
        let open = breaker(
            json!({ "state": "open", "failures": 0, "openedAfter": 5, "probeInMs": 11_001, "nextTryAt": "2026-11-24T12:00:12Z" }),
        );
        assert_eq!(failures(&open), "opened after 5 failures");
        assert_eq!(
            state(&open),
            "open, next try in 12 s (2026-11-24T12:00:12Z)"
        );
        let held = json!({ "state": "open", "openedBy": "ada", "reason": "maintenance" });
        assert_eq!(failures(&breaker(held)), "opened by an operator");
    }
}

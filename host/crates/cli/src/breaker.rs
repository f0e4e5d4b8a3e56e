//! `patchbay breaker …`

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::breakers::{
    BreakerOrder, BreakerView, BreakersClose, BreakersList, BreakersOpen,
};
use patchbay_api::operation::NoQuery;

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
    /// Outside host as shown by `breaker list`, or a part that matches one host only
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
                    format!("{} of {}", breaker.failures, breaker.opens_at),
                    breaker.last_failure.clone().unwrap_or_default(),
                ]
            });
            output.table(
                &["PLUGIN", "HOST", "STATE", "FAILURES", "LAST FAILURE"],
                rows.collect(),
                &breakers.raw,
            );
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
    let BreakerView { plugin, host, .. } = &breaker.data;
    output.done(
        &format!(
            "{plugin} {host}: {}, on the host that answered",
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
        (None, Some(ms)) => format!("open for {} s more", ms.div_ceil(1_000)),
        (None, None) => breaker.state.clone(),
    }
}

//! `patchbay route …`

use clap::Subcommand;
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::routes::{RouteDetails, RouteParams, RouteView, RoutesList, RoutesShow};
use serde_json::Value;

use super::client::{Client, ClientArgs};
use super::names;
use super::output::Output;
use super::view::short;

#[derive(Subcommand)]
pub enum RouteCommand {
    /// List the routes of active plugins, on the answering host
    List,
    /// Show a route: who may call it, its limits and its schemas
    Show {
        /// Plugin and id of the route as shown by `route list`, such as crm.call-lead
        #[arg(add = names::routes())]
        route: String,
    },
}

impl RouteCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        true
    }
}

pub(crate) async fn run(
    command: RouteCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        RouteCommand::List => {
            let routes = client.ask::<RoutesList>((), none, NoBody).await?;
            output.table_or(
                "No plugin serves a route on this host",
                &["ROUTE", "METHOD", "PATH", "ACCESS", "STATE", "REVISION"],
                routes.data.iter().map(row).collect(),
                &routes.raw,
            );
            for route in &routes.data {
                if let Some(reason) = &route.reason {
                    output.note(&format!("{}: {}. {reason}", route.route, route.state));
                }
            }
        }
        RouteCommand::Show { route } => {
            let params = RouteParams { route };
            let route = client.ask::<RoutesShow>(params, none, NoBody).await?;
            output.value(&described(&route.data), &route.raw);
        }
    }
    Ok(())
}

fn row(route: &RouteView) -> Vec<String> {
    vec![
        route.route.clone(),
        route.method.clone(),
        route.path.clone(),
        route.access.clone(),
        route.state.clone(),
        short(&route.revision),
    ]
}

fn described(details: &RouteDetails) -> String {
    let RouteDetails { route, rate, .. } = details;
    let state = match &route.reason {
        Some(reason) => format!("{}: {reason}", route.state),
        None => route.state.clone(),
    };
    let takes_body = details
        .input
        .as_ref()
        .is_some_and(|input| !input["properties"]["body"].is_null());
    let body = match takes_body {
        true => format!(
            "{}, at most {} bytes",
            details.body_type, details.max_body_bytes
        ),
        false => "none".to_owned(),
    };
    let mut lines = vec![
        format!("{}  {} {}", route.route, route.method, route.path),
        format!("  state       {state}"),
        format!("  access      {}", route.access),
        format!(
            "  operation   {} of {}, revision {}",
            route.operation,
            route.plugin,
            short(&route.revision)
        ),
        format!(
            "  rate        {} in {} s by {}",
            rate.max,
            rate.per_ms / 1_000,
            rate.by
        ),
        format!("  body        {body}"),
        format!("  deadline    {} ms", details.deadline_ms),
        format!("  success     {}", details.success_status),
    ];
    let mut more = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            lines.push(format!("  {name:<11} {}", values.join(", ")));
        }
    };
    more(
        "statuses",
        details.statuses.iter().map(u16::to_string).collect(),
    );
    let most = details.max_concurrency.map(|most| most.to_string());
    more("at once", most.into_iter().collect());
    more("produces", details.produces.clone());
    more("keys", vec![details.idempotency.clone()]);
    more("cache", details.cache.iter().cloned().collect());
    more("cors", vec![details.cors.clone()]);
    more("audit", details.audit.iter().cloned().collect());
    more("takes", details.request_headers.clone());
    more("sets", details.response_headers.clone());
    for (name, schema) in [("input", &details.input), ("output", &details.output)] {
        let text = schema.as_ref().map(Value::to_string);
        lines.extend(text.map(|text| format!("  {name:<11} {text}")));
    }
    lines.join("\n")
}

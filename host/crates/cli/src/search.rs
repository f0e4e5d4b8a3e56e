//! `patchbay search …`

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use patchbay_api::path::{api_path, with_query};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, ClientArgs};
use super::input::duration;
use super::output::Output;
use super::refusal::Refusal;
use super::view::{items, text};

/// Of a message in a table, in characters.
const MESSAGE: usize = 60;

const EXAMPLES: &str = "\
Examples:
  patchbay search queue=emailQueue outcome=failed --since 2h
  patchbay search text='connection refused' code=smtp-451
  patchbay search data.lead.id=4711 --all --json
  patchbay search --state delayed queue=emailQueue name=send

Parts of a filter, all of which must hold:
  queue, job, name, from, to, outcome, verdict, code, text, data.<path>,
  plugin, revision, correlation-id, platform, dead-letter
With --state, of jobs in Redis: queue, job, name, from, to, code, text,
  data.<path>, correlation-id, platform";

/// Find finished attempts in the history, or jobs in Redis by their state.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct SearchArgs {
    #[command(subcommand)]
    command: Option<SearchCommand>,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    much: Much,
    /// Only count, within a second
    #[arg(long, conflicts_with_all = ["state", "all", "cursor"])]
    count: bool,
}

#[derive(Subcommand)]
enum SearchCommand {
    /// Save a search under a name, or change the one of that name
    Save {
        /// Its name
        name: String,
        #[command(flatten)]
        what: What,
    },
    /// List the saved searches
    Saved,
    /// Run a saved search
    Run {
        /// Which
        name: String,
        #[command(flatten)]
        much: Much,
    },
    /// Forget a saved search
    Forget {
        /// Which
        name: String,
    },
    /// Undo the last change of a saved search, also that it was forgotten
    Undo {
        /// Which
        name: String,
    },
}

/// What is looked for.
#[derive(Args)]
struct What {
    /// Parts of the filter; none means everything
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// No further back than 90s, 30m, 24h or 7d
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Jobs in Redis instead: waiting, prioritized, delayed, waiting-children, active, completed or failed
    #[arg(long)]
    state: Option<String>,
}

/// How much of it.
#[derive(Args)]
struct Much {
    /// At most so many, 1 to 200
    #[arg(long, default_value_t = 50)]
    limit: u16,
    /// All of them, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Behind the page whose end named this
    #[arg(long, conflicts_with = "all")]
    cursor: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example outcome=failed")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl What {
    /// Path and pairs of a search.
    fn query(&self) -> anyhow::Result<(String, Vec<(String, String)>)> {
        let mut pairs = self.filter.clone();
        if let Some(since) = self.since {
            if pairs.iter().any(|(key, _)| key == "from") {
                return Err(Refusal("--since and from= say the same: give one of them".into()).into());
            }
            let ago = TimeDelta::from_std(since).ok().and_then(|ago| Utc::now().checked_sub_signed(ago));
            let from = ago.ok_or_else(|| Refusal("--since: too long ago".into()))?;
            pairs.push(("from".into(), from.to_rfc3339_opts(SecondsFormat::Millis, true)));
        }
        let Some(state) = &self.state else { return Ok(("history/search".into(), pairs)) };
        let queue = pairs.iter().find(|(key, _)| key == "queue").map(|(_, queue)| queue.clone());
        let queue =
            queue.ok_or_else(|| Refusal("say which queue: queue=NAME; its jobs are looked at one by one".into()))?;
        pairs.push(("state".into(), state.clone()));
        Ok((api_path(&["queues", &queue, "search"]), pairs))
    }

    fn saved(&self) -> anyhow::Result<Value> {
        let mut filter = Map::new();
        for (key, value) in &self.filter {
            if filter.insert(key.clone(), value.clone().into()).is_some() {
                return Err(Refusal(format!("{key}: given twice")).into());
            }
        }
        let mut body = json!({ "filter": filter });
        if let Some(since) = self.since {
            body["sinceMs"] = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(state) = &self.state {
            body["state"] = state.clone().into();
        }
        Ok(body)
    }
}

pub(crate) async fn run(args: SearchArgs, client: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(client)?;
    let path = |name: &str| api_path(&["history", "searches", name]);
    match args.command {
        None if args.count => {
            let (_, pairs) = args.what.query()?;
            let count = client.call(Method::GET, &with_query("history/count", &pairs), None).await?;
            output.value(&counted(&count), &count);
        }
        None => {
            let (path, pairs) = args.what.query()?;
            show(&client, &path, pairs, &args.much, output).await?;
        }
        Some(SearchCommand::Save { name, what }) => {
            let saved = client.call(Method::PUT, &path(&name), Some(what.saved()?)).await?;
            output.value(&format!("{name} is saved: patchbay search run {name:?}"), &saved);
        }
        Some(SearchCommand::Saved) => {
            let saved = client.call(Method::GET, "history/searches", None).await?;
            let rows = items(&saved)
                .map(|row| vec![text(row, "name"), text(row, "changedBy"), text(row, "changedAt"), described(row)]);
            output.table(&["NAME", "BY", "CHANGED", "SEARCH"], rows.collect(), &saved);
        }
        Some(SearchCommand::Run { name, much }) => {
            show(&client, &format!("{}/run", path(&name)), Vec::new(), &much, output).await?;
        }
        Some(SearchCommand::Forget { name }) => {
            client.call(Method::DELETE, &path(&name), None).await?;
            output.value(
                &format!("{name} is forgotten; patchbay search undo {name:?} brings it back"),
                &json!({ "name": name }),
            );
        }
        Some(SearchCommand::Undo { name }) => {
            let search = client.call(Method::POST, &format!("{}/undo", path(&name)), None).await?;
            let now =
                if search.is_null() { "is forgotten".into() } else { format!("is again: {}", described(&search)) };
            output.value(&format!("{name} {now}"), &search);
        }
    }
    Ok(())
}

async fn show(
    client: &Client,
    path: &str,
    mut pairs: Vec<(String, String)>,
    much: &Much,
    output: Output,
) -> anyhow::Result<()> {
    let limit = if much.all { 200 } else { much.limit };
    pairs.push(("limit".into(), limit.to_string()));
    if let Some(cursor) = &much.cursor {
        pairs.push(("cursor".into(), cursor.clone()));
    }
    let path = with_query(path, &pairs);
    let page = match much.all {
        true => json!({ "data": client.all(&path).await? }),
        false => client.page(&path).await?,
    };
    let found = &page["data"];
    let rows: Vec<_> = items(found).map(row).collect();
    if rows.is_empty() && !output.json {
        println!("nothing was found");
    }
    let of_attempts = items(found).all(|row| row["finishedAt"].is_string());
    let head: &[&str] = if of_attempts {
        &["FINISHED", "QUEUE", "JOB", "NAME", "OUTCOME", "CODE", "MESSAGE"]
    } else {
        &["MADE", "ENDED", "JOB", "NAME", "STATE", "ATTEMPTS", "FAILURE"]
    };
    if output.json || !rows.is_empty() {
        output.table(head, rows, if much.all { found } else { &page });
    }
    if let (false, Some(cursor)) = (output.json, page["nextCursor"].as_str()) {
        let why = if page["partial"] == true { "not all was looked at, time ran out" } else { "there may be more" };
        println!("{why}: --cursor {cursor}");
    }
    Ok(())
}

fn row(found: &Value) -> Vec<String> {
    let cut = |name: &str| found[name].as_str().unwrap_or("-").chars().take(MESSAGE).collect::<String>();
    if found["finishedAt"].is_string() {
        let columns = ["finishedAt", "queue", "jobId", "name", "outcome"].map(|name| text(found, name));
        return columns.into_iter().chain([cut("code"), cut("message").replace('\n', " ")]).collect();
    }
    let attempts = found["attemptsMade"].to_string();
    let mut row = vec![at(&found["timestamp"]), at(&found["finishedOn"])];
    row.extend(["id", "name", "state"].map(|name| text(found, name)));
    row.extend([attempts, cut("failedReason").replace('\n', " ")]);
    row
}

/// Unix milliseconds as a time.
fn at(ms: &Value) -> String {
    let time = ms.as_i64().and_then(DateTime::from_timestamp_millis);
    time.map_or("-".into(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A saved search as it would be written.
fn described(saved: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(state) = saved["state"].as_str() {
        parts.push(format!("--state {state}"));
    }
    if let Some(ms) = saved["sinceMs"].as_u64() {
        let seconds = ms / 1_000;
        let (unit, name) = [(86_400, "d"), (3_600, "h"), (60, "m")]
            .into_iter()
            .find(|(unit, _)| seconds > *unit && seconds % unit == 0)
            .unwrap_or((1, "s"));
        parts.push(format!("--since {}{name}", seconds / unit));
    }
    let filter = saved["filter"].as_object().into_iter().flatten();
    parts.extend(filter.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())));
    if parts.is_empty() { "everything".into() } else { parts.join(" ") }
}

fn counted(count: &Value) -> String {
    let number = |name: &str| count[name].as_u64().unwrap_or(0);
    let found = format!("{} jobs, {} attempts", number("jobs"), number("attempts"));
    match count["exact"].as_bool() {
        Some(true) => found,
        _ => format!("at least {found}; by Postgres's estimate {} attempts", number("estimate")),
    }
}

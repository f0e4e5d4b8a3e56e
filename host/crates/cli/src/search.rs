//! `patchbay search …`

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use patchbay_api::answer::List;
use patchbay_api::body::NoBody;
use patchbay_api::jobs::{QueuesLive, SearchJobs};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::queues::QueuePath;
use patchbay_api::searches::{
    Count, CountHistory, Found, HistoryAttempts, HistoryCount, RunSearch, SavedSearch,
    SearchHistory, SearchPath, SearchesForget, SearchesList, SearchesRun, SearchesSave,
    SearchesUndo,
};
use patchbay_model::job::JobState;
use patchbay_model::shell::{arguments, word};
use patchbay_model::words::counted as counted_rows;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::client::{Client, ClientArgs, ReceivedPage};
use super::input::{duration, in_units, point_in_time};
use super::names;
use super::output::{More, Output, csv, shortened};
use super::paging::Paging;
use super::refusal::{Refusal, Why};

/// Names and values of a query.
type Pairs = Vec<(String, String)>;

/// Maximum length of a message in a table, in characters.
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
    what: SearchFilter,
    #[command(flatten)]
    much: Paging,
    /// Only count the matches, within a second
    #[arg(long, conflicts_with_all = ["state", "all", "cursor"])]
    count: bool,
    /// Print all matches as comma-separated values
    #[arg(long, conflicts_with_all = ["count", "limit", "cursor"])]
    csv: bool,
}

#[derive(Subcommand)]
enum SearchCommand {
    /// Save a search under a name, or replace the search with that name
    Save {
        /// Name of the search
        #[arg(add = names::searches())]
        name: String,
        #[command(flatten)]
        what: SearchFilter,
        #[command(flatten)]
        why: Why,
    },
    /// List the saved searches
    Saved,
    /// Run a saved search
    Run {
        /// Name of the search
        #[arg(add = names::searches())]
        name: String,
        #[command(flatten)]
        much: Paging,
        /// Print all matches as comma-separated values
        #[arg(long, conflicts_with_all = ["limit", "cursor"])]
        csv: bool,
    },
    /// Delete a saved search
    Forget {
        /// Name of the search
        #[arg(add = names::searches())]
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Undo the last change or deletion of a saved search
    Undo {
        /// Name of the search
        #[arg(add = names::searches())]
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(Args)]
struct SearchFilter {
    /// Filters that must all match; none: everything
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// Ended at this time or later: an age such as 90s, 30m, 24h or 7d, or a time such as
    /// 2026-11-24T00:00:00Z
    #[arg(long, value_parser = moment)]
    since: Option<Moment>,
    /// Ended before this time, in the same forms
    #[arg(long, value_parser = moment)]
    until: Option<Moment>,
    /// Search jobs in Redis in this state instead: waiting, prioritized, delayed, waiting-children,
    /// active, completed or failed
    #[arg(long)]
    state: Option<String>,
}

/// Where a search begins or ends. A saved search keeps an age as an age.
#[derive(Clone)]
enum Moment {
    Age(Duration),
    Time(DateTime<Utc>),
}

fn moment(text: &str) -> Result<Moment, String> {
    match duration(text) {
        Ok(age) => Ok(Moment::Age(age)),
        Err(_) => point_in_time(text).map(Moment::Time),
    }
}

fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("must be KEY=VALUE, for example outcome=failed")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl SearchFilter {
    /// The queue if jobs in Redis are searched, and the query.
    fn query(&self) -> anyhow::Result<(Option<String>, Pairs)> {
        let mut pairs = self.with_times()?;
        let now = Utc::now();
        for (option, name, moment) in self.moments() {
            if let Some(Moment::Age(age)) = moment {
                let ago = TimeDelta::from_std(*age).ok();
                let at = ago.and_then(|ago| now.checked_sub_signed(ago));
                let at = at.ok_or_else(|| Refusal(format!("{option}: too long ago")))?;
                pairs.push((name.into(), written(at)));
            }
        }
        let Some(state) = &self.state else {
            return Ok((None, pairs));
        };
        let queue = pairs
            .iter()
            .find(|(key, _)| key == "queue")
            .map(|(_, queue)| queue.clone());
        let queue = queue.ok_or_else(|| Refusal("--state needs a queue. Add queue=NAME".into()))?;
        pairs.push(("state".into(), state.clone()));
        Ok((Some(queue), pairs))
    }

    /// The options that limit the time, and what they are in the filter.
    fn moments(&self) -> [(&'static str, &'static str, Option<&Moment>); 2] {
        [
            ("--since", "from", self.since.as_ref()),
            ("--until", "to", self.until.as_ref()),
        ]
    }

    /// The filter with the times of --since and --until, but for ages.
    fn with_times(&self) -> Result<Pairs, Refusal> {
        let mut pairs = self.filter.clone();
        for (option, name, moment) in self.moments() {
            if moment.is_some() && pairs.iter().any(|(key, _)| key == name) {
                return Err(Refusal(format!(
                    "{option} and {name}= cannot be given together"
                )));
            }
            if let Some(Moment::Time(at)) = moment {
                pairs.push((name.into(), written(*at)));
            }
        }
        Ok(pairs)
    }

    /// The body that saves the search. It is sent as written, so that the host reports errors in
    /// it.
    fn saved(&self) -> anyhow::Result<Value> {
        let mut filter = Map::new();
        for (key, value) in &self.with_times()? {
            if filter.insert(key.clone(), value.clone().into()).is_some() {
                return Err(Refusal(format!("{key}: given twice")).into());
            }
        }
        let mut body = json!({ "filter": filter });
        for (name, moment) in [("sinceMs", &self.since), ("untilMs", &self.until)] {
            if let Some(Moment::Age(age)) = moment {
                body[name] = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).into();
            }
        }
        if let Some(state) = &self.state {
            body["state"] = state.clone().into();
        }
        Ok(body)
    }
}

impl SearchArgs {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self.command,
            None | Some(SearchCommand::Saved | SearchCommand::Run { .. })
        )
    }

    fn why(&self) -> Why {
        match &self.command {
            Some(
                SearchCommand::Save { why, .. }
                | SearchCommand::Forget { why, .. }
                | SearchCommand::Undo { why, .. },
            ) => why.clone(),
            None | Some(SearchCommand::Saved | SearchCommand::Run { .. }) => Why::default(),
        }
    }
}

pub(crate) async fn run(
    args: SearchArgs,
    client: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(client)?.because(&args.why());
    let none = NoQuery {};
    let (much, output) = whole(args.much, args.csv, output);
    match args.command {
        None if args.count => {
            let (_, pairs) = args.what.query()?;
            let count = client
                .ask::<HistoryCount>((), CountHistory(pairs), NoBody)
                .await?;
            output.value(&counted(&count.data), &count.raw);
        }
        None => match args.what.query()? {
            (None, pairs) => {
                let found = |attempt| Found::Attempt(Box::new(attempt));
                let how = (&much, args.csv);
                show::<HistoryAttempts, _>(&client, (), pairs, SearchHistory, how, found, output)
                    .await?;
            }
            (Some(queue), pairs) => {
                let path = QueuePath { queue };
                show::<QueuesLive, _>(
                    &client,
                    path,
                    pairs,
                    SearchJobs,
                    (&much, args.csv),
                    Found::Job,
                    output,
                )
                .await?;
            }
        },
        Some(SearchCommand::Save { name, what, .. }) => {
            let path = SearchPath { name: name.clone() };
            let saved = client
                .ask_as_written::<SearchesSave>(path, &what.saved()?)
                .await?;
            output.done(
                &format!(
                    "Saved: {name}. Run it: patchbay search run {}",
                    arguments(&[&name])
                ),
                &saved.raw,
            );
        }
        Some(SearchCommand::Saved) => {
            let saved = client.ask::<SearchesList>((), none, NoBody).await?;
            let rows = saved.data.iter().map(|saved| {
                let search =
                    described(&saved.filter, saved.state, [saved.since_ms, saved.until_ms]);
                vec![
                    saved.name.clone(),
                    saved.changed_by.clone(),
                    output.when(saved.changed_at),
                    search,
                ]
            });
            output.table_or(
                "No saved searches. Save one: patchbay search save NAME KEY=VALUE",
                &["NAME", "BY", "CHANGED", "SEARCH"],
                rows.collect(),
                &saved.raw,
            );
        }
        Some(SearchCommand::Run { name, much, csv }) => {
            let (much, output) = whole(much, csv, output);
            let found = |found| found;
            show::<SearchesRun, _>(
                &client,
                SearchPath { name },
                Vec::new(),
                RunSearch,
                (&much, csv),
                found,
                output,
            )
            .await?;
        }
        Some(SearchCommand::Forget { name, .. }) => {
            client
                .ask::<SearchesForget>(SearchPath { name: name.clone() }, none, NoBody)
                .await?;
            output.done(
                &format!(
                    "Deleted: {name}. Undo: patchbay search undo {}",
                    arguments(&[&name])
                ),
                &json!({ "name": name }),
            );
        }
        Some(SearchCommand::Undo { name, .. }) => {
            let undone = client
                .ask::<SearchesUndo>(SearchPath { name: name.clone() }, none, NoBody)
                .await?;
            let now = match undone.data.0 {
                None => "is deleted".to_owned(),
                Some(SavedSearch {
                    filter,
                    state,
                    since_ms,
                    until_ms,
                }) => {
                    let ages = [since_ms, until_ms];
                    format!("is again: {}", described(&filter.into(), state, ages))
                }
            };
            output.value(&format!("{name} {now}"), &undone.raw);
        }
    }
    Ok(())
}

/// With --csv: every row, with exact times.
fn whole(mut much: Paging, csv: bool, mut output: Output) -> (Paging, Output) {
    if csv {
        much.all = true;
        output.wide = true;
    }
    (much, output)
}

async fn show<E, T>(
    client: &Client,
    path: E::Path,
    pairs: Pairs,
    query: impl Fn(Pairs) -> E::Query,
    (much, is_csv): (&Paging, bool),
    found: impl Fn(T) -> Found,
    output: Output,
) -> anyhow::Result<()>
where
    E: Endpoint<Body = NoBody, Answer = List<T>>,
    T: ToSchema + Serialize + DeserializeOwned + 'static,
{
    let page_of = |limit: u16, cursor: Option<String>| {
        let mut pairs = pairs.clone();
        pairs.push(("limit".into(), limit.to_string()));
        pairs.extend(cursor.map(|cursor| ("cursor".into(), cursor)));
        query(pairs)
    };
    let page = much.ask::<E, T>(client, &path, page_of).await?;
    page.note("result", output);
    let ReceivedPage {
        items,
        next_cursor,
        partial,
        raw,
    } = page;
    let found: Vec<Found> = items.into_iter().map(found).collect();
    if is_csv {
        let head: Vec<String> = head(&found)
            .iter()
            .map(|name| name.to_lowercase())
            .collect();
        let head = head.iter().map(String::as_str);
        return Ok(csv(head, found.iter().map(|found| row(found, output)))?);
    }
    let rows: Vec<_> = match output.quiet {
        true => found.iter().map(named).collect(),
        false => found.iter().map(|found| row(found, output)).collect(),
    };
    let head = head(&found);
    let more = More {
        next_cursor: next_cursor.as_deref(),
        partial,
    };
    if output.json || !rows.is_empty() {
        output.list(head, &[], rows, &raw, &more);
    }
    Ok(())
}

fn head(found: &[Found]) -> &'static [&'static str] {
    match found.iter().all(|found| matches!(found, Found::Attempt(_))) {
        true => &[
            "FINISHED", "QUEUE", "JOB", "NAME", "OUTCOME", "CODE", "MESSAGE",
        ],
        false => &[
            "MADE", "ENDED", "JOB", "NAME", "STATE", "ATTEMPTS", "FAILURE",
        ],
    }
}

/// What `--quiet` prints: the queue and the id, as other commands take them; of the jobs of one
/// queue, only the id.
fn named(found: &Found) -> Vec<String> {
    vec![match found {
        Found::Attempt(found) => arguments(&[found.queue.as_str(), found.job_id.as_str()]),
        Found::Job(found) => arguments(&[found.id.as_str()]),
    }]
}

fn row(found: &Found, output: Output) -> Vec<String> {
    let cut = |text: &Option<String>| shortened(text.as_deref().unwrap_or("-"), MESSAGE);
    match found {
        Found::Attempt(found) => {
            let attempt = &found.attempt;
            let head = [
                output.when(attempt.finished_at),
                found.queue.clone(),
                found.job_id.clone(),
                attempt.name.clone(),
            ];
            let tail = [
                attempt.outcome.clone(),
                cut(&attempt.code),
                cut(&attempt.message).replace('\n', " "),
            ];
            head.into_iter().chain(tail).collect()
        }
        Found::Job(job) => {
            let head = [
                at(job.timestamp),
                at(job.finished_on),
                job.id.clone(),
                job.name.clone(),
                job.state.to_string(),
            ];
            let tail = [
                job.attempts_made.to_string(),
                cut(&job.failed_reason).replace('\n', " "),
            ];
            head.into_iter().chain(tail).collect()
        }
    }
}

/// Formats Unix milliseconds as a time.
fn at(ms: Option<u64>) -> String {
    let time = ms
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(DateTime::from_timestamp_millis);
    time.map_or("-".into(), |time| {
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    })
}

/// A saved search in the syntax of the command line.
fn described(
    filter: &BTreeMap<String, String>,
    state: Option<JobState>,
    [since_ms, until_ms]: [Option<u64>; 2],
) -> String {
    let mut parts = Vec::new();
    if let Some(state) = state {
        parts.push(format!("--state {state}"));
    }
    for (option, ms) in [("--since", since_ms), ("--until", until_ms)] {
        parts.extend(ms.map(|ms| format!("{option} {}", in_units(ms / 1_000))));
    }
    parts.extend(
        filter
            .iter()
            .map(|(key, value)| word(&format!("{key}={value}")).into_owned()),
    );
    if parts.is_empty() {
        "everything".into()
    } else {
        parts.join(" ")
    }
}

fn counted(count: &Count) -> String {
    let found = format!(
        "{}, {}",
        counted_rows(count.jobs, "job"),
        counted_rows(count.attempts, "attempt")
    );
    match count.exact {
        true => found,
        false => {
            let estimate = count.estimate.unwrap_or(0);
            format!("at least {found}; by Postgres's estimate {estimate} attempts")
        }
    }
}

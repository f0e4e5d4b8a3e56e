//! `patchbay webhook …` and `patchbay inbox …`

mod many;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use patchbay_api::body::NoBody;
use patchbay_api::inbox::{
    InboxCountView, InboxDetails, InboxErase, InboxItem, InboxList, InboxPath, InboxReplay,
    InboxShow, InboxStats, InboxVerdict, InboxVerify, ListInbox, ReplayInbox, VerifyInbox,
    WebhookDetails, WebhookPath, WebhookView, WebhooksList, WebhooksShow,
};
use patchbay_api::inbox_many::InboxMany;
use patchbay_api::operation::NoQuery;
use patchbay_api::reveal::Reveal;
use patchbay_model::webhook::InboxState;
use patchbay_model::words;
use uuid::Uuid;

use self::many::{erase_many, replay_many, verify_many};
use super::client::{Client, ClientArgs, Received};
use super::input::point_in_time;
use super::names;
use super::output::Output;
use super::paging::Paging;
use super::refusal::{Consent, Refusal, Why};
use super::view::short;

#[derive(Subcommand)]
pub enum WebhookCommand {
    /// List the webhooks that plugins have, and how each stands
    List,
    /// Show a webhook: its path for the vendor, limits, and requests of the last 24 hours
    Show {
        /// Plugin and name of the webhook as shown by `webhook list`, such as crm.status
        #[arg(add = names::webhooks())]
        webhook: String,
    },
}

#[derive(Subcommand)]
pub enum InboxCommand {
    /// List requests to webhooks, the newest first
    List(Box<ListArgs>),
    /// Show a request: what became of it and why, its jobs, its content
    Show {
        /// Id of the request as shown by `inbox list`
        id: Uuid,
        /// Also show hidden values; that is recorded
        #[arg(long)]
        reveal: bool,
        /// Why, for the record; no personal data
        #[arg(long, requires = "reveal", value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Judge requests again, at their original time; nothing is changed without --apply
    Verify {
        #[command(flatten)]
        which: Box<Which>,
        /// Accept a rejected or deferred request that is the vendor's, and add its jobs
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Process requests: judge them again, and add their jobs
    Replay {
        #[command(flatten)]
        which: Box<Which>,
        /// Also those whose jobs were added before; effects may happen twice
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Erase the content of requests for good; their events stay known
    Erase {
        #[command(flatten)]
        which: Box<Which>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Count requests by webhook and state, and those of the last 24 hours by outcome
    Stats,
}

/// Which requests: one, several, or those of a filter.
#[derive(Args)]
pub struct Which {
    /// Ids of requests as shown by `inbox list`
    #[arg(required_unless_present_any = ["webhook", "state", "code", "kind", "source", "after", "before"])]
    ids: Vec<Uuid>,
    /// Only of this webhook, such as crm.status, or of all webhooks of this plugin
    #[arg(long, add = names::webhooks())]
    webhook: Option<String>,
    /// Only in this state
    #[arg(long)]
    state: Option<State>,
    /// Only with this code of a rejection, or of why it could not be judged
    #[arg(long)]
    code: Option<String>,
    /// Only of this kind, as the plugin names it
    #[arg(long)]
    kind: Option<String>,
    /// Only from this network, as the list shows it
    #[arg(long, value_name = "NETWORK")]
    source: Option<String>,
    /// Only from this time on: 2h for two hours ago, or 2026-12-01T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    after: Option<DateTime<Utc>>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    before: Option<DateTime<Utc>>,
    /// Only show which requests are meant
    #[arg(long)]
    dry_run: bool,
}

impl Which {
    /// The only request, if there is no filter and no preview is wanted.
    fn one(&self) -> Option<Uuid> {
        let is_filtered = self.webhook.is_some()
            || self.state.is_some()
            || self.code.is_some()
            || self.kind.is_some()
            || self.source.is_some()
            || self.after.is_some()
            || self.before.is_some();
        match self.ids.as_slice() {
            [id] if !is_filtered && !self.dry_run => Some(*id),
            _ => None,
        }
    }

    fn asked(self) -> InboxMany {
        InboxMany {
            ids: self.ids,
            webhook: self.webhook,
            state: self.state.map(Into::into),
            code: self.code,
            kind: self.kind,
            source: self.source,
            after: self.after,
            before: self.before,
            ..InboxMany::default()
        }
    }
}

#[derive(Args)]
pub struct ListArgs {
    /// Only of this webhook, such as crm.status, or of all webhooks of this plugin
    #[arg(long, add = names::webhooks())]
    webhook: Option<String>,
    /// Only in this state
    #[arg(long)]
    state: Option<State>,
    /// Only with this code of a rejection, or of why it could not be judged
    #[arg(long)]
    code: Option<String>,
    /// Only of this kind, as the plugin names it
    #[arg(long)]
    kind: Option<String>,
    /// Only the event with this id, as the plugin names it; rejected and deferred requests have none yet
    #[arg(long, value_name = "ID", requires = "webhook")]
    event: Option<String>,
    /// Only from this network, as the list shows it
    #[arg(long, value_name = "NETWORK")]
    source: Option<String>,
    /// Only with this value in what was sent, at a path that the webhook's manifest declares searchable
    #[arg(long, value_name = "PATH=VALUE", value_parser = path_and_value)]
    data: Option<(String, String)>,
    /// Only from this time on: 2h for two hours ago, or 2026-12-01T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    after: Option<DateTime<Utc>>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    before: Option<DateTime<Utc>>,
    #[command(flatten)]
    paging: Paging,
}

fn path_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() && !value.is_empty() => {
            Ok((path.to_owned(), value.to_owned()))
        }
        _ => Err("write PATH=VALUE, such as customer.id=42".into()),
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum State {
    /// Its jobs are not in the queue yet
    Accepted,
    /// Its jobs are in the queue
    Enqueued,
    /// Accepted, and it has no jobs
    Recorded,
    /// It could not be judged, and waits until it can
    Deferred,
    /// It is not the vendor's
    Rejected,
    /// Another request has brought its event
    Repeat,
    /// Its content is gone
    Erased,
}

impl From<State> for InboxState {
    fn from(state: State) -> Self {
        match state {
            State::Accepted => Self::Accepted,
            State::Enqueued => Self::Enqueued,
            State::Recorded => Self::Recorded,
            State::Deferred => Self::Deferred,
            State::Rejected => Self::Rejected,
            State::Repeat => Self::Repeat,
            State::Erased => Self::Erased,
        }
    }
}

impl WebhookCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        true
    }
}

impl InboxCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        match self {
            Self::List(_) | Self::Stats => true,
            Self::Show { reveal, .. } => !reveal,
            Self::Verify { .. } | Self::Replay { .. } | Self::Erase { .. } => false,
        }
    }

    fn why(&self) -> Why {
        match self {
            Self::Verify { consent, .. }
            | Self::Replay { consent, .. }
            | Self::Erase { consent, .. } => consent.why.clone(),
            Self::List(_) | Self::Show { .. } | Self::Stats => Why::default(),
        }
    }
}

pub(crate) async fn run_webhook(
    command: WebhookCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let none = NoQuery {};
    match command {
        WebhookCommand::List => {
            let webhooks = client.ask::<WebhooksList>((), none, NoBody).await?;
            output.table_or(
                "No plugin has a webhook. See: patchbay plugin list",
                &[
                    "WEBHOOK",
                    "METHOD",
                    "PATH",
                    "CHECK",
                    "STATE",
                    "LAST ACCEPTED",
                    "DEFERRED",
                    "REJECTED",
                ],
                webhooks
                    .data
                    .iter()
                    .map(|webhook| row(webhook, output))
                    .collect(),
                &webhooks.raw,
            );
        }
        WebhookCommand::Show { webhook } => {
            let path = WebhookPath { webhook };
            let webhook = client.ask::<WebhooksShow>(path, none, NoBody).await?;
            output.value(&described(&webhook.data, output), &webhook.raw);
        }
    }
    Ok(())
}

fn row(webhook: &WebhookView, output: Output) -> Vec<String> {
    vec![
        webhook.webhook.clone(),
        webhook.methods.join(","),
        webhook.path.clone(),
        webhook.check.clone(),
        webhook.state.clone(),
        when(webhook.last_accepted_at, output),
        webhook.deferred.to_string(),
        webhook.rejected.to_string(),
    ]
}

fn when(at: Option<DateTime<Utc>>, output: Output) -> String {
    at.map_or_else(|| "never".to_owned(), |at| output.when(at))
}

fn described(details: &WebhookDetails, output: Output) -> String {
    let WebhookDetails { webhook, .. } = details;
    let state = match &details.reason {
        Some(reason) => format!("{}: {reason}", webhook.state),
        None => webhook.state.clone(),
    };
    let check = details.check_details.as_deref();
    let check = check.unwrap_or("none: only the plugin judges");
    let mut lines = vec![
        format!(
            "{}  {} {}",
            webhook.webhook,
            webhook.methods.join(","),
            webhook.path
        ),
        format!("  state       {state}"),
        format!("  check       {check}"),
        format!(
            "  judges      {}, revision {}",
            webhook.plugin,
            short(&webhook.revision)
        ),
        format!("  jobs        in {}", webhook.queue),
        format!("  success     {}", details.success_status),
        format!("  body        at most {} bytes", details.max_body_bytes),
        format!("  vendor      waits {} ms", details.ack_ms),
        format!("  unavailable {}", details.when_unavailable),
        format!(
            "  kept        {} days, events known for {} days",
            details.retention_days, details.dedupe_days
        ),
        format!(
            "  accepted    last {}",
            when(webhook.last_accepted_at, output)
        ),
    ];
    if !details.content_types.is_empty() {
        lines.push(format!(
            "  takes       {}",
            details.content_types.join(", ")
        ));
    }
    if !details.searchable.is_empty() {
        lines.push(format!(
            "  found by    {}: patchbay inbox list --data PATH=VALUE",
            details.searchable.join(", ")
        ));
    }
    if let Some(oldest) = details.oldest_accepted_at {
        lines.push(format!(
            "  to enqueue  {}, the oldest {}",
            webhook.accepted,
            output.when(oldest)
        ));
    }
    if let Some(oldest) = details.oldest_deferred_at {
        lines.push(format!(
            "  deferred    {}, the oldest {}: patchbay inbox list --webhook {} --state deferred",
            webhook.deferred,
            output.when(oldest),
            webhook.webhook
        ));
    }
    if webhook.rejected > 0 {
        lines.push(format!(
            "  rejected    {}: patchbay inbox list --webhook {} --state rejected",
            webhook.rejected, webhook.webhook
        ));
    }
    lines.extend(
        details
            .last_day
            .iter()
            .map(|count| format!("  last day    {}", counted(count))),
    );
    lines.join("\n")
}

fn counted(count: &InboxCountView) -> String {
    let code = match count.code.is_empty() {
        true => String::new(),
        false => format!(" ({})", count.code),
    };
    format!("{} {}{code}", count.count, count.outcome)
}

/// Fails where there is no such request.
async fn found(id: &Uuid, client: &Client) -> anyhow::Result<()> {
    let path = InboxPath { id: id.to_string() };
    client
        .ask::<InboxShow>(path, Reveal::default(), NoBody)
        .await?;
    Ok(())
}

pub(crate) async fn run(
    command: InboxCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    match command {
        InboxCommand::List(args) => list(*args, &client, output).await?,
        InboxCommand::Show { id, reveal, reason } => {
            let asked = Reveal { reveal, reason };
            let shown = client
                .ask::<InboxShow>(InboxPath { id: id.to_string() }, asked, NoBody)
                .await?;
            output.value(&whole(&shown.data, output), &shown.raw);
        }
        InboxCommand::Verify {
            which,
            apply,
            consent,
        } => {
            let Some(id) = which.one() else {
                return verify_many(*which, apply, &consent, &client, output).await;
            };
            let query = VerifyInbox { apply };
            let verdict = client
                .ask::<InboxVerify>(InboxPath { id: id.to_string() }, query, NoBody)
                .await?;
            say(&verdict, output);
            if apply {
                refuse_rejected(&verdict.data)?;
            }
            if !apply && verdict.data.verdict == "accepted" && !is_accepted(verdict.data.state) {
                output.note(&format!(
                    "Nothing was changed. To accept it: patchbay inbox verify {id} --apply"
                ));
            }
        }
        InboxCommand::Replay {
            which,
            again,
            consent,
        } => {
            let Some(id) = which.one() else {
                return replay_many(*which, again, &consent, &client, output).await;
            };
            if again && consent.is_missing() {
                found(&id, &client).await?;
                consent.ask("This processes the request once more; effects may happen twice")?;
            }
            let query = ReplayInbox { again };
            let verdict = client
                .ask::<InboxReplay>(InboxPath { id: id.to_string() }, query, NoBody)
                .await?;
            say(&verdict, output);
            refuse_rejected(&verdict.data)?;
        }
        InboxCommand::Erase { which, consent } => {
            let Some(id) = which.one() else {
                return erase_many(*which, &consent, &client, output).await;
            };
            if consent.is_missing() {
                found(&id, &client).await?;
                consent.ask("This erases the content of the request for good")?;
            }
            let erased = client
                .ask::<InboxErase>(InboxPath { id: id.to_string() }, NoQuery {}, NoBody)
                .await?;
            output.done(
                &format!("Erased: {id}. Its jobs are not: patchbay history erase"),
                &erased.raw,
            );
        }
        InboxCommand::Stats => {
            let stats = client.ask::<InboxStats>((), NoQuery {}, NoBody).await?;
            let mut lines: Vec<String> = stats
                .data
                .kept
                .iter()
                .map(|kept| {
                    format!(
                        "{}  {} {}, the newest {}",
                        kept.webhook,
                        kept.count,
                        kept.state,
                        when(kept.newest, output)
                    )
                })
                .collect();
            lines.extend(stats.data.last_day.iter().map(|count| {
                format!("{}  {} in the last 24 hours", count.webhook, counted(count))
            }));
            if lines.is_empty() {
                lines.push("The inbox is empty".into());
            }
            output.value(&lines.join("\n"), &stats.raw);
        }
    }
    Ok(())
}

fn is_accepted(state: InboxState) -> bool {
    state.is_accepted()
}

async fn list(args: ListArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let (data_path, data_value) = args.data.clone().unzip();
    let query = |limit, cursor| ListInbox {
        data_path: data_path.clone(),
        data_value: data_value.clone(),
        webhook: args.webhook.clone(),
        state: args.state.map(Into::into),
        code: args.code.clone(),
        kind: args.kind.clone(),
        event_id: args.event.clone(),
        source: args.source.clone(),
        after: args.after,
        before: args.before,
        cursor,
        limit: Some(limit),
    };
    let page = args
        .paging
        .ask::<InboxList, InboxItem>(client, &(), query)
        .await?;
    let rows = page.items.iter().map(|item| {
        vec![
            item.id.to_string(),
            output.when(item.received_at),
            item.webhook.clone(),
            item.state.to_string(),
            item.code.clone().unwrap_or_default(),
            item.kind.clone(),
            item.source.clone().unwrap_or_default(),
            item.jobs.to_string(),
            item.size.to_string(),
        ]
    });
    let head = ["ID", "RECEIVED", "WEBHOOK", "STATE", "CODE", "KIND"];
    let wide = ["SOURCE", "JOBS", "BYTES"];
    output.list(&head, &wide, rows.collect(), &page.raw, &page.more());
    page.note("request", output);
    Ok(())
}

/// For scripts: exit code 4.
fn refuse_rejected(verdict: &InboxVerdict) -> anyhow::Result<()> {
    match verdict.verdict.as_str() {
        "rejected" => Err(Refusal("The request is still rejected".into()).into()),
        _ => Ok(()),
    }
}

fn say(verdict: &Received<InboxVerdict>, output: Output) {
    let InboxVerdict {
        id,
        verdict: said,
        code,
        message,
        jobs,
        state,
        applied,
    } = &verdict.data;
    let why = match (code, message) {
        (Some(code), Some(message)) => format!(" ({code}): {message}"),
        _ => format!(
            ", with {}",
            words::counted(u64::try_from(*jobs).unwrap_or_default(), "job")
        ),
    };
    let end = match (applied, said.as_str() == "accepted" && !is_accepted(*state)) {
        (true, _) if *state == InboxState::Repeat => {
            "Another request has brought its event, so no job is added. Its state is repeat now"
                .to_owned()
        }
        (true, _) => format!("Its state is {state} now"),
        (false, true) => format!("It would be accepted; its state is still {state}"),
        (false, false) => format!("Its state is still {state}"),
    };
    output.done(&format!("{id}  {said}{why}. {end}"), &verdict.raw);
}

fn whole(details: &InboxDetails, output: Output) -> String {
    let item = &details.item;
    let mut lines = vec![
        format!("{}  {}  {}", item.id, item.webhook, item.state),
        format!(
            "  received    {} by {}",
            output.when(item.received_at),
            details.host
        ),
        format!(
            "  request     {} {} bytes {}",
            item.method,
            item.size,
            item.content_type.as_deref().unwrap_or_default()
        ),
    ];
    let mut more = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("  {name:<11} {value}")));
    };
    more(
        "why",
        item.code.clone().map(|code| match &item.message {
            Some(message) => format!("{code}: {message}"),
            None => code,
        }),
    );
    more(
        "kind",
        Some(item.kind.clone()).filter(|kind| !kind.is_empty()),
    );
    more("source", item.source.clone());
    more("judged by", item.revision.as_deref().map(short));
    more(
        "next try",
        item.next_try_at
            .map(|at| format!("{}, tried {} times", output.when(at), details.tries)),
    );
    more(
        "first",
        details
            .first
            .map(|id| format!("{id} has brought the event")),
    );
    more(
        "repeats",
        (details.repeats > 0).then(|| {
            format!(
                "{}, the last {}",
                details.repeats,
                when(details.last_repeat_at, output)
            )
        }),
    );
    more(
        "jobs",
        (!details.job_ids.is_empty()).then(|| details.job_ids.join(" ")),
    );
    more(
        "earlier",
        (!details.earlier_job_ids.is_empty()).then(|| details.earlier_job_ids.join(" ")),
    );
    more(
        "correlation",
        Some(item.correlation_id.clone()).filter(|id| !id.is_empty()),
    );
    more("content", details.unavailable.clone());
    for replay in &details.replays {
        more(
            "processed",
            Some(format!(
                "again ({}) {} by {}, {} jobs",
                replay.number,
                output.when(replay.at),
                replay.by,
                replay.jobs
            )),
        );
    }
    if let Some(content) = &details.content {
        more("event id", content.event_id.clone());
        more(
            "address",
            Some(content.address.clone()).filter(|address| !address.is_empty()),
        );
        let query = match content.query.is_empty() {
            true => String::new(),
            false => format!("?{}", content.query),
        };
        lines.push(String::new());
        lines.push(format!("{} {}{query}", item.method, content.path));
        lines.extend(
            content
                .headers
                .iter()
                .map(|header| format!("{}: {}", header.name, header.value)),
        );
        lines.push(String::new());
        lines.push(content.body.clone());
        if content.is_redacted {
            lines.push("Values are hidden. --reveal shows them; that is recorded".into());
        }
    }
    lines.join("\n")
}

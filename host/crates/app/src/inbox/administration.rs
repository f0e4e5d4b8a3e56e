//! What operators see of the inbox, and do with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_api::answer::Page;
use patchbay_api::inbox::{
    InboxCountView, InboxDetails, InboxErase, InboxItem, InboxReplay, InboxReplayView, InboxShow,
    InboxStandingView, InboxStatistics, InboxVerdict, InboxVerify, ListInbox, ReplayInbox,
    VerifyInbox, WebhookDetails, WebhookView,
};
use patchbay_api::reveal::Reveal;
use patchbay_model::DataPath;
use patchbay_model::data_path::MAX_VALUE_BYTES;
use patchbay_model::job::Trace;
use patchbay_model::manifest::{WebhookCheck, WhenUnavailable};
use patchbay_model::webhook::InboxState;
use patchbay_store::{
    EventKey, InboxCounted, InboxFilter, InboxRequest, InboxRow, Judgement, NewReplay, Settled,
};
use serde_json::json;
use uuid::Uuid;

use super::event;
use super::judging::{Asked, Judged};
use super::receive::jobs_to_bytes;
use super::seal::Part;
use super::writer::Enqueuing;
use super::{Inbox, Kept, check, view};
use crate::Caller;
use crate::error::{Error, Kind};
use crate::nearest::suggesting;
use crate::plugins::Webhook;
use crate::reveal;

const DEFAULT_PAGE: u16 = 50;
const LARGEST_PAGE: u16 = 200;

impl Inbox {
    /// Every webhook of this host, by plugin and then as in its manifest.
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>, Error> {
        let table = self.parts.plugins.route_table();
        if table.webhooks().is_empty() {
            return Ok(Vec::new());
        }
        let standing = self.parts.standing().await?;
        let webhooks = table.webhooks().iter();
        Ok(webhooks.map(|webhook| shown(webhook, &standing)).collect())
    }

    /// One webhook, by its name on this host.
    pub async fn webhook(&self, name: &str) -> Result<WebhookDetails, Error> {
        let webhook = self.find(name)?;
        let standing = self.parts.standing().await?;
        let counted = self.last_day().await?;
        let spec = &webhook.spec;
        let oldest = |state| {
            let of_webhook = standing_of(&webhook, &standing, state);
            of_webhook.and_then(|kept| kept.standing.oldest)
        };
        Ok(WebhookDetails {
            webhook: shown(&webhook, &standing),
            reason: webhook.runner.reason(),
            check_details: spec.check.as_ref().map(check::described),
            secret: spec.check.as_ref().map(|check| check.secret().to_owned()),
            success_status: spec.success_status,
            content_types: spec.content_types.clone(),
            max_body_bytes: spec.max_body_bytes,
            ack_ms: spec.ack_ms,
            when_unavailable: match spec.when_unavailable {
                WhenUnavailable::Accept => "accept".into(),
                WhenUnavailable::Refuse => "refuse".into(),
            },
            searchable: spec.searchable.iter().map(ToString::to_string).collect(),
            dedupe_days: spec.dedupe_days,
            retention_days: spec.retention_days,
            oldest_deferred_at: oldest(InboxState::Deferred),
            oldest_accepted_at: oldest(InboxState::Accepted),
            last_day: counted
                .into_iter()
                .filter(|count| count.webhook == webhook.name())
                .collect(),
        })
    }

    fn find(&self, name: &str) -> Result<Arc<Webhook>, Error> {
        let table = self.parts.plugins.route_table();
        let mut webhooks = table.webhooks().iter();
        if let Some(webhook) = webhooks.find(|webhook| webhook.name() == name) {
            return Ok(Arc::clone(webhook));
        }
        let names: Vec<String> = table.webhooks().iter().map(|known| known.name()).collect();
        let message =
            format!("No plugin has the webhook {name} on this host. See: patchbay webhook list");
        let message = suggesting(message, name, names.iter().map(String::as_str));
        Err(Error::not_found(message))
    }

    /// Whether there is such a webhook, or a plugin that has some.
    fn is_known(&self, name: &str) -> Result<(), Error> {
        if name.contains('.') {
            return self.find(name).map(drop);
        }
        let table = self.parts.plugins.route_table();
        let plugins = || table.webhooks().iter().map(|known| known.plugin.as_str());
        if plugins().any(|plugin| plugin == name) {
            return Ok(());
        }
        let message =
            format!("No plugin {name} has a webhook on this host. See: patchbay webhook list");
        Err(Error::not_found(suggesting(message, name, plugins())))
    }

    pub async fn list(&self, asked: ListInbox) -> Result<Page<InboxItem>, Error> {
        let limit = asked.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let message = format!("limit: must be from 1 to {LARGEST_PAGE}, not {limit}");
            return Err(Error::invalid(message));
        }
        let (plugin, webhook) = named(asked.webhook.as_deref());
        let is_first = asked.cursor.is_none();
        let event_keys = match (&asked.event_id, &plugin, &webhook) {
            (None, _, _) => None,
            (Some(id), Some(plugin), Some(webhook)) => {
                let key = self.parts.key_of_id(plugin, webhook, id).await?;
                Some(vec![key.to_vec()])
            }
            (Some(_), _, _) => {
                let message = "eventId: also name the webhook, such as webhook=crm.status";
                return Err(Error::invalid(message));
            }
        };
        let terms = match (asked.data_path, asked.data_value) {
            (None, None) => Vec::new(),
            (Some(path), Some(value)) => vec![
                self.term(&path, &value, plugin.as_deref(), webhook.as_deref())
                    .await?,
            ],
            _ => {
                let message = "dataPath and dataValue belong together: give both";
                return Err(Error::invalid(message));
            }
        };
        let filter = InboxFilter {
            plugin,
            webhook,
            terms,
            state: asked.state,
            code: asked.code,
            kind: asked.kind,
            source: asked.source,
            event_keys,
            after: asked.after,
            before: asked.before,
            cursor: asked.cursor.as_deref().map(cursor).transpose()?,
        };
        let mut rows = self
            .parts
            .store
            .inbox(&filter, i64::from(limit) + 1)
            .await?;
        // Rows of a webhook outlive it. Of one that never was, nobody should read that nothing comes.
        if let Some(name) = asked
            .webhook
            .as_deref()
            .filter(|_| rows.is_empty() && is_first)
        {
            self.is_known(name)?;
        }
        let goes_on = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = rows
            .last()
            .filter(|_| goes_on)
            .map(|row| format!("{}-{}", row.received_at.timestamp_micros(), row.id.simple()));
        Ok(Page {
            items: rows.into_iter().map(item).collect(),
            next_cursor,
            partial: false,
        })
    }

    /// What requests with this value are found by.
    async fn term(
        &self,
        path: &str,
        value: &str,
        plugin: Option<&str>,
        webhook: Option<&str>,
    ) -> Result<EventKey, Error> {
        if value.is_empty() || value.len() > MAX_VALUE_BYTES {
            let message = format!("dataValue: must have 1 to {MAX_VALUE_BYTES} bytes");
            return Err(Error::invalid(message));
        }
        let table = self.parts.plugins.route_table();
        let paths: BTreeSet<&DataPath> = table
            .webhooks()
            .iter()
            .filter(|of| plugin.is_none_or(|plugin| of.plugin.as_str() == plugin))
            .filter(|of| webhook.is_none_or(|webhook| of.spec.name == webhook))
            .flat_map(|of| &of.spec.searchable)
            .collect();
        let Some(path) = paths.iter().find(|known| known.as_str() == path) else {
            let known: Vec<&str> = paths.iter().map(|path| path.as_str()).collect();
            let known = match known.as_slice() {
                [] => "no path is (in plugin.toml: searchable = [\"customer.id\"] in [[webhooks]])"
                    .into(),
                known => format!("searchable paths: {}", known.join(", ")),
            };
            return Err(Error::invalid(format!(
                "dataPath: no such webhook on this host declares it searchable; {known}"
            )));
        };
        Ok(self.parts.event_keys().await?.term(path, value))
    }

    pub async fn stats(&self) -> Result<InboxStatistics, Error> {
        let standing = self.parts.standing().await?;
        Ok(InboxStatistics {
            kept: standing
                .into_iter()
                .map(|Kept { standing, rows }| InboxStandingView {
                    webhook: format!("{}.{}", standing.plugin, standing.webhook),
                    state: standing.state,
                    count: rows,
                    oldest: standing.oldest,
                    newest: standing.newest,
                })
                .collect(),
            last_day: self.last_day().await?,
        })
    }

    async fn last_day(&self) -> Result<Vec<InboxCountView>, Error> {
        let since = Utc::now() - TimeDelta::days(1);
        let counted = self.parts.store.inbox_counted(since).await?;
        let view = |counted: InboxCounted| InboxCountView {
            webhook: format!("{}.{}", counted.plugin, counted.webhook),
            outcome: counted.outcome,
            code: counted.code,
            count: counted.count,
        };
        Ok(counted.into_iter().map(view).collect())
    }

    /// One request with its content. A reveal is recorded.
    pub async fn show(&self, who: &Caller, id: &str, asked: Reveal) -> Result<InboxDetails, Error> {
        reveal::check(&asked)?;
        let id = known(id)?;
        let shown = self.details(id, asked.reveal);
        if !asked.reveal {
            return shown.await;
        }
        let details = reveal::details(&asked);
        self.actions
            .record_as::<InboxShow, _>(who, &id.to_string(), details, shown, |_| json!({}))
            .await
    }

    async fn details(&self, id: Uuid, reveal: bool) -> Result<InboxDetails, Error> {
        let parts = &self.parts;
        let row = self.row(id).await?;
        let request = self.request(id).await?;
        let content = match request.sealed {
            Some(_) => parts.content(&request).await?,
            None => None,
        };
        let unavailable = match (&content, row.state) {
            (Some(_), _) => None,
            (None, InboxState::Erased) => Some("It was erased".to_owned()),
            (None, _) => Some(unopened(&request)),
        };
        let webhook = self.find(&name_of(&row)).ok();
        let repeats = match &row.event_key {
            Some(key) => parts.store.inbox_repeats(key).await?,
            None => None,
        };
        let (first, repeats, last_repeat_at) = match repeats {
            Some((first, repeats, last)) => (Some(first), repeats, last),
            None => (None, 0, None),
        };
        let replays = parts.store.inbox_replays(id).await?;
        let spec = webhook.as_ref().map(|webhook| &webhook.spec);
        Ok(InboxDetails {
            host: row.host.clone(),
            via: row.via.clone(),
            verified_at: row.verified_at,
            tries: row.tries,
            repeats,
            last_repeat_at,
            first: first.filter(|first| *first != id),
            job_ids: request
                .event_key
                .filter(|_| row.jobs > 0)
                .map(|key| event::job_ids(&key, row.processing, row.jobs))
                .unwrap_or_default(),
            earlier_job_ids: replays
                .iter()
                .rev()
                .filter_map(|replay| {
                    let key = request.event_key?;
                    let jobs = replay.jobs_before?;
                    Some(event::job_ids(&key, replay.number - 1, jobs))
                })
                .flatten()
                .collect(),
            unavailable,
            content: content.map(|content| view::content(&content, spec, reveal)),
            replays: replays
                .into_iter()
                .map(|replay| InboxReplayView {
                    number: replay.number,
                    by: replay.by,
                    reason: replay.reason,
                    at: replay.at,
                    revision: replay.revision,
                    jobs: replay.jobs,
                })
                .collect(),
            item: item(row),
        })
    }

    /// Judges a request again. Without `apply`, nothing is changed.
    pub async fn verify(
        &self,
        who: &Caller,
        id: &str,
        asked: VerifyInbox,
    ) -> Result<InboxVerdict, Error> {
        let id = known(id)?;
        let details = json!({ "apply": asked.apply });
        let act = async {
            let (webhook, request) = self.judgeable(id).await?;
            self.first(&webhook, &request, asked.apply).await
        };
        self.actions
            .record_as::<InboxVerify, _>(who, &id.to_string(), details, act, recorded)
            .await
    }

    /// Processes a request: the first time, or with `again` once more.
    pub async fn replay(
        &self,
        who: &Caller,
        id: &str,
        asked: ReplayInbox,
    ) -> Result<InboxVerdict, Error> {
        let id = known(id)?;
        let details = json!({ "again": asked.again });
        let act = async {
            let (webhook, request) = self.judgeable(id).await?;
            match request.state {
                InboxState::Deferred | InboxState::Rejected => {
                    self.first(&webhook, &request, true).await
                }
                InboxState::Enqueued | InboxState::Recorded if !asked.again => {
                    let message = "Its jobs were added before; effects may happen twice. To process it once more, send again=true (patchbay inbox replay ID --again). Nothing was done";
                    Err(Error::conflict(message))
                }
                InboxState::Enqueued | InboxState::Recorded => {
                    self.again(who, &webhook, &request).await
                }
                InboxState::Repeat => Err(Error::conflict(
                    "Another request has brought its event: replay that one (patchbay inbox show ID names it). Nothing was done",
                )),
                InboxState::Accepted | InboxState::Erased => Err(Error::conflict(
                    "Its jobs are being added. Nothing was done",
                )),
            }
        };
        self.actions
            .record_as::<InboxReplay, _>(who, &id.to_string(), details, act, recorded)
            .await
    }

    /// Erases the content of a request.
    pub async fn erase(&self, who: &Caller, id: &str) -> Result<InboxItem, Error> {
        let id = known(id)?;
        let act = async {
            match self.parts.store.erase_from_inbox(id).await? {
                None => Err(unknown(id)),
                Some(InboxState::Accepted) => Err(Error::conflict(
                    "Its jobs are being added: erase it again in a few seconds. Nothing was done",
                )),
                Some(_) => Ok(item(self.row(id).await?)),
            }
        };
        self.actions
            .record_as::<InboxErase, _>(
                who,
                &id.to_string(),
                json!({}),
                act,
                |item| json!({ "webhook": item.webhook }),
            )
            .await
    }

    /// Judges one that was not accepted yet.
    pub(super) async fn first(
        &self,
        webhook: &Webhook,
        request: &InboxRequest,
        apply: bool,
    ) -> Result<InboxVerdict, Error> {
        let parts = &self.parts;
        let (judgement, jobs) = parts.judgement(webhook, request).await?;
        let (verdict, code, message) = match &judgement {
            Judgement::Accepted { .. } => ("accepted", None, None),
            Judgement::Rejected { code, message, .. } => ("rejected", Some(code), Some(message)),
            Judgement::Unjudged { code, message, .. } => ("deferred", Some(code), Some(message)),
        };
        let said = InboxVerdict {
            id: request.id,
            verdict: verdict.into(),
            code: code.cloned(),
            message: message.cloned(),
            jobs: i32::try_from(jobs.len()).unwrap_or(i32::MAX),
            state: request.state,
            applied: false,
        };
        let is_open = matches!(request.state, InboxState::Deferred | InboxState::Rejected);
        // A verdict changes nothing of one that was accepted before.
        if !apply || !is_open {
            return Ok(said);
        }
        match parts.apply(webhook, request, &judgement, jobs).await? {
            Settled::State(state) => Ok(InboxVerdict {
                state,
                applied: state != request.state,
                ..said
            }),
            Settled::Changed => Err(Error::conflict(
                "Somebody else has changed the request meanwhile. Look at it again: patchbay inbox show ID",
            )),
        }
    }

    pub(super) async fn again(
        &self,
        who: &Caller,
        webhook: &Webhook,
        request: &InboxRequest,
    ) -> Result<InboxVerdict, Error> {
        let parts = &self.parts;
        let Some(content) = parts.content(request).await? else {
            return Err(Error::conflict(unopened(request)));
        };
        let trace = Trace {
            correlation_id: Some(request.correlation_id.clone()),
            platform: content.platform.clone(),
            traceparent: None,
        };
        let number = request.processing + 1;
        let checked = parts.check(webhook, &content.request);
        let judged = parts
            .judge(
                webhook,
                &content,
                checked,
                Asked::Again(u32::try_from(number).unwrap_or_default()),
                &trace,
            )
            .await?;
        let said = |verdict: &str, code: Option<String>, message: Option<String>| InboxVerdict {
            id: request.id,
            verdict: verdict.into(),
            code,
            message,
            jobs: 0,
            state: request.state,
            applied: false,
        };
        let accepted = match judged {
            Judged::Accepted(accepted) => accepted,
            Judged::Rejected(rejected) => {
                return Ok(said(
                    "rejected",
                    Some(rejected.code),
                    Some(rejected.message),
                ));
            }
            Judged::Unjudged { code, message, .. } => {
                return Ok(said("deferred", Some(code.into()), Some(message)));
            }
        };
        let jobs = i32::try_from(accepted.jobs.len()).unwrap_or(i32::MAX);
        let jobs_sealed = match accepted.jobs.is_empty() {
            true => None,
            false => {
                let bytes = jobs_to_bytes(&accepted.jobs);
                Some(parts.seal_with(request, Part::Jobs, &bytes).await?)
            }
        };
        let revision = webhook.digest.to_string();
        let replay = NewReplay {
            inbox_id: request.id,
            number,
            by: &who.actor,
            reason: who.reason.as_deref(),
            revision: &revision,
            jobs,
            jobs_sealed,
        };
        if !parts.store.begin_replay(&replay).await? {
            return Err(Error::conflict(
                "Somebody else has changed the request meanwhile. Look at it again: patchbay inbox show ID",
            ));
        }
        let state = match accepted.jobs.is_empty() {
            true => InboxState::Recorded,
            false => {
                parts.writer.enqueue(Enqueuing {
                    id: request.id,
                    made_ms: u64::try_from(request.received_at.timestamp_millis())
                        .unwrap_or_default(),
                    jobs: accepted.jobs,
                });
                InboxState::Accepted
            }
        };
        Ok(InboxVerdict {
            jobs,
            state,
            applied: true,
            ..said("accepted", None, None)
        })
    }

    /// A request that can be judged, and what judges it.
    pub(super) async fn judgeable(&self, id: Uuid) -> Result<(Arc<Webhook>, InboxRequest), Error> {
        let request = self.request(id).await?;
        if request.sealed.is_none() {
            let message = "The content of this request is erased: nothing can be judged or processed any more";
            return Err(Error::new(Kind::Gone, "erased", message));
        }
        let name = format!("{}.{}", request.plugin, request.webhook);
        let webhook = self.find(&name).map_err(|_| {
            let message = format!(
                "{name} is not a webhook of an active plugin on this host. See: patchbay plugin status {}",
                request.plugin
            );
            Error::conflict(message)
        })?;
        Ok((webhook, request))
    }

    async fn row(&self, id: Uuid) -> Result<InboxRow, Error> {
        let row = self.parts.store.inbox_row(id).await?;
        row.ok_or_else(|| unknown(id))
    }

    async fn request(&self, id: Uuid) -> Result<InboxRequest, Error> {
        let request = self.parts.store.inbox_request(id).await?;
        request.ok_or_else(|| unknown(id))
    }
}

/// What is no id is the id of no request.
fn known(id: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(id).map_err(|_| unknown(id))
}

fn unknown(id: impl std::fmt::Display) -> Error {
    Error::not_found(format!(
        "There is no request {id} in the inbox: it never came, or it was removed because its retention time is over. See: patchbay inbox list"
    ))
}

fn unopened(request: &InboxRequest) -> String {
    format!(
        "Its content cannot be opened: it is sealed with the key {}, which no configured master key opens. Set secrets.old_key_file to the previous master key, then run patchbay secret rekey",
        request.sealed_key
    )
}

/// What the record has of a verdict. The message may come from the plugin, and is left out.
fn recorded(verdict: &InboxVerdict) -> serde_json::Value {
    json!({
        "verdict": verdict.verdict, "code": verdict.code, "jobs": verdict.jobs, "state": verdict.state,
        "applied": verdict.applied,
    })
}

pub(super) fn cursor(text: &str) -> Result<(DateTime<Utc>, Uuid), Error> {
    let parsed = text.split_once('-').and_then(|(at, id)| {
        let at = DateTime::from_timestamp_micros(at.parse().ok()?)?;
        Some((at, Uuid::try_parse(id).ok()?))
    });
    parsed.ok_or_else(|| Error::invalid("cursor: must be nextCursor of the page before"))
}

/// Plugin and webhook of a filter such as `crm.status`, or `crm`: names of plugins have no points.
pub(super) fn named(name: Option<&str>) -> (Option<String>, Option<String>) {
    match name.map(|name| (name, name.split_once('.'))) {
        Some((_, Some((plugin, webhook)))) => (Some(plugin.to_owned()), Some(webhook.to_owned())),
        Some((plugin, None)) => (Some(plugin.to_owned()), None),
        None => (None, None),
    }
}

fn name_of(row: &InboxRow) -> String {
    format!("{}.{}", row.plugin, row.webhook)
}

pub(super) fn item(row: InboxRow) -> InboxItem {
    InboxItem {
        webhook: name_of(&row),
        id: row.id,
        received_at: row.received_at,
        state: row.state,
        code: row.code,
        message: row.message,
        kind: row.kind,
        method: row.method,
        content_type: row.content_type,
        size: row.size,
        source: row.source,
        jobs: row.jobs,
        revision: row.revision,
        correlation_id: row.correlation_id,
        next_try_at: row.next_try_at,
        keep_until: row.keep_until,
    }
}

fn standing_of<'a>(webhook: &Webhook, standing: &'a [Kept], state: InboxState) -> Option<&'a Kept> {
    standing.iter().find(|Kept { standing: of, .. }| {
        of.plugin == webhook.plugin.as_str() && of.webhook == webhook.spec.name && of.state == state
    })
}

fn shown(webhook: &Webhook, standing: &[Kept]) -> WebhookView {
    let spec = &webhook.spec;
    let count = |state| standing_of(webhook, standing, state).map_or(0, |of| of.rows);
    let accepted = InboxState::ALL
        .into_iter()
        .filter(|state| state.is_accepted());
    WebhookView {
        webhook: webhook.name(),
        plugin: webhook.plugin.to_string(),
        methods: spec.method_names().map(str::to_owned).collect(),
        path: spec.path.to_string(),
        queue: spec.queue.to_string(),
        check: match &spec.check {
            None => "none",
            Some(WebhookCheck::Token(_)) => "token",
            Some(WebhookCheck::Hmac(_)) => "hmac",
        }
        .into(),
        revision: webhook.digest.to_string(),
        state: webhook.runner.state().to_owned(),
        last_accepted_at: accepted
            .filter_map(|state| standing_of(webhook, standing, state)?.standing.newest)
            .max(),
        accepted: count(InboxState::Accepted),
        deferred: count(InboxState::Deferred),
        rejected: count(InboxState::Rejected),
    }
}

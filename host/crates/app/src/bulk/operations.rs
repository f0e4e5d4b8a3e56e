//! Use cases of bulk operations.

use std::sync::Arc;

use patchbay_api::answer::Page;
use patchbay_api::bulk::{
    Bulk, BulkBegun, BulkCancel, BulkDetails, BulkIdentity, BulkItem, BulkKind, BulkPreview,
    BulkReason, BulkRequest, BulkResume, BulkSource, BulkUndo, ListBulkItems, ListBulks,
    ResumeBulk,
};
use patchbay_api::operation::Endpoint;
use patchbay_model::filter::Filter;
use patchbay_queue::Broker;
use patchbay_store::{BulkRow, NewBulk, Store, StoreError};
use serde_json::{Value, json};

use super::edit::{Edits, Paths};
use super::{BulkJobs, Plan, Show, plan_of};
use crate::actions::{Actions, Caller};
use crate::dead_letters::unknown_group;
use crate::error::Error;
use crate::plugins::Plugins;
use crate::queues::Catalog;
use crate::{Parts, redacted};

/// Default number of operations or items of a page.
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
const ITEM_STATES: [&str; 7] = [
    "pending",
    "done",
    "skipped",
    "failed",
    "restored",
    "lost",
    "not-undone",
];

#[derive(Clone)]
pub struct BulkOperations {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
    bulks: Arc<BulkJobs>,
    actions: Actions,
    catalog: Catalog,
}

impl BulkOperations {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            plugins: Arc::clone(&parts.plugins),
            bulks: Arc::clone(&parts.bulks),
            actions: parts.actions.clone(),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
        }
    }

    /// Begins an operation, or previews it.
    pub async fn begin(&self, who: &Caller, request: BulkRequest) -> Result<BulkBegun, Error> {
        let plan = plan_of(&request).map_err(Error::invalid)?;
        if let Some(what) = asks_for_data(&plan, &request) {
            who.operator.refuse_data(what)?;
        }
        if let Some(queue) = &plan.filter.queue {
            self.catalog.refuse_unknown(queue).await?;
        }
        let mut queue = plan.filter.queue.as_ref().map(ToString::to_string);
        if let Some(id) = plan.filter.dead_letter {
            let prefix = self.broker.prefix();
            let group = match self.store.dead_letter(prefix, id).await {
                Ok(group) => group,
                Err(error) => {
                    return Err(unknown_group(&self.store, prefix, id, error.into()).await);
                }
            };
            queue.get_or_insert(group.queue);
        }
        if request.dry_run {
            return Ok(BulkBegun::Preview(
                self.preview(who, &plan, &request).await?,
            ));
        }
        match plan.kind {
            BulkKind::EditAndRetry => {
                who.confirmed("replaces the data of every job that matches")?
            }
            // A removal can be undone for an hour.
            BulkKind::Remove | BulkKind::Retry | BulkKind::EnqueueAgain => {}
        }
        let id = self.store.next_bulk_id().await?;
        let act = async {
            let row = self
                .store
                .begin_bulk(&self.new_bulk(&who.actor, id, &plan, &request)?)
                .await?;
            self.bulks.changed();
            Ok::<_, Error>(BulkBegun::Bulk(Box::new(self.view(row))))
        };
        let (action, target) = (format!("bulk.{}", plan.kind.as_str()), format!("bulk/{id}"));
        // Record the number of its row only: the row has the filter, whose values may be personal.
        let numbered = |_: &BulkBegun| json!({ "bulk": id });
        self.actions
            .record_action(
                who,
                &action,
                &target,
                details(&plan, &request, queue),
                act,
                numbered,
            )
            .await
    }

    async fn preview(
        &self,
        who: &Caller,
        plan: &Plan,
        request: &BulkRequest,
    ) -> Result<BulkPreview, Error> {
        let show = Show {
            data: request.with_data,
            hidden_values: request.reveal,
        };
        let preview = async { Ok::<_, Error>(self.bulks.preview(plan, show).await?) };
        if !show.hidden_values {
            return preview.await;
        }
        let named = |preview: &BulkPreview| {
            let jobs = preview
                .sample
                .iter()
                .map(|job| format!("{}/{}", job.queue, job.id))
                .collect::<Vec<_>>();
            json!({ "jobs": jobs })
        };
        let details = json!({ "reason": request.reason });
        self.actions
            .record_action(who, "bulk.reveal", "preview", details, preview, named)
            .await
    }

    /// Newest first.
    pub async fn list(&self, part: ListBulks) -> Result<Page<Bulk>, Error> {
        let (before, limit) = page_of(part.cursor, part.limit)?;
        let mut rows = self
            .store
            .bulks(self.broker.prefix(), before, limit as i64 + 1)
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
        Ok(Page {
            items: rows.into_iter().map(|row| self.view(row)).collect(),
            next_cursor,
            partial: false,
        })
    }

    pub async fn show(&self, id: i64) -> Result<BulkDetails, Error> {
        let row = self.store.bulk(self.broker.prefix(), id).await?;
        // Where Redis does not answer, the operation is shown all the same.
        let nothing_to_undo = match self.bulks.why_nothing_to_undo(&row).await {
            Ok(Some(refusal)) if row.done > 0 => Some(refusal.message),
            _ => None,
        };
        let mut bulk = self.view(row);
        if nothing_to_undo.is_some() {
            bulk.undo_until = None;
        }
        let reasons = self.store.bulk_reasons(id).await?.into_iter();
        let reasons = reasons.map(|row| BulkReason {
            state: row.state,
            reason: row.reason,
            jobs: row.jobs,
        });
        Ok(BulkDetails {
            bulk,
            reasons: reasons.collect(),
            nothing_to_undo: nothing_to_undo.map(|why| {
                let prefix = "Nothing was undone: ";
                why.strip_prefix(prefix).unwrap_or(&why).to_owned()
            }),
        })
    }

    pub async fn items(&self, id: i64, which: ListBulkItems) -> Result<Page<BulkItem>, Error> {
        let (behind, limit) = page_of(which.cursor, which.limit)?;
        let state = which.state.as_deref();
        if state.is_some_and(|state| !ITEM_STATES.contains(&state)) {
            return Err(Error::invalid(format!(
                "state: must be one of {}",
                ITEM_STATES.join(", ")
            )));
        }
        self.store.bulk(self.broker.prefix(), id).await?;
        let mut rows = self
            .store
            .bulk_items(id, state, behind.unwrap_or(0), limit as i64 + 1)
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| row.n.to_string());
        Ok(Page {
            items: rows.into_iter().map(item_view).collect(),
            next_cursor,
            partial: false,
        })
    }

    pub async fn cancel(&self, who: &Caller, id: i64) -> Result<Bulk, Error> {
        let act = async { Ok(self.store.cancel_bulk(self.broker.prefix(), id).await?) };
        let details = self.details_of(id).await?;
        self.change::<BulkCancel>(who, id, details, act).await
    }

    pub async fn resume(
        &self,
        who: &Caller,
        id: i64,
        ResumeBulk { first }: ResumeBulk,
    ) -> Result<Bulk, Error> {
        if first == Some(0) {
            return Err(Error::invalid("first: must be 1 or more"));
        }
        let act = async {
            let row = self
                .store
                .resume_bulk(self.broker.prefix(), id, first.map(i64::from))
                .await?;
            self.bulks.changed();
            Ok(row)
        };
        let mut details = self.details_of(id).await?;
        details["first"] = json!(first);
        self.change::<BulkResume>(who, id, details, act).await
    }

    /// Refuses where it would put nothing back.
    pub async fn undo(&self, who: &Caller, id: i64) -> Result<Bulk, Error> {
        let act = async {
            let row = self.store.bulk(self.broker.prefix(), id).await?;
            if let Some(refusal) = self.bulks.why_nothing_to_undo(&row).await? {
                return Err(refusal);
            }
            let row = self.store.undo_bulk(self.broker.prefix(), id).await?;
            self.bulks.changed();
            Ok(row)
        };
        let details = self.details_of(id).await?;
        self.change::<BulkUndo>(who, id, details, act).await
    }

    /// What is recorded of a change of this operation: the record of a queue includes it.
    async fn details_of(&self, id: i64) -> Result<Value, Error> {
        let row = match self.store.bulk(self.broker.prefix(), id).await {
            // The change is refused, and recorded so.
            Err(StoreError::NotFound(_)) => return Ok(json!({})),
            row => row?,
        };
        let filter: Filter = serde_json::from_value(row.filter).unwrap_or_default();
        let mut details = json!({ "kind": row.kind, "filter": filter.without_data() });
        if let Some(group) = filter.dead_letter
            && let Ok(group) = self.store.dead_letter(self.broker.prefix(), group).await
        {
            details["queue"] = group.queue.into();
        }
        Ok(details)
    }

    async fn change<E: Endpoint>(
        &self,
        who: &Caller,
        id: i64,
        details: Value,
        act: impl Future<Output = Result<BulkRow, Error>>,
    ) -> Result<Bulk, Error> {
        let act = async { Ok(self.view(act.await?)) };
        let numbered = |_: &Bulk| json!({ "bulk": id });
        self.actions
            .record_as::<E, _>(who, &format!("bulk/{id}"), details, act, numbered)
            .await
    }

    fn new_bulk<'a>(
        &'a self,
        actor: &'a str,
        id: i64,
        plan: &Plan,
        request: &'a BulkRequest,
    ) -> Result<NewBulk<'a>, Error> {
        let edits = plan
            .edits
            .as_ref()
            .map(Edits::to_row)
            .transpose()
            .map_err(|_| Error::internal())?;
        Ok(NewBulk {
            id,
            prefix: self.broker.prefix(),
            kind: plan.kind.as_str(),
            source: match plan.source {
                BulkSource::Live => "live",
                BulkSource::History => "history",
            },
            job_state: plan.state.to_string(),
            filter: json!(plan.filter),
            identity: plan.key.map(|key| match key {
                BulkIdentity::Keep => "keep",
                BulkIdentity::New => "new",
            }),
            edits,
            actor,
            reason: request.reason.as_deref(),
            stop_after: request.first.map(i64::from),
        })
    }

    /// Hidden values of job data are redacted.
    fn view(&self, mut row: BulkRow) -> Bulk {
        if let Ok(filter) = serde_json::from_value::<Filter>(row.filter.clone()) {
            let redaction = self.plugins.redaction_of(filter.queue.as_ref());
            row.filter = json!(redacted::filter(filter, &redaction));
        }
        Bulk {
            id: row.id,
            kind: row.kind,
            source: row.source,
            job_state: row.job_state,
            filter: serde_json::from_value(row.filter).unwrap_or_default(),
            identity: row.identity,
            actor: row.actor,
            reason: row.reason,
            state: row.state,
            stop_after: row.stop_after,
            error: row.error,
            matched: row.matched,
            done: row.done,
            skipped: row.skipped,
            failed: row.failed,
            restored: row.restored,
            created_at: row.created_at,
            ended_at: row.ended_at,
            // What has changed nothing cannot be undone.
            undo_until: row.undo_until.filter(|_| row.done > 0),
        }
    }
}

/// What in a request shows data of jobs, or tells something of it; `None`: nothing.
fn asks_for_data(plan: &Plan, request: &BulkRequest) -> Option<&'static str> {
    if plan.kind == BulkKind::EditAndRetry {
        return Some("this replaces it");
    }
    if request.with_data || request.reveal {
        return Some("withData and reveal show it");
    }
    if plan.filter.text.is_some() {
        return Some(
            "text compares messages of failures, which may quote it: filter by code instead",
        );
    }
    (!plan.filter.data.is_empty())
        .then_some("the filter compares it: the answer would tell what it is")
}

/// What is recorded of the request, without values that may be personal. `queue`: the one that its
/// filter means.
fn details(plan: &Plan, request: &BulkRequest, queue: Option<String>) -> Value {
    let Paths {
        set,
        replace,
        unset,
    } = plan.edits.as_ref().map(Edits::paths).unwrap_or_default();
    let mut details = json!({
        "filter": plan.filter.without_data(), "state": plan.state, "source": plan.source, "key": plan.key, "set": set,
        "replace": replace, "unset": unset, "first": request.first, "reason": request.reason,
    });
    if let Some(queue) = queue {
        details["queue"] = queue.into();
    }
    details
}

/// The cursor and the number of rows of a page. One more row is read, which shows whether there is
/// another page.
fn page_of(cursor: Option<String>, limit: Option<u16>) -> Result<(Option<i64>, usize), Error> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::invalid(format!(
            "limit: must be from 1 to {MAX_LIMIT}"
        )));
    }
    let unknown = |_| {
        Error::invalid(
            "cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page",
        )
    };
    Ok((
        cursor
            .map(|cursor| cursor.parse())
            .transpose()
            .map_err(unknown)?,
        limit.into(),
    ))
}

fn item_view(row: patchbay_store::BulkItem) -> BulkItem {
    BulkItem {
        n: row.n,
        queue: row.queue,
        job_id: row.job_id,
        job_created_ms: row.job_created_ms,
        job_state: row.job_state,
        state: row.state,
        reason: row.reason,
        new_id: row.new_id,
    }
}

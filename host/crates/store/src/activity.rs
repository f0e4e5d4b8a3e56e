//! Who did what: actions of operators, what hosts did by themselves, and what plugins wrote to
//! audit trails.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{Store, StoreError};

/// An action that is about to be carried out.
#[derive(Debug)]
pub struct NewAction<'a> {
    pub actor: &'a str,
    /// Whether a host does it by itself.
    pub is_host: bool,
    /// For example `queue.pause`.
    pub action: &'a str,
    /// What it is done to, for example the name of a queue.
    pub target: &'a str,
    /// An object.
    pub details: &'a Value,
}

/// An action, or an entry of an audit trail.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ActivityRow {
    /// `action` or `entry`: which table it is from.
    pub source: String,
    /// Unique within its table.
    pub id: i64,
    pub at: DateTime<Utc>,
    /// `None` while it goes on, and when its host was killed meanwhile.
    pub ended_at: Option<DateTime<Utc>>,
    /// `operator`, `host` or `plugin`.
    pub kind: String,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub details: Value,
    pub result: Option<Value>,
    pub error: Option<String>,
}

/// An absent field does not restrict the rows.
#[derive(Debug, Clone, Default)]
pub struct ActivityFilter {
    pub actor: Option<String>,
    /// An action (`queue.pause`), or its first part (`queue`).
    pub action: Option<String>,
    /// A target; that of a queue includes its jobs, bulk operations on them, its schedules and its
    /// dead letters, and that of a plugin its outside hosts.
    pub target: Option<String>,
    /// `operator`, `host` or `plugin`.
    pub kind: Option<String>,
    /// `done`, `no-effect`, `failed` or `running`.
    pub result: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// Only rows that are older than this one.
    pub before: Option<ActivityCursor>,
}

/// The place of a row in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityCursor {
    pub at: DateTime<Utc>,
    pub source: String,
    pub id: i64,
}

/// Actions among which a name is looked for that was mistyped.
const RECENT: i64 = 10_000;

const OF_ACTIONS: &str = "select 'action' as source, id, began_at as at, ended_at, kind, actor, action, \
    case when action = 'job.add' and result ? 'id' then target || '/' || (result ->> 'id') else target end as target, \
    details, result, error from operator_actions where ($1::text is null or actor = $1) \
    and ($2::text is null or action = $2 or starts_with(action, $2 || '.')) \
    and ($3::text is null or target = $3 or starts_with(target, $3 || '/') or starts_with(target, $3 || ' ') \
    or details ->> 'queue' = $3 or result ->> 'queue' = $3 or coalesce(result -> 'queues' ? $3, false) \
    or details -> 'filter' ->> 'queue' = $3 or details -> 'filter' ->> 'plugin' = $3 \
    or (action in ('job.add', 'job.duplicate', 'schedule.run') and (result ->> 'queue') || '/' || (result ->> 'id') = $3) \
    or exists (select from bulk_items i where i.bulk = case when target ~ '^bulk/[0-9]{1,18}$' then substr(target, 6)::bigint end \
    and (i.queue = $3 or (i.queue, i.job_id) in (select * from unnest($12::text[], $13::text[]))))) \
    and ($4::text is null or kind = $4) \
    and ($5::text is null or $5 = case when error is not null then 'failed' when ended_at is null then 'running' \
    when result ? 'noEffect' then 'no-effect' else 'done' end) \
    and ($6::timestamptz is null or began_at >= $6) and ($7::timestamptz is null or began_at < $7) \
    and ($8::timestamptz is null or (began_at, 'action', id) < ($8, $9::text, $10::bigint)) \
    order by began_at desc, id desc limit $11";

const OF_ENTRIES: &str = "select 'entry' as source, id, at, at as ended_at, 'plugin' as kind, plugin as actor, 'audit.' || trail as action, \
    case when job_id is null then plugin else coalesce(queue, '') || '/' || job_id end as target, \
    case when trail = 'routes' and idempotency_key = 'host' then entry else jsonb_build_object('entryKey', entry_key) end as details, \
    null::jsonb as result, null::text as error \
    from audit_entries where plugin is not null and ($1::text is null or plugin = $1) \
    and ($2::text is null or 'audit.' || trail = $2 or $2 = 'audit') \
    and ($3::text is null or queue = $3 or coalesce(queue, '') || '/' || job_id = $3 or plugin = $3) \
    and ($4::text is null or $4 = 'plugin') and ($5::text is null or $5 = 'done') \
    and ($6::timestamptz is null or at >= $6) and ($7::timestamptz is null or at < $7) \
    and ($8::timestamptz is null or (at, 'entry', id) < ($8, $9::text, $10::bigint)) \
    order by at desc, id desc limit $11";

impl Store {
    /// Records an action before it is carried out, and returns its id. Also in the trail `operators`,
    /// with a hash of the details instead of the details: what people wrote can be erased, an entry
    /// cannot.
    pub async fn begin_action(&self, action: &NewAction<'_>) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(
            "with begun as (insert into operator_actions (actor, kind, action, target, details) values ($1, $2, $3, $4, $5) \
               returning id, details) \
             insert into audit_entries (trail, entry_key, idempotency_key, actor_kind, actor_id, actor_name, action, entity, address, entry) \
             select 'operators', id || '/began', 'host', case when $1 like 'user %' then 'user' else $2 end, $1, $1, $3, $4, $6::text::inet, jsonb_build_object('actionId', id, \
               'phase', 'began', 'action', $3, 'target', $4, 'detailsSha256', encode(sha256(convert_to(details::text, 'UTF8')), 'hex')) \
             from begun returning (entry ->> 'actionId')::bigint",
        );
        let from = action.details.get("from").and_then(Value::as_str);
        // Only what is an address: anything else would refuse the action.
        let from = from.filter(|text| text.parse::<std::net::IpAddr>().is_ok());
        Ok(query
            .bind(action.actor)
            .bind(if action.is_host { "host" } else { "operator" })
            .bind(action.action)
            .bind(action.target)
            .bind(action.details)
            .bind(from)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Records how an action ended. A result with NUL (jobs in Redis may have it) cannot be stored.
    pub async fn finish_action(
        &self,
        id: i64,
        end: &Result<Value, String>,
    ) -> Result<(), StoreError> {
        let error = end
            .as_ref()
            .err()
            .map(|error| error.replace('\0', "\u{fffd}"));
        match self
            .end_action(id, end.as_ref().ok(), error.as_deref())
            .await
        {
            Err(StoreError::Unstorable(_)) => self.end_action(id, None, error.as_deref()).await,
            done => done,
        }
    }

    async fn end_action(
        &self,
        id: i64,
        result: Option<&Value>,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        // Repeated while Postgres did not answer, it is one end.
        let query = sqlx::query(
            "with ended as (update operator_actions set ended_at = now(), result = $2, error = $3 where id = $1 \
               returning id, actor, kind, action, target, result, error) \
             insert into audit_entries (trail, entry_key, idempotency_key, actor_kind, actor_id, actor_name, action, entity, entry) \
             select 'operators', id || '/ended', 'host', case when actor like 'user %' then 'user' else kind end, actor, actor, action, target, jsonb_build_object('actionId', id, \
               'phase', 'ended', 'action', action, 'target', target, 'result', case when error is not null then 'failed' when result ? 'noEffect' then 'no-effect' else 'done' end, \
               'resultSha256', encode(sha256(convert_to(coalesce(result::text, error, ''), 'UTF8')), 'hex')) from ended \
             on conflict (trail, idempotency_key, entry_key) do nothing",
        );
        query
            .bind(id)
            .bind(result)
            .bind(error)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Actors and targets of recent actions, each once.
    pub async fn recent_actors_and_targets(
        &self,
    ) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let query = sqlx::query_as(
            "select coalesce(array_agg(distinct actor), '{}'), coalesce(array_agg(distinct split_part(target, '/', 1)), '{}') \
             from (select actor, target from operator_actions order by id desc limit $1) recent",
        );
        Ok(query.bind(RECENT).fetch_one(&self.pool).await?)
    }

    /// Who did what, newest first.
    pub async fn activity(
        &self,
        filter: &ActivityFilter,
        most: i64,
    ) -> Result<Vec<ActivityRow>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select * from (({OF_ACTIONS}) union all ({OF_ENTRIES})) activity order by at desc, source desc, id desc limit $11"
        )));
        let before = filter.before.as_ref();
        let (queues, jobs) = as_jobs(filter.target.as_deref().unwrap_or_default());
        Ok(query
            .bind(&filter.actor)
            .bind(&filter.action)
            .bind(&filter.target)
            .bind(&filter.kind)
            .bind(&filter.result)
            .bind(filter.since)
            .bind(filter.until)
            .bind(before.map(|before| before.at))
            .bind(before.map(|before| &before.source))
            .bind(before.map(|before| before.id))
            .bind(most)
            .bind(queues)
            .bind(jobs)
            .fetch_all(&self.pool)
            .await?)
    }
}

/// Every queue and job that may be meant by `queue/id`: both may contain a `/`.
fn as_jobs(target: &str) -> (Vec<&str>, Vec<&str>) {
    target
        .match_indices('/')
        .map(|(at, _)| (&target[..at], &target[at + 1..]))
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_each_queue_and_job_that_it_may_mean() {
        assert_eq!(as_jobs("emailQueue"), (vec![], vec![]));
        assert_eq!(as_jobs("a/b/1"), (vec!["a", "a/b"], vec!["b/1", "1"]));
    }
}

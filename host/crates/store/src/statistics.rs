//! Statistics of queues, from the history: which there are, their speed and failures; last actions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
use serde_json::Value;

use crate::dead_letters::OF_A_GROUP;
use crate::{Store, StoreError};

/// Most failures that [`Store::failed_lately`] looks at.
pub const MOST_FAILURES: i64 = 10_000;

/// Attempts of one kind of job over the last day.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct JobStatistics {
    pub name: String,
    /// Attempts that ended in the last minute.
    pub last_minute: i64,
    pub last_15_minutes: i64,
    pub last_day: i64,
    /// Attempts of the last day that did not complete.
    pub not_completed: i64,
    /// Median duration over the last day, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

/// How a queue's jobs ended within a recent time.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct FailureRate {
    pub queue: String,
    /// Jobs that failed for good and have not run since.
    pub failed: i64,
    pub ended: i64,
}

/// Jobs of a queue that failed because an account outside refuses the plugin's login.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RefusedLogin {
    pub plugin: String,
    pub queue: String,
    /// The name of a credential that the plugin has handed over and that the job has used; absent
    /// when its calls named none. A job that has used several is one row for each.
    pub credential: Option<String>,
    /// When the last one failed.
    pub last_at: DateTime<Utc>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ActionRow {
    pub actor: String,
    /// For example `queue.pause`.
    pub action: String,
    pub target: String,
    pub began_at: DateTime<Utc>,
    pub details: Value,
    pub result: Option<Value>,
    /// In the words of whoever did it.
    pub reason: Option<String>,
}

impl ActionRow {
    /// `: ` and the reason, or nothing.
    pub fn because(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}"));
        reason.unwrap_or_default()
    }
}

impl Store {
    /// Every queue with at least one recorded attempt. `prefix` is BullMQ's key prefix.
    pub async fn queues_with_history(&self, prefix: &str) -> Result<Vec<QueueName>, StoreError> {
        // Steps from one queue's first row to the next queue's, along the primary key: as many
        // steps as there are queues, independent of the number of attempts.
        let query = sqlx::query_scalar::<_, Option<String>>(
            "with recursive known as ( \
             (select min(queue) as queue from attempts where prefix = $1) union all \
             select (select min(queue) from attempts where prefix = $1 and queue > known.queue) from known \
             where known.queue is not null) select queue from known where queue is not null",
        );
        let names = query.bind(prefix).fetch_all(&self.pool).await?;
        Ok(names
            .into_iter()
            .flatten()
            .filter_map(|name| name.parse().ok())
            .collect())
    }

    /// Whether the queue has at least one recorded attempt.
    pub async fn has_history(&self, prefix: &str, queue: &QueueName) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from attempts where prefix = $1 and queue = $2)",
        );
        Ok(query
            .bind(prefix)
            .bind(queue.as_str())
            .fetch_one(&self.pool)
            .await?)
    }

    /// Per kind of job, the busiest first.
    pub async fn job_statistics(
        &self,
        prefix: &str,
        queue: &QueueName,
    ) -> Result<Vec<JobStatistics>, StoreError> {
        let query = sqlx::query_as(
            "select name, count(*) filter (where finished_at > now() - interval '1 minute') as last_minute, \
             count(*) filter (where finished_at > now() - interval '15 minutes') as last_15_minutes, \
             count(*) as last_day, count(*) filter (where outcome <> 'completed') as not_completed, \
             percentile_cont(0.5) within group (order by ms) as p50_ms, \
             percentile_cont(0.95) within group (order by ms) as p95_ms, \
             percentile_cont(0.99) within group (order by ms) as p99_ms \
             from (select name, outcome, finished_at, (extract(epoch from finished_at - started_at) * 1000)::float8 as ms \
             from attempts where prefix = $1 and queue = $2 and finished_at > now() - interval '1 day') of_last_day \
             group by name order by count(*) desc, name",
        );
        Ok(query
            .bind(prefix)
            .bind(queue.as_str())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Queues with a failure within this time. A retried job counts once, by its last end.
    pub async fn failure_rates(
        &self,
        prefix: &str,
        within: Duration,
    ) -> Result<Vec<FailureRate>, StoreError> {
        // Reads only the last minutes, by the index over times. Whether a job has run since is
        // looked up by the primary key, for failures only.
        let query = sqlx::query_as(
            "with ended as (select queue, job_id, job_created_ms, started, verdict from attempts where prefix = $1 \
             and finished_at > now() - make_interval(secs => $2) and verdict in ('complete', 'fail')) \
             select queue, count(distinct (job_id, job_created_ms)) as ended, count(*) filter (where verdict = 'fail' and not exists ( \
             select from attempts a where a.prefix = $1 and a.queue = ended.queue and a.job_id = ended.job_id \
             and a.job_created_ms = ended.job_created_ms and a.started > ended.started)) as failed \
             from ended group by queue having bool_or(verdict = 'fail') order by queue",
        );
        Ok(query
            .bind(prefix)
            .bind(within.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Queues whose jobs failed for good with `bad-credentials` within this time, with the credentials
    /// that these have used, unless an operator knows of it. Without such a credential: unless a job
    /// of the queue has completed since.
    pub async fn refused_logins(
        &self,
        prefix: &str,
        within: Duration,
    ) -> Result<Vec<RefusedLogin>, StoreError> {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "with refused as (select d.plugin, d.queue, c.credential, a.finished_at from dead_letters d join attempts a on {OF_A_GROUP} \
             left join lateral (select distinct call ->> 'credential' as credential from jsonb_array_elements(a.calls) call \
             where call ? 'credential') c on true where d.prefix = $1 and d.code = 'bad-credentials' and d.plugin <> '' \
             and d.last_seen > now() - make_interval(secs => $2) and d.acknowledged_at is null and d.closed_at is null \
             and a.finished_at > now() - make_interval(secs => $2)) \
             select plugin, queue, credential, max(finished_at) as last_at from refused group by plugin, queue, credential \
             having credential is not null or not exists (select from attempts a where a.prefix = $1 and a.queue = refused.queue \
             and a.finished_at > max(refused.finished_at) and a.verdict = 'complete') order by plugin, queue, credential"
        )));
        Ok(query
            .bind(prefix)
            .bind(within.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Whether a job of these queues that has used this credential has completed after `since`.
    pub async fn credential_was_taken(
        &self,
        prefix: &str,
        queues: &[QueueName],
        credential: &str,
        since: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let queues: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        let query = sqlx::query_scalar(
            "select exists (select from attempts where prefix = $1 and queue = any($2) and finished_at > $3 and verdict = 'complete' \
             and calls @> jsonb_build_array(jsonb_build_object('credential', $4::text)))",
        );
        Ok(query
            .bind(prefix)
            .bind(queues)
            .bind(since)
            .bind(credential)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Jobs that failed for good within this time, have not run since, and were neither acknowledged
    /// nor removed by an operator, by queue; those of one queue if it is given. At most [`MOST_FAILURES`] failures are looked at, the newest.
    pub async fn failed_lately(
        &self,
        prefix: &str,
        queue: Option<&QueueName>,
        within: Duration,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let query = sqlx::query_as(
            "with failed as (select queue, job_id, job_created_ms, started from attempts where prefix = $1 \
             and ($2::text is null or queue = $2) and finished_at > now() - make_interval(secs => $3) \
             and outcome <> 'completed' and verdict = 'fail' order by finished_at desc limit $4) \
             select queue, count(*) from failed where not exists (select from attempts a where a.prefix = $1 \
             and a.queue = failed.queue and a.job_id = failed.job_id and a.job_created_ms = failed.job_created_ms \
             and a.started > failed.started) and not exists (select from dead_letter_jobs j join dead_letters d on d.id = j.dead_letter \
             where j.prefix = $1 and j.queue = failed.queue and j.job_id = failed.job_id and j.job_created_ms = failed.job_created_ms \
             and j.state <> 'elsewhere' and (j.state in ('removed', 'repaired') or d.acknowledged_at is not null or d.closed_at is not null)) \
             and not exists (select from bulk_items i join bulks b on b.id = i.bulk where b.prefix = $1 and b.kind = 'remove' \
             and i.queue = failed.queue and i.job_id = failed.job_id and i.job_created_ms = failed.job_created_ms and i.state = 'done') \
             and not exists (select from operator_actions o where o.target = failed.queue || '/' || failed.job_id \
             and o.action = 'job.remove' and o.ended_at is not null and o.error is null \
             and o.began_at > to_timestamp(failed.job_created_ms / 1000.0)) group by queue order by count(*) desc, queue",
        );
        Ok(query
            .bind(prefix)
            .bind(queue.map(QueueName::as_str))
            .bind(within.as_secs_f64())
            .bind(MOST_FAILURES)
            .fetch_all(&self.pool)
            .await?)
    }

    /// What is known first of a queue: its first attempt, or what an operator first did to it.
    pub async fn first_trace_of_queue(
        &self,
        prefix: &str,
        queue: &QueueName,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let query = sqlx::query_scalar(
            "select least((select min(finished_at) from attempts where prefix = $1 and queue = $2), \
             (select min(began_at) from operator_actions where target = $2))",
        );
        let query = query.bind(prefix).bind(queue.as_str());
        Ok(query.fetch_one(&self.pool).await?)
    }

    /// The last opening or closing of a plugin's breakers by an operator, of the last day.
    pub async fn last_breaker_actions(&self, plugin: &str) -> Result<Vec<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, details, result, details ->> 'reason' as reason from operator_actions \
             where began_at > now() - interval '1 day' and action in ('breaker.open', 'breaker.close') \
             and starts_with(target, $1 || ' ') and ended_at is not null and error is null \
             and not coalesce(result ? 'noEffect', false) order by began_at desc limit 1",
        );
        Ok(query.bind(plugin).fetch_all(&self.pool).await?)
    }

    /// The last bulk operation of the last day that changed jobs of the queue, or its undoing, as an
    /// action: `details.jobs` is their number, and `details.kind` what was undone.
    pub async fn last_bulk_of_queue(
        &self,
        prefix: &str,
        queue: &QueueName,
    ) -> Result<Option<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select last.actor, last.action, 'bulk/' || last.id as target, last.began_at, jsonb_build_object('kind', last.kind, \
             'jobs', (select count(*) from bulk_items i where i.bulk = last.id and i.queue = $2 and case \
             when last.action = 'bulk.undo' then i.state = 'restored' else i.state in ('done', 'restored', 'lost') or i.undone_at is not null \
             end)) as details, null::jsonb as result, last.reason from (\
             (select b.id, b.kind, b.actor, 'bulk.' || b.kind as action, b.created_at as began_at, b.reason from bulks b \
             where b.prefix = $1 and b.created_at > now() - interval '1 day' and exists (select from bulk_items i \
             where i.bulk = b.id and i.queue = $2 and i.state in ('done', 'restored')) order by b.id desc limit 1) union all \
             (select b.id, b.kind, o.actor, o.action, o.began_at, o.details ->> 'reason' from operator_actions o \
             join bulks b on o.target = 'bulk/' || b.id where b.prefix = $1 and o.action = 'bulk.undo' and o.error is null \
             and o.began_at > now() - interval '1 day' and exists (select from bulk_items i where i.bulk = b.id and i.queue = $2 \
             and i.state = 'restored') order by o.id desc limit 1)) last order by last.began_at desc limit 1",
        );
        let query = query.bind(prefix).bind(queue.as_str());
        Ok(query.fetch_optional(&self.pool).await?)
    }

    /// Of each of these kinds of actions on each of these targets the last one that completed and
    /// changed something (`noEffect` in the result says the contrary), the newest first; for grants,
    /// of each list of asks.
    pub async fn last_actions(
        &self,
        actions: &[&str],
        targets: &[&str],
    ) -> Result<Vec<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, details, result, reason from ( \
             select distinct on (action, target, details -> 'asks') id, actor, action, target, began_at, details, result, details ->> 'reason' as reason \
             from operator_actions where action = any($1) and target = any($2) and ended_at is not null and error is null \
             and not coalesce(result ? 'noEffect' or result -> 'already' not in ('false', 'null'), false) order by action, target, details -> 'asks', id desc) last \
             order by id desc",
        );
        Ok(query
            .bind(actions)
            .bind(targets)
            .fetch_all(&self.pool)
            .await?)
    }

    /// As [`Self::last_actions`] on one queue, together with those on all queues (`*`) that changed
    /// this one: `queues` in the result names what an action changed.
    pub async fn last_actions_on_queue(
        &self,
        actions: &[&str],
        queue: &QueueName,
    ) -> Result<Vec<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select actor, action, target, began_at, details, result, reason from ( \
             select distinct on (action, target) id, actor, action, target, began_at, details, result, details ->> 'reason' as reason \
             from operator_actions where action = any($1) and ended_at is not null and error is null \
             and (target = $2 or (target = '*' and (not coalesce(result ? 'queues', false) or result -> 'queues' ? $2))) \
             and not coalesce(result ? 'noEffect' or result -> 'already' not in ('false', 'null'), false) order by action, target, id desc) last order by id desc",
        );
        Ok(query
            .bind(actions)
            .bind(queue.as_str())
            .fetch_all(&self.pool)
            .await?)
    }

    /// Of each of these queues the last action that paused or resumed it; its target is the queue,
    /// also where all queues were meant.
    pub async fn last_switches(&self, queues: &[&str]) -> Result<Vec<ActionRow>, StoreError> {
        let query = sqlx::query_as(
            "select a.actor, a.action, q.name as target, a.began_at, a.details, a.result, a.details ->> 'reason' as reason \
             from unnest($1::text[]) q (name) cross join lateral (select actor, action, began_at, details, result from operator_actions \
             where action in ('queue.pause', 'queue.resume') and ended_at is not null and error is null \
             and (target = q.name or (target = '*' and (not coalesce(result ? 'queues', false) or result -> 'queues' ? q.name))) \
             and not coalesce(result ? 'noEffect' or result -> 'already' not in ('false', 'null'), false) order by id desc limit 1) a",
        );
        Ok(query.bind(queues).fetch_all(&self.pool).await?)
    }

    /// Jobs in the failed state that are in acknowledged groups of dead letters, by queue; those of
    /// one queue if it is given. As they were when they were last compared with Redis.
    pub async fn acknowledged_failures(
        &self,
        prefix: &str,
        queue: Option<&QueueName>,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let query = sqlx::query_as(
            "select d.queue, count(*) from dead_letters d join dead_letter_jobs j on j.dead_letter = d.id and j.state = 'failing' \
             where d.prefix = $1 and ($2::text is null or d.queue = $2) and d.acknowledged_at is not null and d.closed_at is null \
             group by 1 order by 1",
        );
        let query = query.bind(prefix).bind(queue.map(QueueName::as_str));
        Ok(query.fetch_all(&self.pool).await?)
    }
}

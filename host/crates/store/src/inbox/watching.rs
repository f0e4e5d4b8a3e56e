//! What alerts ask. Each question takes a few steps in an index per webhook, however many requests
//! there are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::webhook::InboxState;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::reading::state;
use crate::{Store, StoreError};

/// Requests are counted up to this number.
pub const MOST_COUNTED: i64 = 1_000;

/// Requests of a webhook that wait for their jobs, or to be judged.
#[derive(Debug, Clone)]
pub struct InboxWaiting {
    pub plugin: String,
    pub webhook: String,
    pub state: InboxState,
    /// Why the oldest is deferred.
    pub code: Option<String>,
    /// How long the oldest has waited.
    pub oldest_s: f64,
    /// At most [`MOST_COUNTED`].
    pub rows: i64,
}

/// Rejected requests of a webhook that came from networks whose requests are accepted otherwise.
#[derive(Debug, Clone)]
pub struct KnownRejected {
    pub plugin: String,
    pub webhook: String,
    pub rows: i64,
    /// Why the newest was rejected.
    pub code: Option<String>,
}

/// For how long no request of a webhook was accepted.
#[derive(Debug, Clone)]
pub struct InboxSilence {
    pub plugin: String,
    pub webhook: String,
    /// Since the last accepted request, at most since the plugin was activated.
    pub silent_s: f64,
    pub last_accepted_at: Option<DateTime<Utc>>,
}

/// Accepted requests of a webhook in one hour.
#[derive(Debug, Clone)]
pub struct InboxHour {
    pub plugin: String,
    pub webhook: String,
    pub hour: DateTime<Utc>,
    pub count: i64,
}

/// A silence of a webhook that was told and is over.
#[derive(Debug, Clone)]
pub struct ToldSilence {
    /// Name of the plugin and of the webhook.
    pub webhook: String,
    pub began_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
}

impl Store {
    /// How many requests were accepted in each hour since then.
    pub async fn inbox_hours(&self, since: DateTime<Utc>) -> Result<Vec<InboxHour>, StoreError> {
        let found = sqlx::query(
            "select plugin, webhook, hour, sum(count)::bigint as count from inbox_counts \
             where hour >= $1 and outcome = 'accepted' and plugin <> '' group by plugin, webhook, hour",
        )
        .bind(since)
        .fetch_all(&self.pool)
        .await?;
        let hour = |row: &PgRow| -> Result<InboxHour, StoreError> {
            Ok(InboxHour {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                hour: row.try_get("hour")?,
                count: row.try_get("count")?,
            })
        };
        found.iter().map(hour).collect()
    }

    /// Hours since then in which a host ran.
    pub async fn inbox_running_hours(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<DateTime<Utc>>, StoreError> {
        let query = sqlx::query_scalar(
            "select hour from inbox_counts where plugin = '' and webhook = '' and hour >= $1 and outcome = 'running'",
        );
        Ok(query.bind(since).fetch_all(&self.pool).await?)
    }

    /// Silences since then that were told, and are over.
    pub async fn inbox_silences(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<ToldSilence>, StoreError> {
        let found = sqlx::query(
            "select subject, at, at - make_interval(secs => coalesce(lasted_ms, 0) / 1000.0) as began_at from alert_events \
             where at >= $1 and rule = 'webhook-silent' and event = 'recovered'",
        )
        .bind(since)
        .fetch_all(&self.pool)
        .await?;
        let silence = |row: &PgRow| -> Result<ToldSilence, StoreError> {
            Ok(ToldSilence {
                webhook: row.try_get("subject")?,
                began_at: row.try_get("began_at")?,
                ended_at: row.try_get("at")?,
            })
        };
        found.iter().map(silence).collect()
    }

    /// What waits, by webhook and state.
    pub async fn inbox_waiting(&self) -> Result<Vec<InboxWaiting>, StoreError> {
        // From the oldest of one webhook straight to the oldest of the next.
        let found = sqlx::query(
            "with recursive oldest as ( \
               (select state, plugin, webhook, code, coalesce(verified_at, received_at) as since from inbox \
                 where state in ('accepted', 'deferred') \
                 order by state, plugin, webhook, coalesce(verified_at, received_at) limit 1) \
               union all \
               select next.* from oldest o, lateral ( \
                 select i.state, i.plugin, i.webhook, i.code, coalesce(i.verified_at, i.received_at) as since from inbox i \
                 where i.state in ('accepted', 'deferred') and (i.state, i.plugin, i.webhook) > (o.state, o.plugin, o.webhook) \
                 order by i.state, i.plugin, i.webhook, coalesce(i.verified_at, i.received_at) limit 1) next) \
             select o.plugin, o.webhook, o.state, o.code, \
               greatest(extract(epoch from now() - o.since), 0)::float8 as oldest_s, \
               (select count(*) from (select from inbox i where i.state in ('accepted', 'deferred') and i.state = o.state \
                 and i.plugin = o.plugin and i.webhook = o.webhook \
                 order by coalesce(i.verified_at, i.received_at) limit $1) as counted) as rows \
             from oldest o",
        )
        .bind(MOST_COUNTED)
        .fetch_all(&self.pool)
        .await?;
        let waiting = |row: &PgRow| -> Result<InboxWaiting, StoreError> {
            Ok(InboxWaiting {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                state: state(row)?,
                code: row.try_get("code")?,
                oldest_s: row.try_get("oldest_s")?,
                rows: row.try_get("rows")?,
            })
        };
        found.iter().map(waiting).collect()
    }

    /// Which of these webhooks (plugin and name) have rejected requests lately that came from a
    /// network from which a request was accepted within `known_for`.
    pub async fn known_rejected(
        &self,
        webhooks: &[(String, String)],
        lately: Duration,
        known_for: Duration,
    ) -> Result<Vec<KnownRejected>, StoreError> {
        let (plugins, names) = unzipped(webhooks);
        let found = sqlx::query(
            "select w.plugin, w.webhook, count(*) as rows, (array_agg(r.code order by r.received_at desc))[1] as code \
             from unnest($1::text[], $2::text[]) as w (plugin, webhook) cross join lateral ( \
               select i.source, i.code, i.received_at from inbox i \
               where i.state = 'rejected' and i.plugin = w.plugin and i.webhook = w.webhook \
                 and i.received_at > now() - make_interval(secs => $3) \
               order by i.received_at desc limit $5) r \
             join inbox_sources s on s.plugin = w.plugin and s.webhook = w.webhook and s.network = r.source \
               and s.last_accepted_at > now() - make_interval(secs => $4) \
             group by w.plugin, w.webhook",
        )
        .bind(plugins)
        .bind(names)
        .bind(lately.as_secs_f64())
        .bind(known_for.as_secs_f64())
        .bind(super::upkeep::MAX_REJECTED)
        .fetch_all(&self.pool)
        .await?;
        let rejected = |row: &PgRow| -> Result<KnownRejected, StoreError> {
            Ok(KnownRejected {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                rows: row.try_get("rows")?,
                code: row.try_get("code")?,
            })
        };
        found.iter().map(rejected).collect()
    }

    /// For how long these webhooks (plugin and name) have had no accepted request. Plugins that are
    /// not active are left out. An activation counts only where it ended a stop, or where no request
    /// has ever been accepted: a new revision alone is no sign of the vendor.
    pub async fn inbox_silence(
        &self,
        webhooks: &[(String, String)],
    ) -> Result<Vec<InboxSilence>, StoreError> {
        let (plugins, names) = unzipped(webhooks);
        let found = sqlx::query(
            "select w.plugin, w.webhook, s.last_accepted_at, \
               greatest(extract(epoch from now() - greatest(coalesce(s.last_accepted_at, r.activated_at), began.at)), 0)::float8 \
                 as silent_s \
             from unnest($1::text[], $2::text[]) as w (plugin, webhook) \
             join plugins p on p.name = w.plugin \
             join revisions r on r.plugin = p.name and r.digest = p.active and r.state = 'active' \
             left join lateral (select last_accepted_at from inbox_sources s \
               where s.plugin = w.plugin and s.webhook = w.webhook order by s.last_accepted_at desc limit 1) s on true \
             left join lateral (select min(a.at) as at from activations a where a.plugin = w.plugin and a.id > coalesce( \
               (select max(e.id) from activations e where e.plugin = w.plugin and e.digest is null), 0)) began on true",
        )
        .bind(plugins)
        .bind(names)
        .fetch_all(&self.pool)
        .await?;
        let silence = |row: &PgRow| -> Result<InboxSilence, StoreError> {
            Ok(InboxSilence {
                plugin: row.try_get("plugin")?,
                webhook: row.try_get("webhook")?,
                silent_s: row.try_get("silent_s")?,
                last_accepted_at: row.try_get("last_accepted_at")?,
            })
        };
        found.iter().map(silence).collect()
    }
}

fn unzipped(webhooks: &[(String, String)]) -> (Vec<&str>, Vec<&str>) {
    let pairs = webhooks.iter();
    pairs
        .map(|(plugin, name)| (plugin.as_str(), name.as_str()))
        .unzip()
}

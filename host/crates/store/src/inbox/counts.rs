//! How many requests came, by hour; how often events were repeated; from where.

use chrono::{DateTime, Utc};

use super::EventKey;
use crate::{Store, StoreError};

/// Requests of one hour with one outcome.
#[derive(Debug, Clone)]
pub struct InboxCount {
    pub plugin: String,
    pub webhook: String,
    pub hour: DateTime<Utc>,
    pub outcome: String,
    pub code: String,
    pub count: i64,
}

/// How often an event came again.
#[derive(Debug, Clone)]
pub struct RepeatCount {
    pub event: EventKey,
    pub count: i64,
    pub last: DateTime<Utc>,
}

/// A network from which a request was accepted.
#[derive(Debug, Clone)]
pub struct InboxSource {
    pub plugin: String,
    pub webhook: String,
    pub network: String,
    pub at: DateTime<Utc>,
}

impl Store {
    /// Plugin, webhook and network, from which a request was accepted within 30 days; the newest.
    pub async fn inbox_networks(
        &self,
        most: i64,
    ) -> Result<Vec<(String, String, String)>, StoreError> {
        let found = sqlx::query_as(
            "select plugin, webhook, network from inbox_sources \
             where network <> '' and last_accepted_at > now() - make_interval(days => $2) order by last_accepted_at desc limit $1",
        )
        .bind(most)
        .bind(super::upkeep::SOURCES_DAYS);
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// Adds to what is counted already, all or nothing.
    pub async fn count_inbox(
        &self,
        counts: &[InboxCount],
        repeats: &[RepeatCount],
        sources: &[InboxSource],
    ) -> Result<(), StoreError> {
        fn each<'a, R, T>(rows: &'a [R], get: impl Fn(&'a R) -> T) -> Vec<T> {
            rows.iter().map(get).collect()
        }
        let mut tx = self.pool.begin().await?;
        // Always in the order of the keys: no two processes wait for each other.
        sqlx::query(
            "insert into inbox_counts (plugin, webhook, hour, outcome, code, count) \
             select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[]) \
               as t (plugin, webhook, hour, outcome, code, count) order by 1, 2, 3, 4, 5 \
             on conflict (plugin, webhook, hour, outcome, code) do update set count = inbox_counts.count + excluded.count",
        )
        .bind(each(counts, |row| row.plugin.as_str()))
        .bind(each(counts, |row| row.webhook.as_str()))
        .bind(each(counts, |row| row.hour))
        .bind(each(counts, |row| row.outcome.as_str()))
        .bind(each(counts, |row| row.code.as_str()))
        .bind(each(counts, |row| row.count))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into inbox_sources (plugin, webhook, network, last_accepted_at) \
             select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) \
               as t (plugin, webhook, network, at) order by 1, 2, 3 \
             on conflict (plugin, webhook, network) do update \
               set last_accepted_at = greatest(inbox_sources.last_accepted_at, excluded.last_accepted_at)",
        )
        .bind(each(sources, |row| row.plugin.as_str()))
        .bind(each(sources, |row| row.webhook.as_str()))
        .bind(each(sources, |row| row.network.as_str()))
        .bind(each(sources, |row| row.at))
        .execute(&mut *tx)
        .await?;
        let mut repeats: Vec<&RepeatCount> = repeats.iter().collect();
        repeats.sort_by_key(|repeat| repeat.event);
        for repeat in repeats {
            sqlx::query(
                "update inbox_events set repeats = repeats + $2, last_repeat_at = greatest(last_repeat_at, $3) where event_key = $1",
            )
            .bind(&repeat.event[..])
            .bind(repeat.count)
            .bind(repeat.last)
            .execute(&mut *tx)
            .await?;
        }
        Ok(tx.commit().await?)
    }
}

//! The size and age of the history, from Postgres's own statistics.

use chrono::{DateTime, Utc};

use crate::{Store, StoreError};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PartitionRow {
    pub name: String,
    pub rows: i64,
    /// Includes indexes and terms.
    pub bytes: i64,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PrunedRow {
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub attempts: i64,
    pub partitions: i32,
    pub error: Option<String>,
}

#[derive(Debug, Clone)]
pub struct HistoryTables {
    pub partitions: Vec<PartitionRow>,
    pub oldest: Option<DateTime<Utc>>,
    pub last_prune: Option<PrunedRow>,
}

impl Store {
    pub async fn history_tables(&self) -> Result<HistoryTables, StoreError> {
        let partitions = sqlx::query_as(
            "select c.relname as name, greatest(c.reltuples, s.n_live_tup, 0)::bigint as rows, pg_total_relation_size(c.oid) \
             + coalesce(pg_total_relation_size(to_regclass(replace(c.relname, 'attempts', 'attempt_terms'))), 0) as bytes \
             from pg_inherits i join pg_class c on c.oid = i.inhrelid left join pg_stat_user_tables s on s.relid = c.oid \
             where i.inhparent = 'attempts'::regclass order by c.relname",
        );
        // There is no index over all attempts by time, so this looks once per queue.
        let oldest = sqlx::query_scalar(
            "with recursive known as (select min(queue) as queue from attempts union all \
             select (select min(queue) from attempts a where a.queue > known.queue) from known where queue is not null) \
             select min((select min(finished_at) from attempts a where a.queue = known.queue)) from known",
        );
        let last_prune = sqlx::query_as(
            "select started_at, ended_at, attempts, partitions, error from history_pruned",
        );
        Ok(HistoryTables {
            partitions: partitions.fetch_all(&self.pool).await?,
            oldest: oldest.fetch_one(&self.pool).await?,
            last_prune: last_prune.fetch_optional(&self.pool).await?,
        })
    }
}

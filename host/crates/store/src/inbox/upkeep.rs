//! Forgetting: requests whose time is over, events that are remembered no more, and the oldest
//! rejected requests where there are too many. One process does it, in batches.

use crate::StoreError;
use crate::leader::Leadership;

/// Rows of one statement.
const BATCH: i64 = 5_000;
/// Rejected requests that are kept of one webhook, and of one source of it.
pub(super) const MAX_REJECTED: i64 = 10_000;
const MAX_REJECTED_OF_SOURCE: i64 = 1_000;
const COUNTS_DAYS: i32 = 400;
const SOURCES_DAYS: i32 = 30;

impl Leadership<'_> {
    /// Deletes what is over, and returns how many rows. As many as a batch, and there is more.
    pub async fn forget_inbox(&mut self) -> Result<u64, StoreError> {
        let mut deleted = 0;
        let over = sqlx::query(
            "delete from inbox where id in (select id from inbox where keep_until < now() and state <> 'accepted' limit $1)",
        )
        .bind(BATCH)
        .execute(&mut *self.0)
        .await?;
        deleted += over.rows_affected();
        let many = sqlx::query(
            "delete from inbox where id in ( \
               select id from (select id, row_number() over (partition by plugin, webhook order by received_at desc) as of_webhook, \
                 row_number() over (partition by plugin, webhook, source order by received_at desc) as of_source \
                 from inbox where state = 'rejected') as r where of_webhook > $2 or of_source > $3 limit $1)",
        )
        .bind(BATCH)
        .bind(MAX_REJECTED)
        .bind(MAX_REJECTED_OF_SOURCE)
        .execute(&mut *self.0)
        .await?;
        deleted += many.rows_affected();
        let events = sqlx::query(
            "delete from inbox_events where event_key in (select event_key from inbox_events where expires_at < now() limit $1)",
        )
        .bind(BATCH)
        .execute(&mut *self.0)
        .await?;
        deleted += events.rows_affected();
        sqlx::query(
            "delete from inbox_replays r where not exists (select from inbox i where i.id = r.inbox_id)",
        )
        .execute(&mut *self.0)
        .await?;
        sqlx::query("delete from inbox_counts where hour < now() - make_interval(days => $1)")
            .bind(COUNTS_DAYS)
            .execute(&mut *self.0)
            .await?;
        sqlx::query(
            // The newest of each webhook stays: since then it has been silent.
            "delete from inbox_sources s where last_accepted_at < now() - make_interval(days => $1) \
               and exists (select from inbox_sources n where n.plugin = s.plugin and n.webhook = s.webhook \
                 and n.last_accepted_at > s.last_accepted_at)",
        )
        .bind(SOURCES_DAYS)
        .execute(&mut *self.0)
        .await?;
        Ok(deleted)
    }
}

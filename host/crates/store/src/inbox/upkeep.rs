//! Forgetting: requests whose time is over, events that are remembered no more, and the oldest
//! rejected requests where there are too many. One process does it, in batches.

use crate::StoreError;
use crate::leader::Leadership;

/// Rows of one statement.
const BATCH: i64 = 5_000;
/// Rejected requests that are kept of one webhook, and of one source of it.
pub(super) const MAX_REJECTED: i64 = 10_000;
const MAX_REJECTED_OF_SOURCE: i64 = 1_000;
const MAX_REJECTED_BYTES: i64 = 256 << 20;
const MAX_REJECTED_BYTES_OF_SOURCE: i64 = MAX_REJECTED_BYTES / 10;
const COUNTS_DAYS: i32 = 400;
pub(super) const SOURCES_DAYS: i32 = 30;

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
        // Of strangers first: a flood of theirs must not cost what a vendor has sent with a new secret.
        let many = sqlx::query(
            "delete from inbox where id in ( \
               select id from (select i.id, row_number() over w as of_webhook, row_number() over s as of_source, \
                   sum(octet_length(i.sealed)) over w as bytes, sum(octet_length(i.sealed)) over s as bytes_of_source \
                 from inbox i left join inbox_sources k on k.plugin = i.plugin and k.webhook = i.webhook and k.network = i.source \
                 where i.state = 'rejected' \
                 window w as (partition by i.plugin, i.webhook order by k.network is null, i.received_at desc, i.id \
                     rows unbounded preceding), \
                   s as (partition by i.plugin, i.webhook, i.source order by i.received_at desc, i.id rows unbounded preceding)) as r \
               where of_webhook > $2 or of_source > $3 or bytes > $4 or bytes_of_source > $5 limit $1)",
        )
        .bind(BATCH)
        .bind(MAX_REJECTED)
        .bind(MAX_REJECTED_OF_SOURCE)
        .bind(MAX_REJECTED_BYTES)
        .bind(MAX_REJECTED_BYTES_OF_SOURCE)
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

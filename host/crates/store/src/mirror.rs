//! The mirror's state: its cursor in each queue, and which ends of jobs the history already has.

use std::collections::HashMap;

use patchbay_model::mirror_cursor::MirrorCursor;
use patchbay_model::{JobId, QueueName};
use sqlx::Row;

use crate::{Leadership, Store, StoreError};

/// A queue in which hosts ran a job this recently may hold more of them, even without the plugin.
const RAN_LATELY: &str = "1 hour";

impl Leadership<'_> {
    /// The cursors of all queues that the mirror has read before.
    pub async fn mirror_cursors(
        &mut self,
        prefix: &str,
    ) -> Result<HashMap<QueueName, MirrorCursor>, StoreError> {
        let query = sqlx::query("select * from mirror_places where prefix = $1").bind(prefix);
        let mut places = HashMap::new();
        for row in query.fetch_all(&mut *self.0).await? {
            let ms =
                |column: &str| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
            let place = MirrorCursor {
                completed_from_ms: ms("completed_from_ms")?,
                failed_from_ms: ms("failed_from_ms")?,
                event: row.try_get("event")?,
            };
            if let Ok(queue) = row.try_get::<String, _>("queue")?.parse() {
                places.insert(queue, place);
            }
        }
        Ok(places)
    }

    /// Stores the cursor from which any process continues.
    pub async fn remember_mirror_place(
        &mut self,
        prefix: &str,
        queue: &QueueName,
        place: &MirrorCursor,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into mirror_places (prefix, queue, completed_from_ms, failed_from_ms, event) values ($1, $2, $3, $4, $5) \
             on conflict (prefix, queue) do update set completed_from_ms = $3, failed_from_ms = $4, event = $5, looked_at = now()",
        );
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let query = query.bind(prefix).bind(queue.as_str());
        let query = query
            .bind(ms(place.completed_from_ms))
            .bind(ms(place.failed_from_ms))
            .bind(&place.event);
        query.execute(&mut *self.0).await?;
        Ok(())
    }
}

impl Store {
    /// Whether a host may have run jobs of this queue lately (`RAN_LATELY`): a stored revision
    /// names the queue, active or not, or the history has an attempt.
    pub async fn may_be_worked_by_hosts(
        &self,
        prefix: &str,
        queue: &QueueName,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "select exists (select from revisions, jsonb_array_elements(coalesce(manifest->'queues', '[]')) q where q->>'name' = $2) \
             or exists (select from attempts where prefix = $1 and queue = $2 and source <> 'mirror' \
             and finished_at > now() - $3::text::interval)",
        );
        Ok(query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(RAN_LATELY)
            .fetch_one(&self.pool)
            .await?)
    }

    /// The indexes of the ends that the history already has, in rows that know when their job was
    /// created. The worker's clock and Redis's may differ by `within_s` about an end.
    pub async fn known_ends(
        &self,
        prefix: &str,
        queue: &QueueName,
        ends: &[(&JobId, u64)],
        within_s: f64,
    ) -> Result<Vec<usize>, StoreError> {
        let ids: Vec<&str> = ends.iter().map(|(id, _)| id.as_str()).collect();
        let at: Vec<i64> = ends
            .iter()
            .map(|(_, at_ms)| i64::try_from(*at_ms).unwrap_or(i64::MAX))
            .collect();
        let query = sqlx::query_scalar::<_, i64>(
            "select place from unnest($3::text[], $4::bigint[]) with ordinality as ends (id, at_ms, place) \
             where exists (select from attempts a where a.prefix = $1 and a.queue = $2 and a.job_id = id and a.job_created_ms > 0 \
             and a.finished_at between to_timestamp(at_ms / 1000.0 - $5) and to_timestamp(at_ms / 1000.0 + $5))",
        );
        let known = query
            .bind(prefix)
            .bind(queue.as_str())
            .bind(ids)
            .bind(at)
            .bind(within_s);
        Ok(known
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|place| place as usize - 1)
            .collect())
    }
}

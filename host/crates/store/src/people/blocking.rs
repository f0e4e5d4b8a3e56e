//! Blocking accounts.

use super::sessions::revoke_all;
use super::users::ensure;
use crate::identity_changes::notify;
use crate::{Store, StoreError};

impl Store {
    /// Blocks or unblocks an account, and says whether that changed anything.
    pub async fn set_blocked(
        &self,
        id: &str,
        block: Option<(&str, Option<&str>)>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        ensure(&mut tx, id).await?;
        let (by, reason) = block.map_or((None, None), |(by, reason)| (Some(by), reason));
        let changed = sqlx::query(
            "update people set blocked_at = case when $2::text is null then null else now() end, blocked_by = $2, block_reason = $3 \
             where user_id = $1 and (blocked_at is null) = ($2::text is not null)",
        )
        .bind(id)
        .bind(by)
        .bind(reason)
        .execute(&mut *tx)
        .await?
        .rows_affected()
            > 0;
        if block.is_some() {
            revoke_all(&mut tx, id, None, "blocked").await?;
        }
        notify(&mut tx, 'u', id).await?;
        tx.commit().await?;
        Ok(changed)
    }
}

use chrono::{DateTime, Utc};
pub use patchbay_model::saved_search::SavedSearch;
use sqlx::types::Json;

use crate::{Store, StoreError};

/// Limit for one installation: people read this list.
pub const MAX_SAVED_SEARCHES: i64 = 500;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SavedSearchRow {
    pub name: String,
    pub search: Json<SavedSearch>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

const COLUMNS: &str = "name, search, created_at, created_by, changed_at, changed_by";

impl Store {
    /// Sorted by name. `prefix` is BullMQ's key prefix.
    pub async fn saved_searches(&self, prefix: &str) -> Result<Vec<SavedSearchRow>, StoreError> {
        let query = format!(
            "select {COLUMNS} from saved_searches where prefix = $1 and search is not null order by name"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(prefix)
            .fetch_all(&self.pool)
            .await?)
    }

    pub async fn saved_search(
        &self,
        prefix: &str,
        name: &str,
    ) -> Result<SavedSearchRow, StoreError> {
        let query = format!(
            "select {COLUMNS} from saved_searches where prefix = $1 and name = $2 and search is not null"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(prefix)
            .bind(name);
        query
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| unknown(name))
    }

    /// Creates or changes a saved search. The previous version is kept for [`Store::undo_search`].
    pub async fn save_search(
        &self,
        prefix: &str,
        name: &str,
        search: &SavedSearch,
        actor: &str,
    ) -> Result<SavedSearchRow, StoreError> {
        let query = format!(
            "insert into saved_searches as known (prefix, name, search, created_by, changed_by) select $1, $2, $3, $4, $4 \
             where (select count(*) from saved_searches where prefix = $1 and name <> $2 and search is not null) < $5 \
             on conflict (prefix, name) do update set search = $3, previous = known.search, changed_at = now(), changed_by = $4 \
             returning {COLUMNS}"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(prefix)
            .bind(name)
            .bind(Json(search))
            .bind(actor);
        query.bind(MAX_SAVED_SEARCHES).fetch_optional(&self.pool).await?.ok_or_else(|| {
            StoreError::Conflict(format!(
                "There are {MAX_SAVED_SEARCHES} saved searches, which is the limit. Delete one: patchbay search forget NAME"
            ))
        })
    }

    /// Deletes a saved search; this can be undone.
    pub async fn forget_search(
        &self,
        prefix: &str,
        name: &str,
        actor: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update saved_searches set previous = search, search = null, changed_at = now(), changed_by = $3 \
             where prefix = $1 and name = $2 and search is not null",
        );
        let done = query
            .bind(prefix)
            .bind(name)
            .bind(actor)
            .execute(&self.pool)
            .await?;
        if done.rows_affected() == 0 {
            Err(unknown(name))
        } else {
            Ok(())
        }
    }

    /// Restores the version before the last change; `None` when there was none. A second undo
    /// restores the present version.
    pub async fn undo_search(
        &self,
        prefix: &str,
        name: &str,
        actor: &str,
    ) -> Result<Option<Json<SavedSearch>>, StoreError> {
        let query = sqlx::query_scalar(
            "update saved_searches set search = previous, previous = search, changed_at = now(), changed_by = $3 \
             where prefix = $1 and name = $2 returning search",
        );
        let search: Option<Option<Json<SavedSearch>>> = query
            .bind(prefix)
            .bind(name)
            .bind(actor)
            .fetch_optional(&self.pool)
            .await?;
        search.ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> StoreError {
    StoreError::NotFound(format!(
        "There is no saved search {name}. See: patchbay search saved"
    ))
}

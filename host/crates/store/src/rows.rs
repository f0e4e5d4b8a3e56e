//! Decodes columns that several tables have.

use patchbay_model::{PluginName, RevisionDigest};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::StoreError;

/// A value in the host's tables that the host's types refuse: the data is damaged.
pub(crate) fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Internal(sqlx::Error::Decode(Box::new(error)))
}

pub(crate) fn digest(row: &PgRow, column: &str) -> Result<RevisionDigest, StoreError> {
    row.try_get::<String, _>(column)?.parse().map_err(damaged)
}

pub(crate) fn plugin(row: &PgRow) -> Result<PluginName, StoreError> {
    row.try_get::<String, _>("plugin")?.parse().map_err(damaged)
}

//! Ending what an operator has open.

use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::StoreError;

/// Ends the links of an operator that nobody has used.
pub(super) async fn drop_links(connection: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    sqlx::query("delete from operator_links where operator_id = $1 and used_at is null")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn revoke_sessions(
    connection: &mut PgConnection,
    operator: Uuid,
) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "update operator_sessions set revoked_at = now() where operator_id = $1 and revoked_at is null and ends_at > now()",
    );
    Ok(query
        .bind(operator)
        .execute(connection)
        .await?
        .rows_affected())
}

pub(super) async fn revoke_tokens(
    connection: &mut PgConnection,
    operator: Uuid,
    by: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "update operator_tokens set revoked_at = now(), revoked_by = $2 where operator_id = $1 and revoked_at is null",
    )
    .bind(operator)
    .bind(by)
    .execute(connection)
    .await?;
    Ok(())
}

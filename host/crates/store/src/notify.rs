//! The notification by which a process tells the others that something has changed.

use sqlx::PgConnection;

use crate::StoreError;

pub(crate) const CHANNEL: &str = "patchbay_plugins";

pub(crate) async fn notify(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select pg_notify($1, '')")
        .bind(CHANNEL)
        .execute(connection)
        .await?;
    Ok(())
}

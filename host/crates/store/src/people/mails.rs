//! Mails of the host that exist only after the commit of a transaction: they wait in a table until
//! their job is in its queue.

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::{Store, StoreError};

/// A mail that waits.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OutgoingMail {
    /// Also of its job, so that adding it twice adds it once.
    pub id: Uuid,
    /// What the application makes a job of.
    pub job: Value,
}

pub(super) async fn put(
    connection: &mut PgConnection,
    id: Uuid,
    job: &Value,
) -> Result<(), StoreError> {
    sqlx::query("insert into mail_outbox (id, job) values ($1, $2)")
        .bind(id)
        .bind(job)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// A mail that depends on nothing else.
    pub async fn put_mail(&self, id: Uuid, job: &Value) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        put(&mut connection, id, job).await
    }

    /// The mails that wait, the oldest first.
    pub async fn outgoing_mails(&self, most: i64) -> Result<Vec<OutgoingMail>, StoreError> {
        let query =
            sqlx::query_as("select id, job from mail_outbox order by created_at, id limit $1");
        Ok(query.bind(most).fetch_all(&self.pool).await?)
    }

    /// The job of a mail is in its queue.
    pub async fn forget_mail(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query("delete from mail_outbox where id = $1")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

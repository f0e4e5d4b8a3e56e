//! Mails of the host that exist only after the commit of a transaction: they wait in a table until
//! their job is in its queue.

use serde_json::Value;
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, Transaction};

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

    /// Locks the oldest mails that no other process has locked; `None` if there is none.
    pub async fn take_mails(&self, most: i64) -> Result<Option<MailBatch>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let query = sqlx::query_as(
            "select id, job from mail_outbox order by created_at, id limit $1 for update skip locked",
        );
        let mails: Vec<OutgoingMail> = query.bind(most).fetch_all(&mut *tx).await?;
        Ok((!mails.is_empty()).then_some(MailBatch { tx, mails }))
    }
}

/// Mails that this process has locked. When the batch is dropped, they are free again.
pub struct MailBatch {
    tx: Transaction<'static, Postgres>,
    pub mails: Vec<OutgoingMail>,
}

impl MailBatch {
    /// The jobs of these mails are in their queue.
    pub async fn done(mut self, added: &[Uuid]) -> Result<(), StoreError> {
        sqlx::query("delete from mail_outbox where id = any($1)")
            .bind(added)
            .execute(&mut *self.tx)
            .await?;
        self.tx.commit().await?;
        Ok(())
    }
}

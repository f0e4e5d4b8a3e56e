//! Who leads: for each task that one process of the fleet does for all, the leader is whose session
//! holds the task's advisory lock.
//!
//! The lock lives and dies with a connection of its own: a process that is killed loses it at once,
//! one that is cut off within about 15 s, when Postgres finds its connection dead. What a leader
//! writes it writes through that connection, so that a process that has lost the lock cannot write
//! any more. Needs sessions: not through a pooler that shares them between clients.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use crate::{Store, StoreError};

/// For the round trip that shows whether the lock is still held, and for taking it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// By which Postgres ends the session of a client that has vanished: after 5 s of silence it asks,
/// and gives up after two answers missing.
const KEEPALIVES: &str = "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 2; \
     set tcp_user_timeout = 15000";

/// Tasks of the leader, each with the number of its lock. Any numbers will do as long as they are
/// always these: hosts of several versions run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum LeaderTask {
    /// Evaluating the rules of alerts.
    Alerts = 0x7061_7463_6800_0001,
    /// Making and dropping partitions of the history.
    History = 0x7061_7463_6800_0002,
    /// Copying what other workers do.
    Mirror = 0x7061_7463_6800_0003,
    /// Working off bulk operations.
    Bulk = 0x7061_7463_6800_0004,
    /// Checking where the jobs of dead letters are.
    DeadLetters = 0x7061_7463_6800_0005,
    /// Forgetting requests to webhooks.
    Inbox = 0x7061_7463_6800_0031,
    /// Bringing requests to webhooks from Redis to Postgres.
    InboxSpill = 0x7061_7463_6800_0032,
    /// Copying what the audit trail is told of requests to routes.
    RouteAudit = 0x7061_7463_6800_0020,
    /// Sealing entries of audit trails.
    Seal = 0x7061_7463_6800_0021,
    /// Verifying the audit trails.
    VerifyAudit = 0x7061_7463_6800_0022,
    /// Replacing the keys of access tokens.
    TokenKeys = 0x7061_7463_6800_0023,
}

/// Stands for election as the leader of one task.
pub struct Elector {
    store: Store,
    task: LeaderTask,
    session: Option<PgConnection>,
}

/// Proof of the lock, and the connection that holds it.
pub struct Leadership<'a>(pub(crate) &'a mut PgConnection);

impl Store {
    /// Takes nothing yet; see [`Elector::try_lead`].
    pub fn elector(&self, task: LeaderTask) -> Elector {
        Elector {
            store: self.clone(),
            task,
            session: None,
        }
    }
}

impl Elector {
    /// Takes the lock, or shows that it is still held; nothing when another process holds it. To be
    /// called before each round of the task. An error means that Postgres does not answer: then
    /// nobody can tell who leads.
    pub async fn try_lead(&mut self) -> Result<Option<Leadership<'_>>, StoreError> {
        if let Some(mut session) = self.session.take()
            && matches!(
                tokio::time::timeout(ANSWER_WITHIN, session.ping()).await,
                Ok(Ok(()))
            )
        {
            return Ok(Some(Leadership(self.session.insert(session))));
        }
        let (task, store) = (self.task as i64, &self.store);
        let take = async {
            let mut session = store.session().await?;
            session.execute(KEEPALIVES).await?;
            let query = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(task);
            let is_ours: bool = query.fetch_one(&mut session).await?;
            if !is_ours {
                session.close().await?;
                return Ok(None);
            }
            Ok::<_, sqlx::Error>(Some(session))
        };
        let taken = tokio::time::timeout(ANSWER_WITHIN, take)
            .await
            .map_err(|_| StoreError::no_answer())??;
        Ok(taken.map(|session| Leadership(self.session.insert(session))))
    }

    /// Lets another process lead at once.
    pub async fn resign(&mut self) {
        if let Some(session) = self.session.take() {
            // One that cannot be closed ends with the process.
            tokio::time::timeout(ANSWER_WITHIN, session.close())
                .await
                .ok();
        }
    }
}

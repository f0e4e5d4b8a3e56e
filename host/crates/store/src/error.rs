//! Errors of this crate.

/// By what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer: try again.
    #[error("Postgres does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// No such row: give up.
    #[error("{0}")]
    NotFound(String),
    /// It clashes with the present state: decide.
    #[error("{0}")]
    Conflict(String),
    /// A migration failed: mend the database.
    #[error("a migration failed")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A bug or damaged data.
    #[error("an unexpected database error")]
    Internal(#[source] sqlx::Error),
}

impl StoreError {
    /// Nothing came within the caller's time limit.
    pub fn no_answer() -> Self {
        Self::Unavailable(sqlx::Error::PoolTimedOut)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                Self::Unavailable(error)
            }
            // 57P0x: shutting down or starting up; 53300: no connection left.
            sqlx::Error::Database(ref database)
                if database.code().is_some_and(|code| code.starts_with("57P") || code == "53300") =>
            {
                Self::Unavailable(error)
            }
            other => Self::Internal(other),
        }
    }
}

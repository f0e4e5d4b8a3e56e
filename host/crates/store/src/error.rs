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
    /// A text that Postgres cannot hold: give it another one.
    #[error("a text contains a character that Postgres cannot hold, such as NUL; leave it out")]
    Unstorable(#[source] sqlx::Error),
    /// Postgres cannot hold what it was given, now or later: give it something else.
    #[error("Postgres refuses a value")]
    Refused(#[source] sqlx::Error),
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
            // A connection that ends in the middle of an answer, above all while it is opened; the next try has another one.
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::Database(ref database) => match database.code() {
                Some(code) if is_passing(&code) => Self::Unavailable(error),
                // Not in the repertoire, not translatable.
                Some(code) if ["22021", "22P05"].contains(&code.as_ref()) => Self::Unstorable(error),
                Some(code) if is_about_the_value(&code) => Self::Refused(error),
                _ => Self::Internal(error),
            },
            other => Self::Internal(other),
        }
    }
}

/// What another try may not meet: connection (08), rolled back (40), read-only while a standby takes over, resources (53: connections,
/// disk, memory), and shutting down, starting up or too slow (57).
fn is_passing(code: &str) -> bool {
    code == "25006" || ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
}

/// Data (22), constraints (23), and limits on sizes (54).
fn is_about_the_value(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

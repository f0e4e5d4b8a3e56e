//! Errors of this crate.

/// By what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer: try again.
    #[error("{}", unavailable(.0))]
    Unavailable(#[source] sqlx::Error),
    /// Postgres answers and takes no change: try again, or connect to another one.
    #[error("Postgres may only be read: {0}")]
    ReadOnly(ReadOnly),
    /// This Postgres, or the way to it, cannot be used: mend it.
    #[error("{0}")]
    Unfit(String),
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

/// Why nothing can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It follows another server.
    Standby,
    /// A setting of the server, the database or the login says so.
    Setting,
    /// One of the two: a statement was refused.
    Unknown,
}

impl ReadOnly {
    pub(crate) fn of(is_standby: bool, is_read_only: bool) -> Option<Self> {
        match (is_standby, is_read_only) {
            (true, _) => Some(Self::Standby),
            (false, true) => Some(Self::Setting),
            (false, false) => None,
        }
    }
}

impl std::fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Standby => "it is a standby. Let DATABASE_URL name the primary, or promote this one",
            Self::Setting => {
                "default_transaction_read_only is on for the server, the database or the login. Turn it off: \
                 alter system, alter database or alter role … reset default_transaction_read_only"
            }
            Self::Unknown => "it is a standby, or default_transaction_read_only is on",
        })
    }
}

/// What the reason means to somebody who looks after Postgres.
fn unavailable(error: &sqlx::Error) -> &'static str {
    match error.as_database_error().and_then(|error| error.code()).as_deref() {
        Some("53300") => {
            "Postgres has no connection left for this host (max_connections, or the limit of its login or database)"
        }
        Some("57P03") => "Postgres is starting up or shutting down",
        _ => "Postgres does not answer",
    }
}

impl StoreError {
    /// Whether the same may work later, without anybody changing what is asked for.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::ReadOnly(_))
    }

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
            sqlx::Error::Configuration(reason) => Self::Unfit(format!(
                "DATABASE_URL cannot be read: {reason}. In a user name or password, write # as %23, / as %2F, ? as %3F and @ as %40"
            )),
            sqlx::Error::Database(ref database) => match database.code() {
                // Wrong password, or no line of pg_hba.conf.
                Some(code) if ["28P01", "28000"].contains(&code.as_ref()) => Self::Unfit(format!(
                    "Postgres refuses the login: {}. Compare DATABASE_URL (or DB_USERNAME and DB_PASSWORD) with Postgres's roles and pg_hba.conf",
                    database.message()
                )),
                Some(code) if code == "3D000" => Self::Unfit(format!(
                    "{}. Create it: createdb --encoding=UTF8 --template=template0 NAME; or correct DATABASE_URL (or DB_NAME)",
                    database.message()
                )),
                Some(code) if code == "25006" => Self::ReadOnly(ReadOnly::Unknown),
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

/// What another try may not meet: connection (08), rolled back (40), resources (53: connections, disk, memory), and shutting down,
/// starting up or too slow (57).
fn is_passing(code: &str) -> bool {
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
}

/// Data (22), constraints (23), and limits on sizes (54).
fn is_about_the_value(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

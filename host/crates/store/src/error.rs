/// Variants are distinguished by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer: retry.
    #[error("{}", unavailable(.0))]
    Unavailable(#[source] sqlx::Error),
    /// Postgres answers but refuses changes: retry, or connect to another server.
    #[error("Postgres accepts no changes: {0}")]
    ReadOnly(ReadOnly),
    /// This Postgres server, or the connection to it, cannot be used: an operator must repair it.
    #[error("{0}")]
    Unfit(String),
    /// There is no such row: give up.
    #[error("{0}")]
    NotFound(String),
    /// The change conflicts with the present state: the caller decides.
    #[error("{0}")]
    Conflict(String),
    /// Postgres cannot hold this text: send another one.
    #[error("A text has a character that Postgres cannot store, such as NUL; leave it out")]
    Unstorable(#[source] sqlx::Error),
    /// Postgres knows no such time: send another one.
    #[error("A time is outside of what Postgres knows: send one between the years 0001 and 9999")]
    NoSuchTime(#[source] sqlx::Error),
    /// Postgres cannot hold the value, now or later: send another one.
    #[error("Postgres refuses a value")]
    Refused(#[source] sqlx::Error),
    /// A migration failed: an operator must repair the database.
    #[error("A migration of the database failed")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A bug, or damaged data.
    #[error("Postgres answered with an unexpected error")]
    Internal(#[source] sqlx::Error),
}

/// Why nothing can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// The server is a standby of another server.
    Standby,
    /// A setting of the server, the database or the login forbids writing.
    Setting,
    /// A statement was refused, for one of the two reasons above.
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

/// The error's meaning for an administrator of Postgres.
fn unavailable(error: &sqlx::Error) -> &'static str {
    match error
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
    {
        Some("53300") => {
            "Postgres has no connection left for this host (max_connections, or the limit of its login or database)"
        }
        Some("57P03") => "Postgres is starting up or shutting down",
        _ => "Postgres does not answer",
    }
}

impl StoreError {
    /// Whether the same request may succeed later without a change.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::ReadOnly(_))
    }

    /// Postgres did not answer within the caller's time limit.
    pub fn no_answer() -> Self {
        Self::Unavailable(sqlx::Error::PoolTimedOut)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_) => Self::Unavailable(error),
            // A connection ended in the middle of an answer, usually while it was opened. The next
            // try uses another connection.
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::Configuration(reason) => Self::Unfit(format!(
                "DATABASE_URL cannot be read: {reason}. In a user name or password, write # as %23, / as %2F, ? as %3F and @ as %40"
            )),
            sqlx::Error::Database(ref database) => match database.code() {
                // Wrong password, or no matching line in pg_hba.conf.
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
                // Codes "character not in repertoire" and "untranslatable character".
                Some(code) if ["22021", "22P05"].contains(&code.as_ref()) => {
                    Self::Unstorable(error)
                }
                // "datetime field overflow"
                Some(code) if code == "22008" => Self::NoSuchTime(error),
                Some(code) if is_about_the_value(&code) => Self::Refused(error),
                _ => Self::Internal(error),
            },
            other => Self::Internal(other),
        }
    }
}

/// SQLSTATE classes that another try may not meet: connection (08), rollback (40), resources (53:
/// connections, disk, memory), and shutdown, start or timeout (57).
fn is_passing(code: &str) -> bool {
    ["08", "40", "53", "57"]
        .iter()
        .any(|class| code.starts_with(class))
}

/// SQLSTATE classes: data (22), constraints (23), and limits on sizes (54).
fn is_about_the_value(code: &str) -> bool {
    ["22", "23", "54"]
        .iter()
        .any(|class| code.starts_with(class))
}

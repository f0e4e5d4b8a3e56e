//! A failure as a guest sees it: code, message and constraint. Never the detail, which quotes rows.

use patchbay_model::PluginName;
use patchbay_model::sql::SqlError;

/// For a failed statement.
pub(super) fn guest(error: &sqlx::Error) -> SqlError {
    let Some(database) = error.as_database_error() else {
        if let sqlx::Error::Decode(reason) | sqlx::Error::Encode(reason) = error {
            return SqlError::new("invalid", reason.to_string());
        }
        tracing::warn!(%error, "A plugin's database connection failed");
        return SqlError::unavailable("the database connection broke");
    };
    let code = database
        .code()
        .map(std::borrow::Cow::into_owned)
        .unwrap_or_default();
    // 57014: statement_timeout; 57P01: ended by the host; 25P03: too long between statements.
    if matches!(code.as_str(), "57014" | "57P01" | "25P03") {
        return SqlError::timeout("the statement did not end before the deadline of the call");
    }
    let retryable = ["08", "40", "53", "57"]
        .iter()
        .any(|class| code.starts_with(class))
        || code == "55P03";
    SqlError {
        message: database.message().to_owned(),
        constraint: database.constraint().map(str::to_owned),
        retryable,
        code,
    }
}

/// For a failed connection. The reason is only for operators.
pub(super) fn connecting(plugin: &PluginName, error: &sqlx::Error) -> SqlError {
    tracing::warn!(%plugin, %error, "Cannot connect with the plugin's database login");
    SqlError::unavailable("the plugin's database login cannot connect")
}

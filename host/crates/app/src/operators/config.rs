//! What is configured of operators.

use std::time::Duration;

use crate::people::HashCost;

#[derive(Debug, Clone)]
pub struct OperatorsConfig {
    /// A session that is not used for so long has ended.
    pub session_idle: Duration,
    /// Longest life of a session.
    pub session: Duration,
    /// Passwords alone do not suffice.
    pub require_totp: bool,
    /// Longest life of a program's token, in days.
    pub token_max_days: u16,
    pub hash: HashCost,
    /// Refused logins leave at a multiple of this after their request began; zero: at once.
    pub answer_step: Duration,
    /// Name of the login of the configuration: nobody else gets it.
    pub basic_name: Option<String>,
}

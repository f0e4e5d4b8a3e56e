//! `[operators]`: operators with names of their own.

use std::time::Duration;

use patchbay_app::operators::OperatorsConfig;

use super::admin::Admin;
use super::key::{key, section};
use super::kind::{boolean, number};
use super::people::People;

section! {
    /// Operators.
    pub struct Operators {
        /// Minutes after which a session that nobody uses has ended
        session_idle_minutes: u64 = key("operators.session_idle_minutes", number(1..=1_440)).default("120");
        /// Longest life of a session, in hours
        session_hours: u64 = key("operators.session_hours", number(1..=168)).default("12");
        /// Operators need a second factor (TOTP) beside their password
        require_totp: bool = key("operators.require_totp", boolean()).default("true");
        /// Longest life of a token that an operator makes for a program, in days
        token_max_days: u16 = key("operators.token_max_days", number(1..=365)).default("365");
    }
}

impl Operators {
    pub fn operators(&self, admin: &Admin, people: &People) -> OperatorsConfig {
        OperatorsConfig {
            session_idle: Duration::from_secs(*self.session_idle_minutes * 60),
            session: Duration::from_secs(*self.session_hours * 3_600),
            require_totp: *self.require_totp,
            token_max_days: *self.token_max_days,
            hash: people.hash_cost(),
            answer_step: people.answer_step(),
            basic_name: admin.username.clone(),
        }
    }
}

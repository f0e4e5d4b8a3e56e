//! Jobs whose content nobody may see: mails about accounts, which hold codes that open an account.
//!
//! The host makes them, under ids that begin with [`ACCOUNT_MAIL`]. They run, are retried and are
//! removed like all others. Their data, results, logs and failure messages are recorded nowhere and
//! shown to nobody, also not on a reveal; they are neither edited nor copied. A job that somebody
//! else adds under such an id is treated in the same way: that hides a job from operators, but can
//! show none.

/// How the ids of mails about accounts begin.
pub const ACCOUNT_MAIL: &str = "account-mail-";

/// Whether nobody may see the content of the job with this id.
pub fn is_confidential(id: &str) -> bool {
    id.starts_with(ACCOUNT_MAIL)
}

/// Why what was asked for is not done or shown. Safe for an operator.
pub const REFUSAL: &str =
    "It is a mail about an account. Nobody may see, change or copy what such a mail says";

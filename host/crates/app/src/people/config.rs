//! What operators configure of accounts.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use patchbay_model::QueueName;
use patchbay_model::role::Role;
use zeroize::Zeroizing;

/// Life of an access token.
pub const ACCESS_LIFE: Duration = Duration::from_secs(15 * 60);
/// Life of one refresh token.
pub const REFRESH_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Life of the code of a signup.
pub const SIGNUP_CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long wrong codes count.
pub(super) const TRIES_FOR: Duration = Duration::from_secs(3_600);
/// Life of a code that sets a new password.
pub(super) const RESET_CODE_LIFE: Duration = Duration::from_secs(15 * 60);

#[derive(Clone)]
pub struct PeopleConfig {
    /// `schema.table` of the old backend.
    pub table: String,
    /// A boolean column by which the old backend blocks accounts.
    pub blocked_column: Option<String>,
    /// Least characters of a new password.
    pub password_min: usize,
    /// Signup and verification say whether an address has an account, as the old backend did.
    pub reveal_accounts: bool,
    /// The old backend still compares passwords: new hashes stay bcrypt.
    pub node_verifies_passwords: bool,
    /// Secrets for access tokens, with their `kid`; the first signs. Empty: the host's own keys.
    pub jwt_secrets: Vec<(String, Zeroizing<String>)>,
    pub hash: HashCost,
    /// Refused logins, and answers about codes, leave at a multiple of this after their request began; zero:
    /// at once.
    pub answer_step: Duration,
    /// Longest life of a session, however often it is refreshed.
    pub session: Duration,
    /// Where the jobs of mails go.
    pub mail_queue: QueueName,
    /// Platforms on which only accounts with one of these roles can log in.
    pub platform_roles: Vec<(String, Vec<Role>)>,
    pub google: Option<GoogleLogin>,
    pub master: Option<MasterLogin>,
}

/// Cost of an argon2id hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    pub memory_kib: u32,
    pub passes: u32,
}

/// The emergency login into any account.
#[derive(Clone)]
pub struct MasterLogin {
    /// argon2id, in its PHC form.
    pub password_hash: Zeroizing<String>,
    /// Of the one-time password (RFC 6238).
    pub totp_secret: Zeroizing<Vec<u8>>,
    /// Where it may come from; empty: from anywhere.
    pub networks: Vec<IpNet>,
}

/// Logging in with Google.
#[derive(Clone)]
pub struct GoogleLogin {
    /// The `aud` of accepted tokens.
    pub client_ids: Vec<String>,
    pub keys: GoogleKeySource,
}

/// Where the keys (a JSON Web Key Set) come from.
#[derive(Clone)]
pub enum GoogleKeySource {
    Url(String),
    File(PathBuf),
}

//! Keys that the host uses itself: for access tokens, codes and audit trails. No answer contains
//! one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::answer::{Data, List};
use crate::body::NoBody;
use crate::operation::NoQuery;
use crate::operations;

operations! {
    /// List the keys that the host uses itself, by what they are for, the youngest first. The keys
    /// themselves are never shown.
    KeysList = "keys.list": GET "/api/admin/keys" ((), NoQuery, NoBody) -> List<HostKey>,
        Viewer, Reads, errors [];
    /// Replace the key that signs access tokens. The new one signs once every running host knows
    /// it; the one before verifies until its last token has ended, 16 minutes later. No client
    /// notices.
    KeysRotate = "keys.rotate": POST "/api/admin/keys/jwt/rotate" ((), NoQuery, NoBody) -> Data<HostKey>,
        Owner, Changes, audit "key.rotate", errors [
            404 "`accounts-off`: this host serves no accounts",
            409 "`conflict`: a new key waits already; `keys-configured`: the keys are in the configuration; `no-vault-key`: no master key is configured",
        ];
    /// Replace the key that signs access tokens, and end all keys before at once, for a leak. Access
    /// tokens of all clients end; refresh tokens go on.
    KeysReplace = "keys.replace": POST "/api/admin/keys/jwt/replace" ((), NoQuery, NoBody) -> Data<HostKey>,
        Owner, Destroys("ends every access token: all clients must refresh theirs"), audit "key.replace", errors [
            404 "`accounts-off`: this host serves no accounts",
            409 "`keys-configured`: the keys are in the configuration; `no-vault-key`: no master key is configured",
        ];
}

/// A key that the host uses itself. The key is not in it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostKey {
    /// Names it; tells nothing of the key.
    pub kid: String,
    /// What it is for: `jwt` (access tokens), `codes`, `audit` and others.
    pub purpose: String,
    /// Where it comes from.
    pub source: HostKeySource,
    /// What it does now.
    pub state: HostKeyState,
    /// When it was made; null for a key of the configuration.
    pub created_at: Option<DateTime<Utc>>,
    /// Since when it signs; null while it waits, and for a key of the configuration.
    pub signs_from: Option<DateTime<Utc>>,
    /// Until when it verifies; null without an end.
    pub verifies_until: Option<DateTime<Utc>>,
    /// Running hosts that do not know it yet, while it waits.
    pub missing_on: Vec<String>,
    /// Why the answering host cannot open it; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Where a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostKeySource {
    /// Made by a host, and sealed by the master key.
    Vault,
    /// `people.jwt_secrets` or `people.jwt_secret` of the answering host.
    Configuration,
}

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostKeyState {
    /// It verifies, and signs once every running host knows it.
    Waits,
    /// It signs and verifies.
    Signs,
    /// It verifies what it has signed.
    Verifies,
}

//! Secrets of plugins: set, rotate, list, remove. No answer ever contains a value.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::answer::{Data, List, Nothing};
use crate::body::{ExpectedForm, NoBody, SecretJson};
use crate::operation::NoQuery;
use crate::plugins::PluginPath;
use crate::{operations, path_params};

path_params! {
    /// A secret of a plugin.
    SecretPath {
        /// Name of the plugin
        name: String,
        /// Name of the secret, as in the manifest
        secret: String,
    }
}

operations! {
    /// List the secrets that the vault holds for a plugin, and those that its manifest asks for.
    /// Values are never shown.
    SecretsList = "secrets.list": GET "/api/admin/plugins/{name}/secrets" (PluginPath, NoQuery, NoBody) -> List<Secret>,
        Viewer, Reads, errors [];
    /// Set a secret. Earlier versions expire at once.
    SecretsSet = "secrets.set": PUT "/api/admin/plugins/{name}/secrets/{secret}" (SecretPath, NoQuery, SecretJson<NewValue>) -> Data<Secret>,
        Owner, Changes, audit "secret.set", errors [409 "no key is configured"];
    /// Rotate a secret. The present version stays valid for the overlap and then expires.
    SecretsRotate = "secrets.rotate": POST "/api/admin/plugins/{name}/secrets/{secret}/rotate"
        (SecretPath, NoQuery, SecretJson<Rotation>) -> Data<Secret>,
        Owner, Changes, audit "secret.rotate", errors [409 "no key is configured, or an earlier rotation has not ended"];
    /// Remove a secret with all its versions.
    SecretsRemove = "secrets.remove": DELETE "/api/admin/plugins/{name}/secrets/{secret}" (SecretPath, NoQuery, NoBody) -> Nothing,
        Owner, Destroys("removes the secret with all its versions"), audit "secret.remove", errors [];
    /// Reseal every secret that was sealed with another master key, using the newest one. May be
    /// repeated.
    SecretsRekey = "secrets.rekey": POST "/api/admin/secrets/rekey" ((), NoQuery, NoBody) -> Data<Rekeyed>,
        Owner, Changes, audit "secret.rekey", errors [409 "no key is configured"];
}

/// A secret of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Name, as in manifests.
    pub name: String,
    /// Whether the manifest of the active revision asks for it (of the newest revision if none is
    /// active).
    pub asked: bool,
    /// Where the value comes from: `vault`, `environment` (of the answering host) or `none`.
    pub source: String,
    /// Valid versions, newest first.
    pub versions: Vec<SecretVersion>,
}

/// One version of a secret. Its value is never shown.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVersion {
    /// Number of the version, from 1.
    pub version: i32,
    /// The operator who set it.
    pub set_by: String,
    /// When it was set.
    pub set_at: DateTime<Utc>,
    /// When it expires; absent for the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// When a plugin last used it (inserted it, signed with it or verified against it), accurate to
    /// about half a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Why this host cannot open it; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// A secret value. It is wiped when dropped and never printed.
pub struct SecretText(pub Zeroizing<String>);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// For the client that sends it; no answer contains one.
impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A new value of a secret.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewValue {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    pub value: SecretText,
}

impl ExpectedForm for NewValue {
    const FORM: &'static str = r#"{"value": TEXT}"#;
}

/// A new value of a secret, with an overlap in which the present one stays valid.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    pub value: SecretText,
    /// How long the present version stays valid, in milliseconds.
    pub overlap_ms: u64,
}

impl ExpectedForm for Rotation {
    const FORM: &'static str = r#"{"value": TEXT, "overlapMs": NUMBER}"#;
}

/// Result of a rekey.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rekeyed {
    /// Id of the master key that seals now; not the key itself.
    pub key_id: String,
    /// Number of secret versions that were resealed.
    pub resealed: u64,
    /// Number of data keys of the history that were resealed.
    pub history_keys: u64,
    /// Number of keys of the host (for audit trails, for example) that were resealed.
    #[serde(default)]
    pub host_keys: u64,
    /// What no configured key can open: plugin, name and version of a secret, a key of the
    /// history, or a key of the host.
    pub unreadable: Vec<String>,
}

//! Secrets of plugins: set, rotate, list, remove. No answer ever holds a value.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::answer::{Data, List, Nothing};
use crate::body::{Form, NoBody, SecretJson};
use crate::operation::NoQuery;
use crate::plugins::PluginPath;
use crate::{operations, path_params};

path_params! {
    /// A secret of a plugin.
    SecretPath {
        /// Name of the plugin
        name: String,
        /// The secret, as the manifest calls it
        secret: String,
    }
}

operations! {
    /// The secrets that the vault holds for a plugin, and those that its manifest asks for. Never their values.
    SecretsList = "secrets.list": GET "/api/admin/plugins/{name}/secrets" (PluginPath, NoQuery, NoBody) -> List<Secret>,
        Operator, Reads, errors [];
    /// Set a secret. Any earlier version ends at once.
    SecretsSet = "secrets.set": PUT "/api/admin/plugins/{name}/secrets/{secret}" (SecretPath, NoQuery, SecretJson<NewValue>) -> Data<Secret>,
        Operator, Changes, audit "secret.set", errors [409 "no key is configured"];
    /// Rotate a secret. The present version stays valid for the overlap, and ends by itself.
    SecretsRotate = "secrets.rotate": POST "/api/admin/plugins/{name}/secrets/{secret}/rotate"
        (SecretPath, NoQuery, SecretJson<Rotation>) -> Data<Secret>,
        Operator, Changes, audit "secret.rotate", errors [409 "no key is configured, or an earlier rotation has not ended"];
    /// Remove a secret with all its versions.
    SecretsRemove = "secrets.remove": DELETE "/api/admin/plugins/{name}/secrets/{secret}" (SecretPath, NoQuery, NoBody) -> Nothing,
        Operator, Destroys("this forgets the secret with all its versions"), audit "secret.remove", errors [];
    /// Seal every secret with the newest master key that another one has sealed. May be repeated.
    SecretsRekey = "secrets.rekey": POST "/api/admin/secrets/rekey" ((), NoQuery, NoBody) -> Data<Rekeyed>,
        Operator, Changes, audit "secret.rekey", errors [409 "no key is configured"];
}

/// A secret of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// As manifests call it.
    pub name: String,
    /// Whether the plugin's manifest asks for it: that of the active revision, or else of the newest.
    pub asked: bool,
    /// `vault`, `environment` (of the host that answers) or `none`.
    pub source: String,
    /// Those that hold, the newest first.
    pub versions: Vec<SecretVersion>,
}

/// One version of a secret. Its value is never shown.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretVersion {
    /// Counts from 1.
    pub version: i32,
    /// The operator.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
    /// When it ends; absent for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// When a plugin last used it, to about half a minute: it was put in, signed with, or found to fit.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Why this host cannot open it, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// A value, which its holder wipes. Never printed.
pub struct SecretText(pub Zeroizing<String>);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// For the client that sends it; no answer has one.
impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A new value.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewValue {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    pub value: SecretText,
}

impl Form for NewValue {
    const FORM: &'static str = r#"{"value": TEXT}"#;
}

/// A new value, beside which the present one stays valid for a while.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    /// 1 to 65,536 bytes of text.
    #[schema(value_type = String, format = Password)]
    pub value: SecretText,
    /// How long the present version stays valid, milliseconds.
    pub overlap_ms: u64,
}

impl Form for Rotation {
    const FORM: &'static str = r#"{"value": TEXT, "overlapMs": NUMBER}"#;
}

/// What a rekeying did.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rekeyed {
    /// The key that seals now; an id, not the key.
    pub key_id: String,
    /// Versions that were sealed anew.
    pub resealed: u64,
    /// Keys of the history's data and results that were sealed anew.
    pub history_keys: u64,
    /// What no configured key opens: PLUGIN NAME, version, or a key of the history.
    pub unreadable: Vec<String>,
}

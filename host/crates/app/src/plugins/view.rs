//! What operators see of plugins.

use patchbay_model::grant::Ask;
use patchbay_model::signature::Standing;
use patchbay_model::{PluginName, RevisionDigest};
use serde::Serialize;
use serde_json::Value;

/// A staged revision, as its uploader sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Staged {
    /// The plugin's name.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// From its manifest.
    pub version: String,
    /// SHA-256 of the file.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// False when this very file was here already.
    pub created: bool,
    /// What it asks for.
    pub asks: Value,
    /// What of it no operator has granted yet.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Ask>,
    /// Who vouches for it, as far as this host can tell.
    pub signatures: Vec<Signed>,
}

/// A signature of a revision.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The first 16 hexadecimal digits of the SHA-256 of the public key, as the signature claims.
    pub key_id: String,
    /// What it is worth here.
    pub standing: Standing,
    /// Who pushed it.
    pub added_by: String,
    /// When.
    pub added_at: String,
}

/// What an activation did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activated {
    /// The plugin's name.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// From its manifest.
    pub version: String,
    /// Now active.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// False when it was the active one already.
    pub changed: bool,
    /// Active until now.
    #[schema(value_type = Option<String>)]
    pub previous: Option<RevisionDigest>,
    /// What it asks for, all of it granted.
    pub granted: Value,
    /// Granted with this activation.
    #[schema(value_type = Vec<String>)]
    pub newly_granted: Vec<Ask>,
    /// How it fares in every process, about a second later at most.
    pub hosts: Vec<HostState>,
}

/// How the active revision of a plugin fares in one process.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostState {
    /// `hostname:pid`.
    pub host: String,
    /// Of its binary.
    pub version: String,
    /// The revision that takes its calls there; absent when none does.
    #[schema(value_type = Option<String>)]
    pub running: Option<RevisionDigest>,
    /// Whether that is the active one.
    pub is_current: bool,
    /// Why it is not.
    pub failure: Option<String>,
    /// Nothing was heard of the process for so long, seconds: it was killed, or is cut off and runs on with what it last saw.
    pub silent_s: Option<u64>,
}

/// One thing that a plugin asks for or is granted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStory {
    /// Its text: give it to grant and revoke.
    #[schema(value_type = String)]
    pub ask: Ask,
    /// The active revision asks for it.
    pub asked_by_active: bool,
    /// The newest revision asks for it.
    pub asked_by_newest: bool,
    /// Who granted it; absent when it is not granted.
    pub granted_by: Option<String>,
    /// When.
    pub granted_at: Option<String>,
    /// Within the last 30 days, late by some seconds.
    pub uses: i64,
    /// The last day of those on which it was used.
    pub last_used: Option<String>,
}

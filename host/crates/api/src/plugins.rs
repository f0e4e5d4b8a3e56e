//! Plugins: their revisions, which one is active, what they are granted, their settings, and their database connections.

use patchbay_model::grant::Ask;
pub use patchbay_model::signature::Standing;
use patchbay_model::signature::{self, Signature};
use patchbay_model::{PluginName, RevisionDigest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use crate::answer::{AnyJson, Data, List, Media, Nothing, Schemas};
use crate::body::{AnyDocument, Body, Json, NoBody, Upload};
use crate::headers;
use crate::operation::NoQuery;
use crate::reveal::Reveal;
use crate::{operations, path_params};

path_params! {
    /// A plugin.
    PluginPath {
        /// Name of the plugin
        name: String,
    }
}

path_params! {
    /// A revision of a plugin.
    RevisionPath {
        /// Name of the plugin
        name: String,
        /// Digest, or an unambiguous beginning of at least 4 digits
        digest: String,
    }
}

operations! {
    /// All plugins.
    PluginsList = "plugins.list": GET "/api/admin/plugins" ((), NoQuery, NoBody) -> List<PluginSummary>,
        Operator, Reads, errors [];
    /// Stage a component file. Nothing runs on it until it is activated. A file that is here already gets the signatures that it did not have.
    PluginsPush = "plugins.push": POST "/api/admin/plugins" ((), NoQuery, SignedComponent) -> Data<Staged>,
        Operator, Changes, audit "plugin.push", errors [
            400 "a signature or a source that is none",
            409 "clashes with another plugin",
            413 "too large",
            422 "`rejected`, with the reason, or `untrusted`: not signed by a key that this host trusts",
        ];
    /// All revisions of a plugin, newest first.
    PluginsRevisions = "plugins.revisions": GET "/api/admin/plugins/{name}/revisions" (PluginPath, NoQuery, NoBody) -> List<RevisionSummary>,
        Operator, Reads, errors [];
    /// Make a revision the active one. Running calls finish on the old one.
    PluginsActivate = "plugins.activate": POST "/api/admin/plugins/{name}/activate" (PluginPath, NoQuery, Json<Activate>) -> Data<Activated>,
        Operator, Changes, audit "plugin.activate", errors [
            409 "`not-granted`, or it clashes with another plugin, the stored settings or the rights of the database",
            422 "`rejected` or `untrusted`",
        ];
    /// Activate the revision that was active before.
    PluginsRollback = "plugins.rollback": POST "/api/admin/plugins/{name}/rollback" (PluginPath, NoQuery, NoBody) -> Data<Activated>,
        Operator, Changes, audit "plugin.rollback", errors [409 "there is none, or it cannot be activated"];
    /// Stop a plugin. Its queues wait until a revision is activated again.
    PluginsDeactivate = "plugins.deactivate": POST "/api/admin/plugins/{name}/deactivate" (PluginPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "plugin.deactivate", errors [];
    /// Let a quarantined plugin take calls again, with the revision that it has. Its jobs go on where they were.
    PluginsRelease = "plugins.release": POST "/api/admin/plugins/{name}/release" (PluginPath, NoQuery, Json<Release>) -> Data<Released>,
        Operator, Changes, audit "plugin.release", errors [409 "it is not quarantined"];
    /// Forget a revision that is not active.
    PluginsDelete = "plugins.delete": DELETE "/api/admin/plugins/{name}/revisions/{digest}" (RevisionPath, NoQuery, NoBody) -> Data<String>,
        Operator, Destroys("this forgets the revision"), audit "plugin.delete", errors [409 "it is active"];
    /// Delete old revisions now, as the host does by itself: not the newest of each plugin, not what is active or quarantined, and not what was
    /// pushed, activated or ran a job lately (`plugins.keep_revisions`, `plugins.keep_days`).
    PluginsPrune = "plugins.prune": POST "/api/admin/plugins/prune" ((), NoQuery, Json<Prune>) -> List<PrunedRevision>,
        Operator, Destroys("this forgets old revisions"), audit "plugin.prune", errors [];
    /// A plugin on this host: which revision is active, which one runs, and why they differ.
    PluginsStatus = "plugins.status": GET "/api/admin/plugins/{name}/status" (PluginPath, NoQuery, NoBody) -> Data<PluginStatus>,
        Operator, Reads, errors [];
    /// Every activation, rollback and deactivation of a plugin, newest first.
    PluginsHistory = "plugins.history": GET "/api/admin/plugins/{name}/history" (PluginPath, NoQuery, NoBody) -> List<Activation>,
        Operator, Reads, errors [];
    /// What changed between two revisions of a plugin.
    PluginsDiff = "plugins.diff": GET "/api/admin/plugins/{name}/diff" (PluginPath, TwoRevisions, NoBody) -> Data<Difference>,
        Operator, Reads, errors [409 "more than one revision begins so"];
    /// What a plugin asks for, is granted, and has used in the last 30 days.
    PluginsGrants = "plugins.grants": GET "/api/admin/plugins/{name}/grants" (PluginPath, NoQuery, NoBody) -> List<GrantView>,
        Operator, Reads, errors [];
    /// Grant to a plugin what one of its revisions asks for. Takes effect on the next call.
    PluginsGrant = "plugins.grant": POST "/api/admin/plugins/{name}/grants" (PluginPath, NoQuery, Json<Asks>) -> Nothing,
        Operator, Changes, audit "plugin.grant", errors [404 "no such plugin, or nothing of it asks for that"];
    /// Take grants back. The next call is denied, on every host within a second; calls that run keep theirs.
    PluginsRevoke = "plugins.revoke": POST "/api/admin/plugins/{name}/grants/revoke" (PluginPath, NoQuery, Json<Asks>) -> List<String>,
        Operator, Changes, audit "plugin.revoke", errors [404 "not granted"];
    /// The stored settings, without defaults, and without what their names tell to be secret. With `reveal` all of them; that is recorded.
    PluginsSettings = "plugins.settings": GET "/api/admin/plugins/{name}/settings" (PluginPath, Reveal, NoBody) -> AnyJson,
        Operator, Reads, audit "plugin.reveal-settings", errors [];
    /// Replace the settings. They take effect on the next call.
    PluginsSetSettings = "plugins.set_settings": PUT "/api/admin/plugins/{name}/settings" (PluginPath, NoQuery, AnyDocument) -> Nothing,
        Operator, Changes, audit "plugin.settings", errors [400 "they do not fit the schema"];
}

/// A WebAssembly component with its manifest.
#[derive(Debug)]
pub enum Component {}

impl Media for Component {
    const TYPE: &'static str = "application/wasm";
    const ABOUT: &'static str = "a packed component";
}

/// A component file, with what its headers say about it.
#[derive(Debug)]
pub struct SignedComponent {
    /// The file.
    pub component: Vec<u8>,
    /// Of the file.
    pub signatures: Vec<Signature>,
    /// Where the file is from, for the record.
    pub source: Option<String>,
}

impl Body for SignedComponent {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Upload::<Component>::request_body(schemas)
    }

    fn headers() -> Vec<Parameter> {
        let header = |name: &str, about: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let header = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
            header.description(Some(about)).schema(Some(text)).build()
        };
        vec![
            header(
                signature::HEADER,
                "key id, `:`, base64 of the Ed25519 signature over `patchbay-v1\\0` and the file's SHA-256; may be repeated",
            ),
            header(
                headers::SOURCE.as_str(),
                "where the file is from, for the record of this action: at most 1024 characters of ASCII",
            ),
        ]
    }
}

/// A plugin in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginSummary {
    /// From its manifest.
    pub name: String,
    /// Of the active (or quarantined) revision; of the newest when there is none.
    pub version: String,
    /// Of the same revision.
    pub digest: String,
    /// Whether it takes calls.
    pub active: bool,
    /// Why its queues stand still, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<QuarantineView>,
    /// From its manifest.
    pub description: String,
    /// Whose jobs it runs.
    pub queues: Vec<String>,
    /// Method and path of each, such as `POST /api/leads/{leadId}/call`. Checked, but not served yet.
    pub routes: Vec<String>,
    /// Likewise, with the webhook's name first.
    pub webhooks: Vec<String>,
    /// How many revisions are kept.
    pub revisions: usize,
    /// Why the active revision does not run on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Processes that answer, and how many of them run the active revision.
    pub hosts: HostCount,
}

/// How far an activation has come.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HostCount {
    /// Processes that run the revision.
    pub running: usize,
    /// Processes that answer.
    pub of: usize,
}

/// A plugin that stands still.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QuarantineView {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Since when.
    pub since: String,
    /// Who saw it: `host NAME`.
    pub by: String,
    /// What was seen.
    pub reason: String,
}

/// A revision in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSummary {
    /// SHA-256 of the file.
    pub digest: String,
    /// From its manifest.
    pub version: String,
    /// `staged`, `active`, `retired` or `quarantined`.
    pub state: String,
    /// When it was pushed.
    pub created_at: String,
    /// Who pushed it.
    pub created_by: String,
    /// The last time; absent when it never was.
    pub activated_at: Option<String>,
    /// Of the file.
    pub size_bytes: i64,
    /// Attempts that it ran, as far as they are remembered.
    pub attempts: i64,
    /// Who vouches for it.
    pub signatures: Vec<SignatureView>,
}

/// A signature of a revision.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignatureView {
    /// The first 16 hexadecimal digits of the SHA-256 of the public key, as the signature claims.
    pub key_id: String,
    /// What it is worth here.
    pub standing: Standing,
    /// Who pushed it.
    pub added_by: String,
    /// When.
    pub added_at: String,
}

/// A staged revision, as its uploader sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    pub signatures: Vec<SignatureView>,
}

/// Which revision to activate.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// Its digest, or an unambiguous beginning of at least 4 digits.
    pub digest: String,
    /// Grant with it what it asks for and is not granted. Without that, such a revision is refused as `not-granted`.
    #[serde(default)]
    pub grant: bool,
}

/// What an activation did.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    pub hosts: Vec<HostView>,
}

/// How the active revision of a plugin fares in one process.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostView {
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

/// Why a plugin is let out of quarantine.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// For the next operator and the audit trail: 1 to 500 characters.
    pub reason: String,
}

/// What takes calls again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Released {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Of the revision.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
}

/// Whether to forget old revisions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prune {
    /// Only list them.
    #[serde(default)]
    pub dry_run: bool,
}

/// A revision that was, or would be, deleted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunedRevision {
    /// Name of the plugin.
    pub plugin: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// From its manifest.
    pub version: String,
    /// Of the file.
    pub size_bytes: i64,
}

/// A plugin on this host.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginStatus {
    /// From its manifest.
    pub name: String,
    /// What Postgres says is active.
    pub active: Option<String>,
    /// What takes new calls on this host; another one than `active` while that cannot be loaded.
    pub running: Option<String>,
    /// Why the active revision does not run on this host.
    pub failure: Option<String>,
    /// Why its queues stand still, if they do.
    pub quarantined: Option<QuarantineView>,
    /// Every process; empty when no revision is active.
    pub hosts: Vec<HostView>,
    /// Newest first.
    pub revisions: Vec<RevisionSummary>,
}

/// A change of which revision is active.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Activation {
    /// When.
    pub at: String,
    /// `activated`, `reactivated` (a rollback: it had been active before) or `deactivated`.
    pub action: String,
    /// Active from then on.
    pub digest: Option<String>,
    /// Absent when the revision is not kept any more.
    pub version: Option<String>,
    /// Who did it.
    pub actor: String,
    /// What it was granted.
    pub granted: Value,
}

/// Which two revisions to compare.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TwoRevisions {
    /// Digest, or an unambiguous beginning of at least 4 digits.
    pub from: String,
    /// The same.
    pub to: String,
}

/// What is not the same in two revisions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Digest.
    pub from: String,
    /// Digest.
    pub to: String,
    /// Sorted by part and name; empty when only the code differs.
    pub changes: Vec<Change>,
}

/// One part that is not the same in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Section of the manifest, `imports` or `exports`.
    pub part: String,
    /// Which one, where a section has several: a queue, a schedule, a rule, a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Absent when it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// One thing that a plugin asks for or is granted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
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

/// What is granted or revoked.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Asks {
    /// As they stand in the list of grants.
    #[schema(value_type = Vec<String>)]
    pub asks: Vec<Ask>,
}

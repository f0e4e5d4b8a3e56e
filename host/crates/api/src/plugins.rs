//! Plugins: their revisions, activation, grants and settings.

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
        /// Digest, or an unambiguous prefix of at least 4 digits
        digest: String,
    }
}

operations! {
    /// List all plugins.
    PluginsList = "plugins.list": GET "/api/admin/plugins" ((), NoQuery, NoBody) -> List<PluginSummary>,
        Viewer, Reads, errors [];
    /// Upload and stage a component file. It handles no calls until it is activated. If the file is
    /// already staged, its new signatures are added.
    PluginsPush = "plugins.push": POST "/api/admin/plugins" ((), NoQuery, SignedComponent) -> Data<Staged>,
        Operator, Changes, audit "plugin.push", errors [
            400 "a signature or a source cannot be read",
            409 "it conflicts with another plugin",
            413 "too large",
            422 "`rejected`, with the reason, or `untrusted`: not signed by a key that this host trusts",
        ];
    /// List all revisions of a plugin, newest first.
    PluginsRevisions = "plugins.revisions": GET "/api/admin/plugins/{name}/revisions" (PluginPath, NoQuery, NoBody) -> List<RevisionSummary>,
        Viewer, Reads, errors [];
    /// Activate a revision. Running calls finish on the previous one.
    PluginsActivate = "plugins.activate": POST "/api/admin/plugins/{name}/activate" (PluginPath, NoQuery, Json<Activate>) -> Data<Activated>,
        Operator, Changes, audit "plugin.activate", errors [
            409 "`not-granted`, or it conflicts with another plugin or the rights of the database",
            422 "`rejected`, `untrusted`, or `does-not-fit`: the stored settings do not fit its schema",
        ];
    /// Activate the revision that was active before the present one.
    PluginsRollback = "plugins.rollback": POST "/api/admin/plugins/{name}/rollback" (PluginPath, NoQuery, NoBody) -> Data<Activated>,
        Operator, Changes, audit "plugin.rollback", errors [
            409 "there is no earlier revision, or it cannot be activated",
            422 "`rejected`, `untrusted`, or `does-not-fit`: the stored settings do not fit its schema",
        ];
    /// Deactivate a plugin. Its queues wait until a revision is activated.
    PluginsDeactivate = "plugins.deactivate": POST "/api/admin/plugins/{name}/deactivate" (PluginPath, NoQuery, NoBody) -> Nothing,
        Operator, Changes, audit "plugin.deactivate", errors [];
    /// Release a plugin from quarantine, with its present revision. Its jobs continue where they
    /// were.
    PluginsRelease = "plugins.release": POST "/api/admin/plugins/{name}/release" (PluginPath, NoQuery, Json<Release>) -> Data<Released>,
        Operator, Changes, audit "plugin.release", errors [409 "it is not quarantined"];
    /// Delete a revision that is not active.
    PluginsDelete = "plugins.delete": DELETE "/api/admin/plugins/{name}/revisions/{digest}" (RevisionPath, NoQuery, NoBody) -> Data<String>,
        Owner, Destroys("deletes the revision"), audit "plugin.delete", errors [409 "it is active"];
    /// Delete old revisions now, as the host does periodically. Kept are the newest of each plugin,
    /// active and quarantined ones, and those that were recently pushed, activated or ran a job
    /// (`plugins.keep_revisions`, `plugins.keep_days`).
    PluginsPrune = "plugins.prune": POST "/api/admin/plugins/prune" ((), NoQuery, Json<Prune>) -> List<PrunedRevision>,
        Owner, Destroys("deletes old revisions"), audit "plugin.prune", errors [];
    /// Show a plugin on this host: which revision is active, which one runs, and why they differ.
    PluginsStatus = "plugins.status": GET "/api/admin/plugins/{name}/status" (PluginPath, NoQuery, NoBody) -> Data<PluginStatus>,
        Viewer, Reads, errors [];
    /// List every activation, rollback and deactivation of a plugin, newest first.
    PluginsHistory = "plugins.history": GET "/api/admin/plugins/{name}/history" (PluginPath, NoQuery, NoBody) -> List<Activation>,
        Viewer, Reads, errors [];
    /// Show what changed between two revisions of a plugin.
    PluginsDiff = "plugins.diff": GET "/api/admin/plugins/{name}/diff" (PluginPath, TwoRevisions, NoBody) -> Data<Difference>,
        Viewer, Reads, errors [409 "several revisions begin with that digest"];
    /// List what a plugin asks for, what it is granted, and what it used in the last 30 days.
    PluginsGrants = "plugins.grants": GET "/api/admin/plugins/{name}/grants" (PluginPath, NoQuery, NoBody) -> List<GrantView>,
        Viewer, Reads, errors [];
    /// Grant asks of a plugin's revisions. Takes effect on the next call.
    PluginsGrant = "plugins.grant": POST "/api/admin/plugins/{name}/grants" (PluginPath, NoQuery, Json<Asks>) -> Nothing,
        Owner, Changes, audit "plugin.grant", errors [404 "there is no plugin of that name, or no revision of it asks for that"];
    /// Revoke grants. The next call is denied, on every host within a second; running calls keep
    /// their grants.
    PluginsRevoke = "plugins.revoke": POST "/api/admin/plugins/{name}/grants/revoke" (PluginPath, NoQuery, Json<Asks>) -> List<String>,
        Operator, Changes, audit "plugin.revoke", errors [404 "not granted"];
    /// Show the stored settings, without defaults. Settings with names of secrets are hidden;
    /// `reveal` shows them, which is recorded.
    PluginsSettings = "plugins.settings": GET "/api/admin/plugins/{name}/settings" (PluginPath, Reveal, NoBody) -> AnyJson,
        Viewer, Reads, audit "plugin.reveal-settings", data Shown(&[]), errors [];
    /// Show the JSON Schema that the settings must fit: of the active revision, or of the newest one
    /// if none is active. Null if that revision has no settings.
    PluginsSettingsSchema = "plugins.settings_schema": GET "/api/admin/plugins/{name}/settings/schema" (PluginPath, NoQuery, NoBody) -> AnyJson,
        Viewer, Reads, errors [];
    /// Replace the settings. They take effect on the next call.
    PluginsSetSettings = "plugins.set_settings": PUT "/api/admin/plugins/{name}/settings" (PluginPath, NoQuery, AnyDocument) -> Nothing,
        Operator, Changes, audit "plugin.settings", errors [422 "`does-not-fit`: they do not fit the schema"];
}

/// A WebAssembly component that contains its manifest.
#[derive(Debug)]
pub enum Component {}

impl Media for Component {
    const TYPE: &'static str = "application/wasm";
    const ABOUT: &'static str = "a packed component";
}

/// A component file together with its request headers.
#[derive(Debug)]
pub struct SignedComponent {
    /// The file.
    pub component: Vec<u8>,
    /// Signatures of the file.
    pub signatures: Vec<Signature>,
    /// Where the file comes from, for the record.
    pub source: Option<String>,
}

impl Body for SignedComponent {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Upload::<Component>::request_body(schemas)
    }

    fn headers() -> Vec<Parameter> {
        let header = |name: &str, about: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let header = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Header);
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
    /// Name from its manifest.
    pub name: String,
    /// Version of the active or quarantined revision; of the newest one if there is neither.
    pub version: String,
    /// Digest of the same revision.
    pub digest: String,
    /// Whether it takes calls.
    pub active: bool,
    /// Present while the plugin is quarantined and its queues wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<QuarantineView>,
    /// Description from its manifest.
    pub description: String,
    /// Queues whose jobs it handles.
    pub queues: Vec<String>,
    /// Method and path of each route, such as `POST /api/leads/{leadId}/call`.
    pub routes: Vec<String>,
    /// Name, method and path of each webhook.
    pub webhooks: Vec<String>,
    /// Number of revisions that are kept.
    pub revisions: usize,
    /// Why the active revision does not run on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Number of live processes, and how many of them run the active revision.
    pub hosts: HostCount,
}

/// How many processes run the active revision.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HostCount {
    /// Live processes that run the revision.
    pub running: usize,
    /// All live processes.
    pub of: usize,
}

/// A quarantine of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QuarantineView {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// When it was quarantined.
    pub since: String,
    /// The process that detected the crashes: `host NAME`.
    pub by: String,
    /// Why it was quarantined.
    pub reason: String,
}

/// A revision in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSummary {
    /// SHA-256 of the file.
    pub digest: String,
    /// Version from its manifest.
    pub version: String,
    /// `staged`, `active`, `retired` or `quarantined`.
    pub state: String,
    /// When it was pushed.
    pub created_at: String,
    /// Who pushed it.
    pub created_by: String,
    /// When it was last activated; absent if never.
    pub activated_at: Option<String>,
    /// Size of the file.
    pub size_bytes: i64,
    /// Number of its attempts that are in the history.
    pub attempts: i64,
    /// Signatures of the file.
    pub signatures: Vec<SignatureView>,
}

/// A signature of a revision.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignatureView {
    /// The first 16 hexadecimal digits of the SHA-256 of the public key, as stated in the
    /// signature.
    pub key_id: String,
    /// Result of checking it on this host.
    pub standing: Standing,
    /// Who pushed it.
    pub added_by: String,
    /// When it was pushed.
    pub added_at: String,
}

/// A staged revision, as shown to its uploader.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Version from its manifest.
    pub version: String,
    /// SHA-256 of the file.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// False if the same file was already staged.
    pub created: bool,
    /// Everything that it asks for.
    pub asks: Value,
    /// Asks that no operator has granted yet.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Ask>,
    /// Secrets that it asks for and that have no value on this host yet.
    #[serde(default)]
    pub secrets_without_value: Vec<String>,
    /// Signatures of the file, as checked on this host.
    pub signatures: Vec<SignatureView>,
}

/// Which revision to activate.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// Its digest, or an unambiguous prefix of at least 4 digits.
    pub digest: String,
    /// Also grant all its missing asks. Without this, a revision with missing grants is refused as
    /// `not-granted`.
    #[serde(default)]
    pub grant: bool,
}

/// Result of an activation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activated {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Version from its manifest.
    pub version: String,
    /// Digest of the revision that is active now.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
    /// False if the revision was already active, and nothing was granted.
    pub changed: bool,
    /// Digest of the other revision that was active before.
    #[schema(value_type = Option<String>)]
    pub previous: Option<RevisionDigest>,
    /// Version of that revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
    /// The revision was active before, too, or quarantined.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_active: bool,
    /// This has ended its quarantine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Everything that it asks for, all of it granted.
    pub granted: Value,
    /// Asks that were granted with this activation.
    #[schema(value_type = Vec<String>)]
    pub newly_granted: Vec<Ask>,
    /// Secrets that it asks for and that have no value on this host yet: what needs them fails.
    #[serde(default)]
    pub secrets_without_value: Vec<String>,
    /// State in every process, after waiting up to about a second.
    pub hosts: Vec<HostView>,
}

/// State of a plugin's active revision in one process.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostView {
    /// The process, as `hostname:pid`.
    pub host: String,
    /// Version of the host binary.
    pub version: String,
    /// Digest of the revision that takes calls there; absent if none does.
    #[schema(value_type = Option<String>)]
    pub running: Option<RevisionDigest>,
    /// Whether that is the active revision.
    pub is_current: bool,
    /// Why it does not run the active revision.
    pub failure: Option<String>,
    /// Seconds since the last sign of life, if it is silent: it was killed, or it is cut off and
    /// continues with its last known state.
    pub silent_s: Option<u64>,
}

/// A release from quarantine.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Why, for the next operator and the audit trail: 1 to 500 characters.
    pub reason: String,
}

/// The plugin and revision that take calls again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Released {
    /// Name of the plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Digest of the revision.
    #[schema(value_type = String)]
    pub digest: RevisionDigest,
}

/// Options of deleting old revisions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prune {
    /// Only list them.
    #[serde(default)]
    pub dry_run: bool,
}

/// A revision that was deleted, or would be.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunedRevision {
    /// Name of the plugin.
    pub plugin: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Version from its manifest.
    pub version: String,
    /// Size of the file.
    pub size_bytes: i64,
}

/// A plugin on this host.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginStatus {
    /// Name from its manifest.
    pub name: String,
    /// Digest of the active revision, as in Postgres.
    pub active: Option<String>,
    /// Digest of the revision that takes new calls on this host; differs from `active` while that
    /// one cannot be loaded.
    pub running: Option<String>,
    /// Why the active revision does not run on this host.
    pub failure: Option<String>,
    /// Present while the plugin is quarantined and its queues wait.
    pub quarantined: Option<QuarantineView>,
    /// Every process; empty if no revision is active.
    pub hosts: Vec<HostView>,
    /// Revisions, newest first.
    pub revisions: Vec<RevisionSummary>,
}

/// A change of the active revision.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Activation {
    /// When it happened.
    pub at: String,
    /// `activated`, `reactivated` (a rollback to a revision that was active before) or
    /// `deactivated`.
    pub action: String,
    /// Digest of the revision that became active.
    pub digest: Option<String>,
    /// Version of that revision; absent if the revision is no longer kept.
    pub version: Option<String>,
    /// Who did it.
    pub actor: String,
    /// Why, in the words of whoever did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the revision was granted.
    pub granted: Value,
}

/// The two revisions to compare.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TwoRevisions {
    /// Digest of the first revision, or an unambiguous prefix of at least 4 digits.
    pub from: String,
    /// Digest of the second revision, or an unambiguous prefix of at least 4 digits.
    pub to: String,
}

/// Differences between two revisions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Digest of the first revision.
    pub from: String,
    /// Digest of the second revision.
    pub to: String,
    /// Sorted by part and name; empty when only the code differs.
    pub changes: Vec<Change>,
}

/// One difference between two revisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Section of the manifest, `imports` or `exports`.
    pub part: String,
    /// Name within the section, if it has several: of a queue, schedule, rule or secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Value in the first revision; absent if the part is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Value in the second revision; absent if the part was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// An ask of a plugin, and whether it is granted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    /// Text of the ask, as accepted by grant and revoke.
    #[schema(value_type = String)]
    pub ask: Ask,
    /// Whether the active revision asks for it.
    pub asked_by_active: bool,
    /// Whether the newest revision asks for it.
    pub asked_by_newest: bool,
    /// Who granted it; absent if it is not granted.
    pub granted_by: Option<String>,
    /// When it was granted.
    pub granted_at: Option<String>,
    /// Uses within the last 30 days, delayed by some seconds.
    pub uses: i64,
    /// The last day of these on which it was used.
    pub last_used: Option<String>,
}

/// Asks to grant or revoke.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Asks {
    /// Asks, as written in the list of grants.
    #[schema(value_type = Vec<String>)]
    pub asks: Vec<Ask>,
}

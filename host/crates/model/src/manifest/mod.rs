//! The manifest: what a plugin is, what it asks for, and which queues it serves.
//!
//! Written as `plugin.toml`, carried in the component file as canonical JSON (`{"format":1,…}`,
//! schemas inlined). [`Manifest::from_value`] reads both, so both accept the same. Unknown keys are
//! refused: a typo must not silently drop a limit.

mod at_run_time;
mod overlaps;
mod path;
mod queues;
mod route_checks;
#[cfg(test)]
mod route_tests;
mod routes;
mod schedules;
mod webhook_check;
mod webhooks;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::AuditSpec;
use crate::breaker::BreakerSpec;
use crate::build::{BuildSpec, Export};
pub use crate::egress::{EgressAuth, EgressRule};
use crate::id::{PluginName, QueueName};
use crate::json_schema;
use crate::serde_errors;
use crate::sql::SqlSpec;

pub use self::at_run_time::{AccountsSpec, CredentialsSpec, RuntimeSchedulesSpec};
pub use self::overlaps::{Endpoint, Overlap};
pub use self::path::{PathError, RoutePath};
pub use self::queues::{BackoffSpec, JobSpec, KeepSpec, QueueSpec, RateSpec, RetentionSpec};
pub use self::routes::{
    AuditNames, BodyType, CacheScope, CacheSpec, Cors, Envelope, Guard, HttpMethod, Idempotency,
    RateBy, RouteAccess, RouteAudit, RouteRate, RouteSpec, UnavailableSpec,
};
pub use self::schedules::ScheduleSpec;
pub use self::webhook_check::{
    HmacCheck, HmacEncoding, HmacHash, TokenCheck, TokenPlace, WebhookCheck,
};
pub use self::webhooks::{HandshakeMethod, WebhookRate, WebhookSpec, WhenUnavailable};

/// The only packed format so far.
pub const FORMAT: u32 = 1;
/// Largest packed manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Versions of the contract with plugins. The configuration decides whether a host accepts drafts.
const WIT_VERSIONS: [&str; 2] = ["0.1", "0.2"];

/// A checked manifest. Build one with [`Manifest::from_toml`] or [`Manifest::from_packed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout: [`FORMAT`].
    pub format: u32,
    /// The plugin's name.
    pub name: PluginName,
    /// The plugin's version, for people; the digest distinguishes revisions.
    pub version: semver::Version,
    /// The WIT version that it was built against, for example `0.1`.
    pub wit: String,
    /// One line, shown in lists.
    #[serde(default)]
    pub description: String,
    /// Limits of one call.
    #[serde(default)]
    pub limits: Limits,
    /// The operator's settings and their JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsSpec>,
    /// Secrets that the host uses on the plugin's behalf.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSpec>,
    /// Rules for outbound HTTP. Requests that no rule covers are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
    /// Queues of other plugins that it may add jobs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enqueue: Option<EnqueueSpec>,
    /// Key-value storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvSpec>,
    /// Sending mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp: Option<SmtpSpec>,
    /// Queues whose jobs it handles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<QueueSpec>,
    /// Database tables that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlSpec>,
    /// Audit trails that it may append to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditSpec>,
    /// Jobs that are made on a schedule, in the plugin's own queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleSpec>,
    /// Schedules that it makes at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_schedules: Option<RuntimeSchedulesSpec>,
    /// Credentials that it hands over at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
    /// Accounts that it proposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountsSpec>,
    /// HTTP routes that its operations answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Requests of vendors that become jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<WebhookSpec>,
}

/// Limits of one call. Absent values are the host's defaults; the host's ceilings always apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Wall-clock time, including outside calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Concurrent calls of this plugin, per process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
}

/// The operator's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsSpec {
    /// JSON Schema, draft 2020-12: a path in plugin.toml, the document itself when packed.
    pub schema: Value,
}

/// A secret by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Upper case, as in an environment variable.
    pub name: String,
}

/// Queues of other plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnqueueSpec {
    /// Names of the queues.
    pub queues: BTreeSet<QueueName>,
}

/// Key-value storage: the plugin's own space, and shared ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvSpec {
    /// Shared prefixes. A key that begins with one is kept there, not in the plugin's own space.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Seconds that values without a time to live are kept; default 7 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_ttl_s: Option<u64>,
}

/// Sending mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSpec {
    /// Whether the plugin sends mail.
    pub allowed: bool,
    /// When calls to the mail server are refused for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML or not JSON, an unknown key, a wrong type.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    /// A file that it names is missing or broken.
    #[error("{key}: cannot use {path}: {reason}")]
    File {
        /// The key that names the file.
        key: String,
        /// The path as written.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// A value that makes no sense, or two that contradict each other.
    #[error("{key}: {reason}")]
    Invalid {
        /// Path of the key, for example `egress[0].url`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Several of them, told at once.
    #[error("{} problems:{}", .0.len(), .0.iter().map(|(key, reason)| format!("\n  - {key}: {reason}")).collect::<String>())]
    Several(Vec<Problem>),
}

/// A key, and what is wrong with it.
pub type Problem = (String, String);

/// Nothing, or all that is wrong.
fn refused(mut problems: Vec<Problem>) -> Result<(), ManifestError> {
    match problems.len() {
        0 => Ok(()),
        1 => {
            let (key, reason) = problems.remove(0);
            Err(invalid(key, reason))
        }
        _ => Err(ManifestError::Several(problems)),
    }
}

fn invalid(key: impl Into<String>, reason: impl Into<String>) -> ManifestError {
    ManifestError::Invalid {
        key: key.into(),
        reason: reason.into(),
    }
}

impl Manifest {
    /// `read_file` returns the text of a file named in it, relative to the manifest's folder.
    pub fn from_toml(
        text: &str,
        read_file: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, ManifestError> {
        Self::with_build_from_toml(text, read_file).map(|(manifest, _)| manifest)
    }

    /// As [`Self::from_toml`], with the section `[build]`, which a manifest does not keep.
    pub fn with_build_from_toml(
        text: &str,
        read_file: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(Self, BuildSpec), ManifestError> {
        let mut value: Value =
            toml::from_str(text).map_err(|e| ManifestError::Unreadable(e.to_string()))?;
        let build =
            BuildSpec::take_from(&mut value).map_err(|(key, reason)| invalid(key, reason))?;
        if value.get("format").is_some() {
            return Err(invalid(
                "format",
                "must be left out: `patchbay plugin pack` adds it",
            ));
        }
        value["format"] = FORMAT.into();
        for (key, schema) in schema_slots(&mut value) {
            let Some(path) = schema.as_str().map(str::to_owned) else {
                continue;
            };
            let file_error = |reason: String| ManifestError::File {
                key: key.clone(),
                path: path.clone(),
                reason,
            };
            let text = read_file(&path).map_err(file_error)?;
            *schema = serde_json::from_str(&text).map_err(|e| file_error(e.to_string()))?;
        }
        let manifest = Self::from_value(value)?;
        // The author should hear of a conflict here, before a host refuses the plugin.
        if let Some((key, overlap)) = manifest.keyed_overlap_with_host() {
            return Err(invalid(key, overlap.to_string()));
        }
        Ok((manifest, build))
    }

    /// Reads the content of a `patchbay:manifest` section.
    pub fn from_packed(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Unreadable(format!(
                "larger than {MAX_MANIFEST_BYTES} bytes"
            )));
        }
        let value =
            serde_json::from_slice(bytes).map_err(|e| ManifestError::Unreadable(e.to_string()))?;
        Self::from_value(value)
    }

    /// The content of a `patchbay:manifest` section: the same manifest always gives the same bytes.
    pub fn to_packed(&self) -> Vec<u8> {
        // Through `Value`, whose maps are sorted, so that nested schemas are canonical too.
        let value = serde_json::to_value(self).expect("a manifest is plain data");
        serde_json::to_vec(&value).expect("a value is plain data")
    }

    /// Reads the manifest in a revision's row. Its schemas are not checked: staging has checked
    /// them, and each use of a schema checks it again. All other checks are made.
    pub fn from_stored(value: Value) -> Result<Self, ManifestError> {
        let routes = value.get("routes").cloned().unwrap_or_default();
        let manifest: Self = serde_errors::from_value(value).map_err(|reason| {
            // Whoever writes routes hears of all their problems at once.
            match route_checks::problems_of(&routes) {
                problems if problems.len() > 1 => ManifestError::Several(problems),
                _ => ManifestError::Unreadable(reason),
            }
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn from_value(value: Value) -> Result<Self, ManifestError> {
        let manifest = Self::from_stored(value)?;
        manifest.check_schemas()?;
        Ok(manifest)
    }

    /// Interfaces of `patchbay:plugin` that the manifest asks for. Every plugin has `log`,
    /// `progress`, `settings` and `flows` (which adds jobs only to queues that the manifest names).
    pub fn asked_interfaces(&self) -> BTreeSet<&'static str> {
        let mut asked = BTreeSet::from(["types", "log", "progress", "settings", "flows"]);
        let optional = [
            (!self.secrets.is_empty(), "secrets"),
            (!self.egress.is_empty(), "http"),
            (self.enqueue.is_some(), "queue"),
            (self.kv.is_some(), "kv"),
            (self.smtp.as_ref().is_some_and(|smtp| smtp.allowed), "smtp"),
            (self.sql.is_some(), "sql"),
            (self.audit.is_some(), "audit"),
            (self.runtime_schedules.is_some(), "schedules"),
            (self.credentials.is_some(), "credentials"),
            (self.accounts.is_some(), "accounts"),
        ];
        asked.extend(
            optional
                .into_iter()
                .filter_map(|(used, name)| used.then_some(name)),
        );
        asked
    }

    /// Interfaces that the plugin's own world exports.
    pub fn exports(&self, build: &BuildSpec) -> Vec<Export> {
        if !build.exports.is_empty() {
            return build.exports.clone();
        }
        let (queues, routes, webhooks) = (
            !self.queues.is_empty(),
            !self.routes.is_empty(),
            !self.webhooks.is_empty(),
        );
        let operations = routes || !queues;
        let called = [
            (queues, Export::Jobs),
            (operations, Export::Operations),
            (webhooks, Export::Webhooks),
        ];
        called
            .into_iter()
            .filter_map(|(is_called, export)| is_called.then_some(export))
            .collect()
    }

    pub fn queue(&self, name: &QueueName) -> Option<&QueueSpec> {
        self.queues.iter().find(|queue| &queue.name == name)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(invalid(
                "format",
                format!("must be {FORMAT}, the format that this host reads"),
            ));
        }
        if !WIT_VERSIONS.contains(&self.wit.as_str()) {
            return Err(invalid(
                "wit",
                "must be \"0.1\" or, as a draft, \"0.2\": this host serves no other version",
            ));
        }
        self.check_limits()?;
        self.check_secrets_and_egress()?;
        self.sql
            .as_ref()
            .map_or(Ok(()), SqlSpec::check)
            .map_err(|(key, reason)| invalid(key, reason))?;
        if self
            .audit
            .as_ref()
            .is_some_and(|spec| spec.trails.is_empty())
        {
            return Err(invalid(
                "audit.trails",
                "name at least one, or leave [audit] out",
            ));
        }
        self.check_queues()?;
        self.check_schedules()?;
        self.check_made_at_run_time()?;
        refused(self.route_problems())?;
        self.check_webhooks()?;
        self.check_endpoints()
    }

    fn check_limits(&self) -> Result<(), ManifestError> {
        for (key, zero) in [
            ("limits.memory_mb", self.limits.memory_mb == Some(0)),
            ("limits.deadline_ms", self.limits.deadline_ms == Some(0)),
            (
                "limits.max_concurrency",
                self.limits.max_concurrency == Some(0),
            ),
        ] {
            if zero {
                return Err(invalid(key, "must be at least 1"));
            }
        }
        Ok(())
    }

    fn check_schemas(&self) -> Result<(), ManifestError> {
        let settings = self
            .settings
            .iter()
            .map(|spec| ("settings.schema".to_owned(), &spec.schema));
        let jobs = self.queues.iter().flat_map(|queue| {
            let schema =
                |job: &'_ JobSpec| format!("queues.{}.jobs.{}.schema", queue.name, job.name);
            queue
                .jobs
                .iter()
                .filter_map(move |job| Some((schema(job), job.schema.as_ref()?)))
        });
        for (key, schema) in settings.chain(jobs) {
            json_schema::check(schema).map_err(|reason| invalid(key, reason))?;
        }
        let of_routes = self.route_schemas().filter_map(|(key, schema)| {
            let reason = json_schema::check(schema).err()?;
            Some((key, reason))
        });
        refused(of_routes.collect())
    }

    fn check_secrets_and_egress(&self) -> Result<(), ManifestError> {
        let mut secrets = BTreeSet::new();
        for (i, secret) in self.secrets.iter().enumerate() {
            let key = format!("secrets[{i}].name");
            let valid = !secret.name.is_empty()
                && secret.name.len() <= 64
                && secret
                    .name
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !valid {
                return Err(invalid(
                    key,
                    "must be 1 to 64 characters of A-Z, 0-9 and '_'",
                ));
            }
            if !secrets.insert(secret.name.as_str()) {
                return Err(invalid(key, "is named twice"));
            }
        }
        if let Some(spec) = self.smtp.as_ref().and_then(|smtp| smtp.breaker.as_ref()) {
            spec.check()
                .map_err(|(field, reason)| invalid(format!("smtp.breaker.{field}"), reason))?;
        }
        crate::egress::check(&self.egress, &secrets).map_err(|(key, reason)| invalid(key, reason))
    }
}

/// Every place where plugin.toml may name a schema file, with its key.
fn schema_slots(value: &mut Value) -> Vec<(String, &mut Value)> {
    let mut slots = Vec::new();
    let Some(root) = value.as_object_mut() else {
        return slots;
    };
    for (section, content) in root {
        match (section.as_str(), content) {
            ("settings", Value::Object(settings)) => {
                slots.extend(
                    settings
                        .get_mut("schema")
                        .map(|schema| ("settings.schema".to_owned(), schema)),
                );
            }
            ("queues", Value::Array(queues)) => {
                for (i, queue) in queues.iter_mut().enumerate() {
                    let jobs = queue
                        .get_mut("jobs")
                        .and_then(Value::as_array_mut)
                        .into_iter()
                        .flatten();
                    for (j, job) in jobs.enumerate() {
                        let schema = job.get_mut("schema");
                        slots.extend(
                            schema.map(|schema| (format!("queues[{i}].jobs[{j}].schema"), schema)),
                        );
                    }
                }
            }
            ("routes", Value::Array(routes)) => {
                for (i, route) in routes.iter_mut().enumerate() {
                    let Some(route) = route.as_object_mut() else {
                        continue;
                    };
                    let schemas = route
                        .iter_mut()
                        .filter(|(key, _)| ["input", "output"].contains(&key.as_str()));
                    slots.extend(
                        schemas.map(|(key, schema)| (format!("routes[{i}].{key}"), schema)),
                    );
                }
            }
            _ => {}
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name = \"email\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n";

    fn read(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::from_toml(text, |path| match path {
            "settings.schema.json" => Ok(r#"{"type":"object"}"#.into()),
            "broken.json" => Ok("{".into()),
            _ => Err("no such file".into()),
        })
    }

    fn refused(addition: &str) -> String {
        read(&format!("{MINIMAL}{addition}"))
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn a_packed_manifest_reads_back_the_same_and_always_has_the_same_bytes() {
        let text = format!(
            "{MINIMAL}[settings]\nschema = \"settings.schema.json\"\n[[queues]]\nname = \"emailQueue\"\n"
        );
        let manifest = read(&text).expect("valid");
        let packed = manifest.to_packed();
        assert_eq!(Manifest::from_packed(&packed).expect("valid"), manifest);
        assert_eq!(
            Manifest::from_packed(&packed).expect("valid").to_packed(),
            packed
        );
    }

    #[test]
    fn a_typo_is_refused_and_named() {
        assert!(refused("[limits]\nmemory_mbb = 64\n").contains("memory_mbb"));
    }

    #[test]
    fn contradictions_are_refused_and_named() {
        assert!(
            refused("[[queues]]\nname = \"a\"\n[[queues]]\nname = \"a\"\n")
                .contains("is named twice")
        );
        let concurrency =
            "[limits]\nmax_concurrency = 2\n[[queues]]\nname = \"a\"\nconcurrency = 3\n";
        assert!(refused(concurrency).contains("more than limits.max_concurrency"));
        let reserved = "[[queues]]\nname = \"a\"\nconcurrency = 2\nreserved = 3\n";
        assert!(refused(reserved).contains("queues[0].reserved: 3 is more than concurrency = 2"));
        let priority = "[[queues]]\nname = \"a\"\n[[queues.jobs]]\nname = \"j\"\npriority = 0\n";
        assert!(refused(priority).contains("queues[0].jobs[0].priority"));
        let queue = |more: &str| refused(&format!("[[queues]]\nname = \"a\"\n{more}\n"));
        assert!(
            queue("searchable = [\"a..b\"]")
                .contains("queues[0].searchable[0]: \"a..b\" is not a path")
        );
        assert!(queue("redact = [\"a\", \"a\"]").contains("queues[0].redact: a is named twice"));
        let nine: Vec<String> = (0..9).map(|n| format!("\"p{n}\"")).collect();
        assert!(
            queue(&format!("searchable = [{}]", nine.join(", ")))
                .contains("searchable: must have at most 8 paths")
        );
        let auth = "[[egress]]\nurl = \"https://a.example/**\"\nmethods = [\"GET\"]\nauth = { bearer = { token = \"T\" } }\n";
        assert!(refused(auth).contains("T is not in [[secrets]]"));
        assert!(
            refused("[smtp]\nallowed = true\nbreaker = { failures = 0 }\n")
                .contains("smtp.breaker.failures")
        );
        let backoff =
            "[[queues]]\nname = \"a\"\nbackoff = { type = \"fixed\", delay_ms = 5, max_ms = 1 }\n";
        assert!(refused(backoff).contains("backoff.max_ms: must be at least delay_ms"));
        assert!(refused("[audit]\ntrails = []\n").contains("audit.trails: name at least one"));
        assert!(refused("[audit]\ntrails = [\"Leads!\"]\n").contains("audit trail name"));
    }

    #[test]
    fn tables_need_a_schema_a_known_privilege_and_each_privilege_once() {
        let tables = |text: &str| format!("[sql]\ntables = {{ {text} }}\n");
        assert!(refused(&tables("leads = [\"select\"]")).contains("must name its schema"));
        assert!(
            refused(&tables("\"patchbay.outbox\" = [\"select\"]")).contains("the schema patchbay")
        );
        assert!(
            refused(&tables("\"crm.leads\" = [\"truncate\"]"))
                .contains("must be select, insert, update or delete")
        );
        assert!(
            refused(&tables("\"crm.leads\" = [\"select\", \"select(id)\"]"))
                .contains("select is named twice")
        );
        assert!(refused(&tables("\"crm.leads\" = []")).contains("at least one"));
        assert!(refused(&tables("")).contains("at least one table"));
    }

    #[test]
    fn schema_files_that_are_missing_or_broken_are_named() {
        assert!(refused("[settings]\nschema = \"missing.json\"\n").contains("missing.json"));
        assert!(refused("[settings]\nschema = \"broken.json\"\n").contains("broken.json"));
    }

    #[test]
    fn an_unknown_wit_version_is_refused() {
        let text = MINIMAL.replace("0.1\"", "0.9\"");
        assert!(
            read(&text)
                .expect_err("refused")
                .to_string()
                .contains("wit: must be \"0.1\"")
        );
    }
}

//! The configuration: `patchbay.toml` and the environment, which wins. The only reader of the environment.
//!
//! Everything wrong is reported at once, each with its key; nothing starts on a configuration that contradicts itself.

mod keys;
mod redis;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use patchbay_app::alert::rule::is_link;
use patchbay_app::alert::{AlertConfig, ChannelConfig};
use patchbay_app::vault::{self, KeySource};
use patchbay_capability::{EgressConfig, MailConfig, MailTls};
use patchbay_http::HttpLimits;
use patchbay_mailbox::{AddressError, Mailbox, domain_to_ascii, parse_list};
use patchbay_model::PluginName;
use patchbay_model::schedule::Zone;
use patchbay_model::signature::{TrustedKeys, read_public_keys};
use patchbay_runtime::{CompilerCommand, HostLimits, RuntimeConfig};
use patchbay_store::{Keep, KeepAttempts, StoreConfig};
use patchbay_work::body_budget::Recording;
use zeroize::Zeroizing;

pub use keys::{KEYS, Key, Kind};

use patchbay_telemetry::traces::TraceConfig;
use patchbay_work::quarantine::{Policy, Rule};

/// Our variables that are no configuration keys: read by the command line client, by tests, and for secrets.
const OTHER_VARIABLES: &[&str] = &[
    "PATCHBAY_URL",
    "PATCHBAY_USER",
    "PATCHBAY_PASSWORD",
    "PATCHBAY_REGISTRY_USER",
    "PATCHBAY_REGISTRY_PASSWORD",
    "PATCHBAY_CONFIG",
    "PATCHBAY_BIN",
];
const OTHER_PREFIXES: &[&str] = &["PATCHBAY_SECRET_", "PATCHBAY_TEST_"];
/// Longest wait for a free database connection: a request that waits longer is better told so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a value comes from that nobody set.
const DEFAULT: &str = "default";
const DEFAULT_ZONE: &str = "schedule.default_zone";
/// The file that is found in the folder where a command is run.
const HERE: &str = "patchbay.toml";
/// The contract's default limits.
const MAX_RESULT_BYTES: usize = 1 << 20;
const MAX_LOG_BYTES: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    values: BTreeMap<&'static str, Setting>,
    secrets: HashMap<String, String>,
    cache_dir: PathBuf,
    trusted_keys: TrustedKeys,
}

#[derive(Clone)]
struct Setting {
    value: String,
    /// For people: a variable's name, the file, or [`DEFAULT`].
    source: String,
}

/// Everything that is wrong, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A key as it stands, for `patchbay config`.
#[derive(Debug, serde::Serialize)]
pub struct Shown {
    /// Section and name.
    pub key: &'static str,
    /// `(set)` for secrets.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// The variable that sets it.
    pub variable: String,
    /// What it means.
    pub about: &'static str,
}

fn usable((config, problems): (Config, Vec<String>)) -> Result<Config, ConfigError> {
    if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
}

/// The file that is named, else the first of the usual ones that is there.
fn found(named: Option<&Path>, usual: &[&str]) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| usual.iter().map(PathBuf::from).find(|path| path.exists()))
}

/// The process's variables. Values that are not UTF-8 are left out: most are somebody else's.
pub(crate) fn environment() -> HashMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

/// What is wrong with those of ours whose values are not UTF-8.
fn unreadable_variables() -> Vec<String> {
    let is_ours = |name: &str| {
        name.starts_with("PATCHBAY_")
            || KEYS.iter().any(|key| key.old_names.contains(&name))
            || ["PORT", "TZ"].contains(&name)
    };
    let names = std::env::vars_os().filter(|(_, value)| value.to_str().is_none()).map(|(name, _)| name.into_string());
    names.flatten().filter(|name| is_ours(name)).map(|name| format!("{name}: its value is not UTF-8")).collect()
}

fn read_file_of_keys(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

impl Config {
    /// From the process's environment and this file, or `patchbay.toml` here or in /etc/patchbay.
    pub fn from_process(file: Option<&Path>) -> Result<Self, ConfigError> {
        usable(Self::read_process(file))
    }

    /// The same, with what is wrong beside it: to be shown, and not to be used.
    pub fn read_process(file: Option<&Path>) -> (Self, Vec<String>) {
        Self::read_process_with(found(file, &[HERE, "/etc/patchbay/patchbay.toml"]), &environment())
    }

    /// As the host of `patchbay dev` reads it, which was given more than the environment. The machine's own file is no business of its.
    pub(crate) fn of_dev(file: Option<&Path>, given: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        usable(Self::read_dev(file, &environment().into_iter().chain(given).collect()))
    }

    /// The same, with what is wrong beside it.
    pub(crate) fn read_dev(file: Option<&Path>, env: &HashMap<String, String>) -> (Self, Vec<String>) {
        Self::read_process_with(found(file, &[HERE]), env)
    }

    fn read_process_with(path: Option<PathBuf>, env: &HashMap<String, String>) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let text = path.and_then(|path| {
            let text = std::fs::read_to_string(&path);
            text.inspect_err(|error| problems.push(format!("cannot read {}: {error}", path.display()))).ok()
        });
        let (config, wrong) = Self::read(text.as_deref(), env, read_file_of_keys);
        problems.extend(wrong);
        problems.extend(unreadable_variables());
        (config, problems)
    }

    /// From the text of a file and an environment. The only other thing that is read is the file of trusted keys.
    pub fn load(file: Option<&str>, env: &HashMap<String, String>) -> Result<Self, ConfigError> {
        usable(Self::read(file, env, read_file_of_keys))
    }

    fn read(
        file: Option<&str>,
        env: &HashMap<String, String>,
        read: impl Fn(&str) -> Result<String, String>,
    ) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut values = BTreeMap::new();
        for key in KEYS {
            if let Some(default) = key.default {
                values.insert(key.path, Setting { value: default.to_owned(), source: DEFAULT.into() });
            }
        }
        let mut has_all_values = read_file(file, &mut values, &mut problems);
        read_environment(env, &mut values, &mut problems);
        for key in KEYS {
            if let Some(setting) = values.get(key.path)
                && let Err(reason) = check(key, &setting.value)
            {
                has_all_values = false;
                let shown = if key.secret { String::new() } else { format!(" {:?}", setting.value) };
                problems.push(format!("{} (from {}): value{shown} {reason}", key.path, setting.source));
            }
        }
        let secrets = env
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("PATCHBAY_SECRET_")?.to_owned(), value.clone())));
        let trusted_keys = trusted_keys(&values, read, &mut problems);
        let config = Self { values, secrets: secrets.collect(), cache_dir: default_cache_dir(env), trusted_keys };
        // Of values that could not be read, what they contradict is unknown.
        if has_all_values {
            config.find_contradictions(&mut problems);
        }
        (config, problems)
    }

    fn find_contradictions(&self, problems: &mut Vec<String>) {
        let number = |path| self.number(path);
        let exclusive = [
            ("database.url", "database.host"),
            ("redis.url", "redis.host"),
            ("secrets.key_file", "secrets.key"),
            ("secrets.old_key_file", "secrets.old_key"),
        ];
        for (url, part) in exclusive {
            if let (Some(a), Some(b)) = (self.values.get(url), self.values.get(part)) {
                problems.push(format!(
                    "{url} (from {}) and {part} (from {}) contradict each other: set one",
                    a.source, b.source
                ));
            }
        }
        self.find_contradictions_of_redis(problems);
        for (needed, what) in
            [("database", "DATABASE_URL or DB_HOST"), ("redis", "REDIS_URL or REDIS_HOST, or redis.sentinels")]
        {
            if !["url", "host", "sentinels"].into_iter().any(|part| self.has(&format!("{needed}.{part}"))) {
                problems.push(format!("{needed}.url is not set: set {what} (`patchbay dev` needs neither)"));
            }
        }
        for (name, password) in [("admin.username", "admin.password"), ("mail.username", "mail.password")] {
            if self.has(name) != self.has(password) {
                problems.push(format!("{name} and {password} belong together: set both or none"));
            }
        }
        for old in ["secrets.old_key_file", "secrets.old_key"] {
            if self.has(old) && !self.has("secrets.key_file") && !self.has("secrets.key") {
                problems.push(format!("{old} is set and no new key: set secrets.key_file"));
            }
        }
        let must_not_exceed = [
            ("database.pool_min", "database.pool_max"),
            ("runtime.memory_mb", "runtime.max_memory_mb"),
            ("runtime.deadline_ms", "runtime.max_deadline_ms"),
            ("quarantine.crashes", "quarantine.calls"),
            ("quarantine.jobs", "quarantine.crashes"),
        ];
        for (small, large) in must_not_exceed {
            if number(small) > number(large) {
                problems.push(format!("{small} ({}) is more than {large} ({})", number(small), number(large)));
            }
        }
        for key in ["alerts.webhook_url", "alerts.slack_url", "alerts.ping_url"] {
            if self.has(key) && self.web_url(key).is_none() {
                problems.push(format!("{key} is no http:// or https:// URL"));
            }
        }
        if !is_link(&self.text("alerts.runbook_base").unwrap_or_default()) {
            problems.push("alerts.runbook_base is neither an http:// or https:// URL nor a path".into());
        }
        for key in ["mail.from", "alerts.mail_to"] {
            if let Some(text) = self.text(key)
                && let Err(error) = one_or_more(key, &text)
            {
                problems.push(format!("{key}: {text:?} {error}"));
            }
        }
        if let Some(name) = self.text("mail.hello_name").filter(|name| domain_to_ascii(name).is_none()) {
            problems.push(format!("mail.hello_name: {name:?} is neither a domain nor an address in brackets"));
        }
        if self.has("alerts.mail_to") && (self.mail().is_none() || self.mail_from().is_none()) {
            problems.push("alerts.mail_to is set and no mail server or sender: set mail.host and mail.from".into());
        }
        if let Some(text) = self.text("telemetry.otlp_endpoint") {
            match self.collector() {
                None => problems.push(format!("telemetry.otlp_endpoint {text:?} is no http:// or https:// URL")),
                Some(url) if !url.username().is_empty() || url.password().is_some() => {
                    problems.push(
                        "telemetry.otlp_endpoint has a login: put credentials into telemetry.otlp_headers".into(),
                    );
                }
                Some(_) => {}
            }
        }
        if number("work.renew_s") * 2 >= number("work.lock_s") {
            let (renew, lock) = (number("work.renew_s"), number("work.lock_s"));
            problems.push(format!("work.renew_s ({renew}) must be less than half of work.lock_s ({lock}), or locks are lost while jobs run"));
        }
        if number("work.drain_limit_s") >= number("work.stop_grace_s") {
            let (drain, grace) = (number("work.drain_limit_s"), number("work.stop_grace_s"));
            problems.push(format!("work.drain_limit_s ({drain}) must be less than work.stop_grace_s ({grace}), or the supervisor kills running jobs"));
        }
    }

    /// The table of `patchbay config`.
    pub fn shown(&self) -> Vec<Shown> {
        let show = |key: &'static Key| {
            let setting = self.values.get(key.path);
            Shown {
                key: key.path,
                value: setting.map(|setting| if key.secret { "(set)".into() } else { setting.value.clone() }),
                source: setting.map(|setting| setting.source.clone()),
                variable: key.variable(),
                about: key.about,
            }
        };
        KEYS.iter().map(show).collect()
    }

    /// Whether the file or the environment sets one of these.
    pub(crate) fn sets(&self, paths: &[&str]) -> bool {
        paths.iter().any(|path| self.values.get(path).is_some_and(|setting| setting.source != DEFAULT))
    }

    fn has(&self, path: &str) -> bool {
        self.values.contains_key(path)
    }

    fn text(&self, path: &str) -> Option<String> {
        self.values.get(path).map(|setting| setting.value.clone())
    }

    /// Of a key with a default, or 0. Checked when loaded.
    fn number(&self, path: &str) -> u64 {
        self.values.get(path).and_then(|setting| setting.value.parse().ok()).unwrap_or_default()
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs(self.number(path))
    }

    /// Of requests and jobs that name none.
    pub fn default_platform(&self) -> String {
        self.text("default_platform").unwrap_or_default()
    }

    /// Plugin calls at once.
    pub fn max_calls(&self) -> usize {
        self.number("runtime.max_calls") as usize
    }

    /// Shown by the health check.
    pub fn environment(&self) -> String {
        self.text("environment").unwrap_or_default()
    }

    /// Where to serve HTTP.
    pub fn listen(&self) -> SocketAddr {
        let listen = self.text("http.listen").and_then(|text| text.parse().ok());
        listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)))
    }

    /// Postgres.
    pub fn store(&self) -> StoreConfig {
        let part = |name| percent_encoded(&self.text(name).unwrap_or_default());
        let mut url = self.text("database.url").map_or_else(
            || {
                let password = self.text("database.password").map(|text| format!(":{}", percent_encoded(&text)));
                format!(
                    "postgres://{}{}@{}:{}/{}",
                    part("database.username"),
                    password.unwrap_or_default(),
                    host_in_url(&self.text("database.host").unwrap_or_default()),
                    self.number("database.port"),
                    part("database.name"),
                )
            },
            |url| without_empty_host(&url),
        );
        for (key, parameter) in [("database.tls", "sslmode"), ("database.ca_file", "sslrootcert")] {
            if let Some(value) = self.text(key) {
                let before = if url.contains('?') { '&' } else { '?' };
                // Writing to a String cannot fail.
                let _ = write!(url, "{before}{parameter}={}", percent_encoded(&value));
            }
        }
        StoreConfig {
            url,
            min_connections: self.number("database.pool_min") as u32,
            max_connections: self.number("database.pool_max") as u32,
            acquire_timeout: ACQUIRE_TIMEOUT,
        }
    }

    /// What clients may take.
    pub fn http_limits(&self) -> HttpLimits {
        HttpLimits {
            header_timeout: Duration::from_millis(self.number("http.header_timeout_ms")),
            body_timeout: Duration::from_millis(self.number("http.body_timeout_ms")),
            write_timeout: Duration::from_millis(self.number("http.write_timeout_ms")),
            max_connections: self.number("http.max_connections") as usize,
            allowed_origins: {
                let list = self.text("http.allowed_origins").unwrap_or_default();
                list_of(&list).map(str::to_owned).collect()
            },
            trusted_proxies: {
                let list = self.text("http.trusted_proxies").unwrap_or_default();
                // Checked when it was read.
                list_of(&list).filter_map(network).collect()
            },
        }
    }

    /// The mail account, if there is one.
    pub fn mail(&self) -> Option<MailConfig> {
        let username = self.text("mail.username");
        // The old backend knew Gmail only.
        let host = self.text("mail.host").or_else(|| username.as_ref().map(|_| "smtp.gmail.com".to_owned()))?;
        Some(MailConfig {
            host,
            port: self.number("mail.port") as u16,
            tls: match self.text("mail.tls").as_deref() {
                Some("none") => MailTls::None,
                Some("starttls") => MailTls::StartTls,
                _ => MailTls::Implicit,
            },
            username,
            password: self.text("mail.password"),
            hello_name: self.text("mail.hello_name"),
            timeout: Duration::from_millis(self.number("mail.timeout_ms")),
            max_message_bytes: (self.number("mail.max_message_mb") as usize) << 20,
        })
    }

    /// Sender of plugins that set none.
    pub fn mail_from(&self) -> Option<String> {
        // A login need be no address.
        let username = || self.text("mail.username").filter(|name| name.parse::<Mailbox>().is_ok());
        self.text("mail.from").or_else(username)
    }

    /// Database connections of all plugins together.
    pub fn sql_max_connections(&self) -> usize {
        self.number("sql.max_connections") as usize
    }

    /// The operator's exceptions and trust roots.
    pub fn egress(&self) -> EgressConfig {
        let list = self.text("egress.allow_addresses").unwrap_or_default();
        EgressConfig {
            allow_addresses: list_of(&list).map(str::to_owned).collect(),
            ca_file: self.text("egress.ca_file").map(PathBuf::from),
        }
    }

    /// The master key of the vault, and the one before it.
    pub fn master_keys(&self) -> [Option<KeySource>; 2] {
        [("secrets.key_file", "secrets.key"), ("secrets.old_key_file", "secrets.old_key")].map(|(file, key)| {
            let path = self.text(file).map(|path| KeySource::File { key: file, path: path.into() });
            path.or_else(|| Some(KeySource::Text { key, text: Zeroizing::new(self.text(key)?) }))
        })
    }

    /// Whose signatures let a plugin run.
    pub fn trusted_keys(&self) -> TrustedKeys {
        self.trusted_keys.clone()
    }

    /// `PATCHBAY_SECRET_<PLUGIN>_<NAME>`, or for all plugins `PATCHBAY_SECRET_<NAME>`.
    pub fn plugin_secret(&self, plugin: &PluginName, name: &str) -> Option<String> {
        let own = format!("{}_{name}", plugin.as_str().replace('-', "_").to_ascii_uppercase());
        self.secrets.get(&own).or_else(|| self.secrets.get(name)).cloned()
    }

    /// Name and password of the operator.
    pub fn operator(&self) -> Option<(String, String)> {
        self.text("admin.username").zip(self.text("admin.password"))
    }

    /// For manifests that name none.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.number("runtime.deadline_ms"))
    }

    /// Whether BullMQ 5 works on the same queues.
    pub fn node_may_be_bullmq_5(&self) -> bool {
        self.text("redis.node_bullmq_major").as_deref() == Some("5")
    }

    /// When a plugin crashes too often; nothing when that is never.
    pub fn quarantine_rule(&self) -> Option<Rule> {
        let count = |path| self.number(path) as usize;
        (self.text("quarantine.policy").as_deref() != Some("off")).then(|| Rule {
            calls: count("quarantine.calls"),
            crashes: count("quarantine.crashes"),
            jobs: count("quarantine.jobs"),
            within: self.seconds("quarantine.within_s"),
        })
    }

    /// What then becomes of it.
    pub fn quarantine_policy(&self) -> Policy {
        match self.text("quarantine.policy").as_deref() {
            Some("previous") => Policy::Previous,
            _ => Policy::Wait,
        }
    }

    /// Where alerts go, and how often they are looked for.
    pub fn alerts(&self) -> AlertConfig {
        let mail_to = self.text("alerts.mail_to").unwrap_or_default();
        AlertConfig {
            channels: ChannelConfig {
                webhook: self.web_url("alerts.webhook_url"),
                slack: self.web_url("alerts.slack_url"),
                // Checked at start.
                mail_to: parse_list(&mail_to).unwrap_or_default(),
                mail: self.mail().zip(self.mail_from().and_then(|from| from.parse().ok())),
            },
            ping: self.web_url("alerts.ping_url"),
            every: Duration::from_millis(self.number("alerts.every_ms")),
            repeat: self.seconds("alerts.repeat_s"),
            runbooks: self.text("alerts.runbook_base").unwrap_or_default(),
            environment: self.environment(),
        }
    }

    fn web_url(&self, key: &str) -> Option<url::Url> {
        let url = self.text(key)?.parse::<url::Url>().ok()?;
        matches!(url.scheme(), "http" | "https").then_some(url)
    }

    fn collector(&self) -> Option<url::Url> {
        let url = self.text("telemetry.otlp_endpoint")?.parse::<url::Url>().ok()?;
        matches!(url.scheme(), "http" | "https").then_some(url)
    }

    /// Where traces go, if anywhere. `host` names this process.
    pub fn traces(&self, host: &str) -> Option<TraceConfig> {
        let headers = self.text("telemetry.otlp_headers").unwrap_or_default();
        let header = |(name, value): (&str, &str)| (name.trim().to_owned(), percent_decoded(value.trim()));
        Some(TraceConfig {
            endpoint: self.collector()?,
            headers: list_of(&headers).filter_map(|header| header.split_once('=')).map(header).collect(),
            sample_ratio: self.text("telemetry.sample_ratio").and_then(|text| text.parse().ok()).unwrap_or(1.0),
            propagate_to: list_of(&self.text("telemetry.propagate_to").unwrap_or_default())
                .map(str::to_owned)
                .collect(),
            environment: self.environment(),
            host: host.to_owned(),
        })
    }

    /// Of cron expressions that name no time zone.
    pub fn default_zone(&self) -> Zone {
        // Checked when it was read.
        self.text(DEFAULT_ZONE).and_then(|zone| zone.parse().ok()).unwrap_or(Zone::UTC)
    }

    /// Over all queues.
    pub fn max_jobs(&self) -> usize {
        self.number("work.max_jobs") as usize
    }

    /// On running jobs.
    pub fn lock(&self) -> Duration {
        self.seconds("work.lock_s")
    }

    /// Of those locks.
    pub fn renew(&self) -> Duration {
        self.seconds("work.renew_s")
    }

    /// Before a job fails.
    pub fn max_stalls(&self) -> u32 {
        self.number("work.max_stalls") as u32
    }

    /// After SIGTERM.
    pub fn drain_limit(&self) -> Duration {
        self.seconds("work.drain_limit_s")
    }

    /// Largest component file.
    pub fn max_component_bytes(&self) -> usize {
        (self.number("runtime.max_component_mb") as usize) << 20
    }

    /// Compiled plugins.
    pub fn cache_dir(&self) -> PathBuf {
        self.text("runtime.cache_dir").map_or_else(|| self.cache_dir.clone(), PathBuf::from)
    }

    /// The sandbox.
    pub fn runtime(&self, compiler: CompilerCommand, cache_key: [u8; 32]) -> RuntimeConfig {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        RuntimeConfig {
            cache_dir: self.cache_dir(),
            compiler: Some(compiler),
            compile_timeout: self.seconds("runtime.compile_timeout_s"),
            compile_memory_bytes: self.number("runtime.compile_memory_mb") << 20,
            max_calls: self.max_calls(),
            worker_threads: self
                .text("runtime.threads")
                .map_or_else(processors, |_| self.number("runtime.threads") as usize),
            limits: HostLimits {
                default_memory_mb: self.number("runtime.memory_mb") as u32,
                max_memory_mb: self.number("runtime.max_memory_mb") as u32,
                default_deadline: self.default_deadline(),
                max_deadline: Duration::from_millis(self.number("runtime.max_deadline_ms")),
                max_result_bytes: MAX_RESULT_BYTES,
                max_log_bytes: MAX_LOG_BYTES,
                max_component_bytes: self.max_component_bytes(),
            },
            draft_wit: self.text("plugins.draft_wit").as_deref() == Some("true"),
            cache_key,
        }
    }

    /// Whether /metrics is for the operator only.
    pub fn metrics_need_operator(&self) -> bool {
        self.text("metrics.require_operator").as_deref() != Some("false")
    }

    /// Old revisions that are not deleted.
    pub fn keep_revisions(&self) -> Keep {
        Keep { revisions: self.number("plugins.keep_revisions") as i64, days: self.number("plugins.keep_days") as i32 }
    }

    /// What is recorded of attempts; `has_key`: whether bodies can be sealed.
    pub fn recording(&self, has_key: bool) -> Recording {
        let is_on = |key: &str| self.text(key).as_deref() != Some("false");
        Recording {
            attempts: is_on("history.enabled"),
            bodies: is_on("history.bodies"),
            has_key,
            buffer_bytes: self.number("history.buffer_mb") << 20,
        }
    }

    /// How long attempts are remembered where nothing else is said.
    pub fn keep_attempts(&self) -> KeepAttempts {
        KeepAttempts {
            completed_days: self.number("history.keep_days") as i32,
            other_days: self.number("history.keep_failed_days") as i32,
        }
    }

    /// Between two looks at what other workers have ended; nothing when nobody is to look.
    pub fn mirror_every(&self) -> Option<Duration> {
        let is_on = |key: &str| self.text(key).as_deref() != Some("false");
        (is_on("history.enabled") && is_on("history.mirror")).then(|| self.seconds("history.mirror_every_s"))
    }

    /// Series of retired revisions.
    pub fn keep_retired_metrics(&self) -> Duration {
        self.seconds("metrics.keep_retired_s")
    }

    /// Whether log lines are JSON; absent: decided by whether there is a terminal.
    pub fn log_as_json(&self) -> Option<bool> {
        self.text("log.format").map(|format| format == "json")
    }

    /// As in RUST_LOG.
    pub fn log_filter(&self) -> String {
        self.text("log.filter").unwrap_or_default()
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

/// Whether every value of a known key could be read.
fn read_file(text: Option<&str>, values: &mut BTreeMap<&'static str, Setting>, problems: &mut Vec<String>) -> bool {
    let Some(text) = text else { return true };
    let mut has_all_values = true;
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            // The message quotes the line, which may hold a password; its position is enough.
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            problems.push(format!("patchbay.toml, line {line}: {}", error.message()));
            return false;
        }
    };
    let mut flat = Vec::new();
    for (section, value) in table {
        match value {
            toml::Value::Table(keys) => {
                flat.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)))
            }
            value => flat.push((section, value)),
        }
    }
    for (path, value) in flat {
        let Some(key) = KEYS.iter().find(|key| key.path == path) else {
            problems.push(format!("{path} (in patchbay.toml) is no known key{}", suggestion(&path)));
            continue;
        };
        let value = match (value, key.kind) {
            (toml::Value::String(text), _) => text,
            (toml::Value::Integer(number), _) => number.to_string(),
            (toml::Value::Boolean(answer), Kind::Choice(choices)) if choices.contains(&"true") => answer.to_string(),
            (toml::Value::Array(items), Kind::List | Kind::Networks | Kind::Origins) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            (other, _) => {
                problems.push(format!("{path} (in patchbay.toml): a {} makes no sense here", other.type_str()));
                has_all_values = false;
                continue;
            }
        };
        values.insert(key.path, Setting { value, source: "patchbay.toml".into() });
    }
    has_all_values
}

fn read_environment(
    env: &HashMap<String, String>,
    values: &mut BTreeMap<&'static str, Setting>,
    problems: &mut Vec<String>,
) {
    let env: HashMap<&str, &String> = env
        .iter()
        .filter(|(name, value)| !is_service_link(name, value))
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    for key in KEYS {
        let own = key.variable();
        let names = std::iter::once(own.as_str()).chain(key.old_names.iter().copied());
        // Empty means unset, as compose files and shells have it.
        let given: Vec<(&str, &String)> =
            names.filter_map(|name| Some((name, *env.get(name).filter(|value| !value.is_empty())?))).collect();
        if let Some(((first, value), others)) = given.split_first() {
            if let Some((other, _)) = others.iter().find(|(_, other)| other != value) {
                problems.push(format!("{}: {first} and {other} have different values: set one", key.path));
            }
            values.insert(key.path, Setting { value: (*value).clone(), source: (*first).to_owned() });
        }
    }
    if let Some(port) = env.get("PORT").filter(|value| !value.is_empty())
        && !env.contains_key("PATCHBAY_HTTP_LISTEN")
    {
        values.insert("http.listen", Setting { value: format!("0.0.0.0:{port}"), source: "PORT".into() });
    }
    // The C library's own forms (`CET-1CEST`, a path) name no zone, and nobody set TZ for us: that is no reason not to start.
    if let Some(zone) =
        env.get("TZ").map(|zone| zone.trim_start_matches(':')).filter(|zone| zone.parse::<Zone>().is_ok())
        && values.get(DEFAULT_ZONE).is_some_and(|setting| setting.source == DEFAULT)
    {
        values.insert(DEFAULT_ZONE, Setting { value: zone.to_owned(), source: "TZ".into() });
    }
    let mut unknown: Vec<&str> = env
        .keys()
        .copied()
        .filter(|name| name.starts_with("PATCHBAY_"))
        .filter(|name| !OTHER_VARIABLES.contains(name) && !OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| !KEYS.iter().any(|key| key.variable() == **name))
        .collect();
    unknown.sort();
    for name in unknown {
        let path = name.trim_start_matches("PATCHBAY_").to_ascii_lowercase().replacen('_', ".", 1);
        problems.push(format!("{name} is no known variable{}", suggestion(&path)));
    }
}

/// What Kubernetes and Docker's links put into the environment for a service of that name, such as `REDIS_PORT=tcp://10.0.0.1:6379` or
/// `PATCHBAY_SERVICE_HOST`: nobody's setting.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_link = value.split_once("://").is_some_and(|(scheme, _)| PROTOCOLS.contains(&scheme));
    if name.ends_with("_PORT") && is_link {
        return true;
    }
    // `…_PORT_8080_TCP`, and that with `_PROTO`, `_PORT` and `_ADDR`.
    let port = ["", "_PROTO", "_PORT", "_ADDR"].iter().any(|end| {
        let stem = name.strip_suffix(end).and_then(|stem| stem.rsplit_once('_'));
        let stem = stem.filter(|(_, protocol)| PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str()));
        let port = stem.and_then(|(stem, _)| stem.rsplit_once("_PORT_"));
        port.is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let is_ours = name.starts_with("PATCHBAY_");
    is_ours
        && (port
            || name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.contains("_SERVICE_PORT_"))
}

/// As it stands between `//` and `:port`: a directory of sockets percent-encoded, as libpq has it; an IPv6 address in brackets.
fn host_in_url(host: &str) -> String {
    match host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if host.starts_with('/') => percent_encoded(host),
        Err(_) => host.to_owned(),
    }
}

/// `postgres://user:password@/name?host=/var/run/postgresql`, which libpq takes and URL parsers refuse: the login becomes parameters.
fn without_empty_host(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once("@/")?)));
    let Some((scheme, (login, rest))) = parts.filter(|(_, (login, _))| !login.contains(['/', '?'])) else {
        return url.to_owned();
    };
    // In a query, a plus sign would be a space.
    let login = login.replace('+', "%2B");
    let (user, password) =
        login.split_once(':').map_or((login.as_str(), None), |(user, password)| (user, Some(password)));
    let password = password.map(|password| format!("&password={password}")).unwrap_or_default();
    let before = if rest.contains('?') { '&' } else { '?' };
    format!("{scheme}:///{rest}{before}user={user}{password}")
}

/// From the list and from the file. A key that says nothing is refused: it may have been meant to trust nobody, and would trust everybody.
fn trusted_keys(
    values: &BTreeMap<&'static str, Setting>,
    read: impl Fn(&str) -> Result<String, String>,
    problems: &mut Vec<String>,
) -> TrustedKeys {
    let mut keys = Vec::new();
    if let Some(Setting { value, source }) = values.get("plugins.trusted_keys") {
        let texts: Vec<&str> = value.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            problems.push(format!(
                "plugins.trusted_keys (from {source}) is empty: leave it out if plugins need no signature, or name a key"
            ));
        }
        for (at, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(key) => keys.push(key),
                Err(error) => problems.push(format!("plugins.trusted_keys (from {source}), key {}: {error}", at + 1)),
            }
        }
    }
    if let Some(Setting { value, source }) = values.get("plugins.trusted_keys_file") {
        match read(value).and_then(|text| read_public_keys(&text).map_err(|error| error.to_string())) {
            Ok(found) => keys.extend(found),
            Err(error) => problems.push(format!("plugins.trusted_keys_file (from {source}), {value}: {error}")),
        }
    }
    TrustedKeys::new(keys)
}

fn check(key: &Key, value: &str) -> Result<(), String> {
    match key.kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Number(least, most) => match value.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(()),
            _ => Err(format!("is not a whole number from {least} to {most}")),
        },
        Kind::Listen => {
            value.parse::<SocketAddr>().map(drop).map_err(|_| "is not address:port, such as 127.0.0.1:8080".into())
        }
        Kind::Networks => match list_of(value).find(|text| network(text).is_none()) {
            Some(_) => Err("is no list of addresses and networks, such as 127.0.0.1,10.0.0.0/8".into()),
            None => Ok(()),
        },
        Kind::Origins => match list_of(value).find(|text| !is_origin(text)) {
            Some(_) => {
                Err("is no list of origins: http:// or https://, a name, and a port if it is not the usual one".into())
            }
            None => Ok(()),
        },
        Kind::MasterKey => match vault::parse_key(value) {
            Some(_) => Ok(()),
            None => Err(format!("is not a key: {}", vault::KEY_FORM)),
        },
        Kind::Ratio => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err("is not a number from 0 to 1, such as 0.1".into()),
        },
        Kind::Zone => match value.parse::<Zone>() {
            Ok(_) => Ok(()),
            Err(_) => Err("is no time zone, such as Europe/Berlin or UTC+5:30".into()),
        },
        Kind::Headers => match list_of(value).all(|header| header.split_once('=').is_some()) {
            true => Ok(()),
            false => Err("is no list of headers: name=value,name=value".into()),
        },
        Kind::Choice(choices) if choices.contains(&value) => Ok(()),
        Kind::Choice(choices) => Err(format!("is none of {}", choices.join(", "))),
    }
}

/// Of `mail.from`, the one sender.
fn one_or_more(key: &str, text: &str) -> Result<(), AddressError> {
    if key == "mail.from" { text.parse::<Mailbox>().map(drop) } else { parse_list(text).map(drop) }
}

fn list_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty())
}

/// An address is a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// As a browser writes it: no path, and no port that goes without saying.
fn is_origin(text: &str) -> bool {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.is_some_and(|url| url.origin().ascii_serialization().eq_ignore_ascii_case(text))
}

/// The nearest known key, when a typo is likely.
fn suggestion(path: &str) -> String {
    let distance = |key: &Key| strsim::damerau_levenshtein(key.path, path);
    let nearest = KEYS.iter().min_by_key(|key| distance(key)).filter(|key| distance(key) <= 3);
    nearest.map_or_else(String::new, |key| format!("; did you mean {}?", key.path))
}

fn default_cache_dir(env: &HashMap<String, String>) -> PathBuf {
    let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("CACHE_DIRECTORY") {
        return PathBuf::from(dir);
    }
    let base =
        set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| set("HOME").map(|home| Path::new(home).join(".cache")));
    base.unwrap_or_else(|| PathBuf::from("/var/cache")).join("patchbay")
}

/// As OpenTelemetry's environment has values of headers.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        match escaped {
            Some(byte) => {
                out.extend(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests;

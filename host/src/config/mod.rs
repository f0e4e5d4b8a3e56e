//! The configuration: `patchbay.toml` and the environment, which wins. The only reader of the environment.
//!
//! Each section is a file here and declares its keys: name, type, default, meaning and check stand in one place. Everything wrong is
//! reported at once, each with its key; nothing starts on a configuration that contradicts itself.

mod admin;
mod alerts;
mod contradictions;
mod database;
mod egress;
mod entry;
mod environment;
mod file;
mod general;
mod history;
mod http;
mod key;
mod kind;
mod layers;
mod log;
mod mail;
mod metrics;
mod plugins;
mod quarantine;
mod redis;
mod runtime;
mod schedule;
pub(crate) mod secrets;
mod sql;
mod telemetry;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use environment::Environment;
use file::File;
use key::Sources;

pub use entry::ConfigEntry;
pub(crate) use environment::environment;
pub use key::Setting;

/// The file that is found in the folder where a command is run.
const HERE: &str = "patchbay.toml";

/// What is percent-encoded in a URL's parts: all but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// In the order of `patchbay config`.
macro_rules! sections {
    ($($section:ident: $type:ty,)+) => {
        /// A checked configuration, by section.
        pub struct Config {
            $(pub $section: $type,)+
            plugin_secrets: HashMap<String, String>,
        }

        impl Config {
            fn read_sections(from: &mut Sources<'_>, plugin_secrets: HashMap<String, String>) -> Self {
                Self { $($section: <$type>::read(from),)+ plugin_secrets }
            }

            /// Every key as it stands: the table of `patchbay config`.
            pub fn entries(&self) -> Vec<&ConfigEntry> {
                [$(self.$section.entries()),+].concat()
            }
        }
    };
}

sections! {
    general: general::General,
    http: http::Http,
    database: database::Database,
    redis: redis::Redis,
    mail: mail::Mail,
    admin: admin::Admin,
    runtime: runtime::Runtime,
    schedule: schedule::Schedule,
    work: work::Work,
    plugins: plugins::Plugins,
    sql: sql::Sql,
    quarantine: quarantine::Quarantine,
    alerts: alerts::Alerts,
    history: history::History,
    egress: egress::Egress,
    secrets: secrets::Secrets,
    metrics: metrics::Metrics,
    telemetry: telemetry::Telemetry,
    log: log::Log,
}

/// Everything that is wrong, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

fn usable((config, problems): (Config, Vec<String>)) -> Result<Config, ConfigError> {
    if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
}

/// The file that is named, else the first of the usual ones that is there.
fn found(named: Option<&Path>, usual: &[&str]) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| usual.iter().map(PathBuf::from).find(|path| path.exists()))
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
        let (config, wrong) = Self::read(text.as_deref(), env);
        problems.extend(wrong);
        problems.extend(environment::unreadable_variables(&config.entries()));
        (config, problems)
    }

    /// From the text of a file and an environment. The only other thing that is read is the file of trusted keys.
    pub fn load(file: Option<&str>, env: &HashMap<String, String>) -> Result<Self, ConfigError> {
        usable(Self::read(file, env))
    }

    fn read(text: Option<&str>, env: &HashMap<String, String>) -> (Self, Vec<String>) {
        let file = text.map(File::parse).transpose();
        let mut problems: Vec<String> = file.as_ref().err().cloned().into_iter().collect();
        let is_known = file.is_ok();
        let file = file.ok().flatten().unwrap_or_default();
        let mut from = Sources { file, environment: Environment::new(env), problems: Vec::new() };
        let config = Self::read_sections(&mut from, environment::plugin_secrets(env));
        problems.extend(from.file.unknown(&config.entries()));
        problems.extend(from.environment.unknown(&config.entries()));
        problems.extend(from.problems);
        // Of a file that could not be read, what it says is unknown.
        if is_known {
            problems.extend(contradictions::find(&config));
        }
        (config, problems)
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests;

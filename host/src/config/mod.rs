//! The configuration: `patchbay.toml` and the environment, which wins. Only this module reads the
//! environment.
//!
//! Each section is one file and declares its keys: name, type, default, meaning and check are in
//! one place. All problems are reported at once, each with its key; nothing starts with a
//! configuration that contradicts itself.

mod admin;
mod alerts;
mod audit;
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
mod oidc;
mod operators;
mod people;
mod plugins;
mod quarantine;
mod redis;
mod routes;
mod runtime;
mod schedule;
pub(crate) mod secrets;
mod sql;
mod telemetry;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::dev_state::DevState;
use environment::Environment;
use file::File;
use key::Sources;

pub use entry::ConfigEntry;
pub(crate) use environment::environment;
pub use key::Setting;

/// The file that is read from the current directory.
const HERE: &str = "patchbay.toml";

/// What is percent-encoded in a URL's parts: everything except RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// In the order in which `patchbay config` shows them.
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

            /// Every key with its value: the table of `patchbay config`.
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
    operators: operators::Operators,
    oidc: oidc::Oidc,
    people: people::People,
    runtime: runtime::Runtime,
    schedule: schedule::Schedule,
    work: work::Work,
    plugins: plugins::Plugins,
    sql: sql::Sql,
    routes: routes::Routes,
    quarantine: quarantine::Quarantine,
    alerts: alerts::Alerts,
    history: history::History,
    audit: audit::Audit,
    egress: egress::Egress,
    secrets: secrets::Secrets,
    metrics: metrics::Metrics,
    telemetry: telemetry::Telemetry,
    log: log::Log,
}

/// All problems, one line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n{}", .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

fn usable((config, problems): (Config, Vec<String>)) -> Result<Config, ConfigError> {
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError(problems))
    }
}

/// The named file, else the first of the usual files that exists.
fn found(named: Option<&Path>, usual: &[&str]) -> Option<PathBuf> {
    named
        .map(Path::to_owned)
        .or_else(|| usual.iter().map(PathBuf::from).find(|path| path.exists()))
}

impl Config {
    /// Reads the process's environment and this file, or `patchbay.toml` here or in /etc/patchbay.
    pub fn from_process(file: Option<&Path>) -> Result<Self, ConfigError> {
        usable(Self::read_process(file))
    }

    /// The file that the host of `patchbay dev` reads.
    pub(crate) fn file_of_dev(file: Option<&Path>) -> Option<PathBuf> {
        found(file, &[HERE]).and_then(|file| std::path::absolute(file).ok())
    }

    /// For a command that needs only these sections: of the host of `patchbay dev` that runs here,
    /// unless a file is named; else as [`Config::from_process`]. What is wrong or missing in other
    /// sections is no obstacle.
    pub(crate) fn for_command(file: Option<&Path>, sections: &[&str]) -> Result<Self, ConfigError> {
        let dev = DevState::running().filter(|dev| file.is_none() && !dev.given.is_empty());
        let (config, problems) = match dev {
            Some(dev) => {
                let variables = dev.variables();
                Self::read_as_started(dev.config_file, &variables)
            }
            None => Self::read_process(file),
        };
        let keys: Vec<&str> = config.entries().iter().map(|entry| entry.key).collect();
        let is_elsewhere = |problem: &String| {
            let section = problem.split_once('.').map_or("", |(section, _)| section);
            let is_section = keys.iter().any(|key| {
                key.split_once('.')
                    .is_some_and(|(known, _)| known == section)
            });
            is_section && !sections.contains(&section)
        };
        let problems = problems
            .into_iter()
            .filter(|problem| !is_elsewhere(problem));
        usable((config, problems.collect()))
    }

    /// As [`Config::from_process`], plus the problems: for showing it, not for using it.
    pub fn read_process(file: Option<&Path>) -> (Self, Vec<String>) {
        Self::read_process_with(
            found(file, &[HERE, "/etc/patchbay/patchbay.toml"]),
            &environment(),
        )
    }

    /// The configuration of the host of `patchbay dev`, which gets values in addition to the
    /// environment. It ignores the machine's own file in /etc/patchbay.
    pub(crate) fn of_dev(
        file: Option<&Path>,
        given: BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        usable(Self::read_dev(
            file,
            &environment().into_iter().chain(given).collect(),
        ))
    }

    /// The configuration that a host was started with, with the problems.
    pub(crate) fn read_as_started(
        file: Option<PathBuf>,
        variables: &HashMap<String, String>,
    ) -> (Self, Vec<String>) {
        Self::read_process_with(file, variables)
    }

    /// Those of the variables that set a key.
    pub(crate) fn variables(&self, env: &HashMap<String, String>) -> BTreeMap<String, String> {
        let entries = self.entries();
        let sets_a_key = |name: &str| {
            let mut entries = entries.iter();
            entries.any(|entry| entry.variable == name || entry.other_variables.contains(&name))
        };
        env.iter()
            .filter(|(name, _)| sets_a_key(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// As [`Config::of_dev`], but also returns the problems.
    pub(crate) fn read_dev(
        file: Option<&Path>,
        env: &HashMap<String, String>,
    ) -> (Self, Vec<String>) {
        Self::read_process_with(found(file, &[HERE]), env)
    }

    fn read_process_with(
        path: Option<PathBuf>,
        env: &HashMap<String, String>,
    ) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let text = path.and_then(|path| {
            let text = std::fs::read_to_string(&path);
            text.inspect_err(|error| {
                problems.push(format!("cannot read {}: {error}", path.display()))
            })
            .ok()
        });
        let (config, wrong) = Self::read(text.as_deref(), env);
        problems.extend(wrong);
        problems.extend(environment::unreadable_variables(&config.entries()));
        (config, problems)
    }

    /// From the text of a file and an environment; reads only the file of trusted keys besides.
    pub fn load(file: Option<&str>, env: &HashMap<String, String>) -> Result<Self, ConfigError> {
        usable(Self::read(file, env))
    }

    pub(crate) fn read(text: Option<&str>, env: &HashMap<String, String>) -> (Self, Vec<String>) {
        let file = text.map(File::parse).transpose();
        let mut problems: Vec<String> = file.as_ref().err().cloned().into_iter().collect();
        let is_known = file.is_ok();
        let file = file.ok().flatten().unwrap_or_default();
        let mut from = Sources {
            file,
            environment: Environment::new(env),
            problems: Vec::new(),
        };
        let config = Self::read_sections(&mut from, environment::plugin_secrets(env));
        problems.extend(from.file.unknown(&config.entries()));
        problems.extend(from.environment.unknown(&config.entries()));
        problems.extend(from.problems);
        // The values of a file that could not be read are unknown.
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

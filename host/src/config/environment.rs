//! The environment variables of the process. No other module reads them.

use std::collections::HashMap;
use std::ffi::OsString;

use super::entry::{ConfigEntry, suggestion};

/// `PATCHBAY_` variables that are not configuration keys: for the client, tests, and secrets.
const OTHER_VARIABLES: &[&str] = &[
    "PATCHBAY_URL",
    "PATCHBAY_USER",
    "PATCHBAY_PASSWORD",
    "PATCHBAY_TOKEN",
    "PATCHBAY_CODE",
    "PATCHBAY_REGISTRY_USER",
    "PATCHBAY_REGISTRY_PASSWORD",
    "PATCHBAY_CONFIG",
    "PATCHBAY_BIN",
];
const OURS: &str = "PATCHBAY_";
const SECRET: &str = "PATCHBAY_SECRET_";
const TEST: &str = "PATCHBAY_TEST_";

/// Secrets of plugins, by the rest of the name after `PATCHBAY_SECRET_`.
pub(super) fn plugin_secrets(variables: &HashMap<String, String>) -> HashMap<String, String> {
    let secrets = variables
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(SECRET)?, value)));
    secrets
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect()
}

/// Values that are not UTF-8 are left out: most belong to other programs.
pub(crate) fn environment() -> HashMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Reports `PATCHBAY_` variables whose values are not UTF-8.
pub(super) fn unreadable_variables(entries: &[&ConfigEntry]) -> Vec<String> {
    let is_ours = |name: &str| {
        name.starts_with(OURS)
            || entries
                .iter()
                .any(|entry| entry.other_variables.contains(&name))
    };
    let names = std::env::vars_os()
        .filter(|(_, value)| value.to_str().is_none())
        .map(|(name, _)| name.into_string());
    names
        .flatten()
        .filter(|name| is_ours(name))
        .map(|name| format!("{name}: its value is not UTF-8"))
        .collect()
}

/// The variables, without those that Kubernetes adds.
pub(super) struct Environment<'a>(HashMap<&'a str, &'a str>);

impl<'a> Environment<'a> {
    pub(super) fn new(variables: &'a HashMap<String, String>) -> Self {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        Self(
            variables
                .filter(|(name, value)| !is_service_link(name, value))
                .collect(),
        )
    }

    /// Whether the variable exists; it may be empty.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// An empty value means unset, as in compose files and shells.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied().filter(|value| !value.is_empty())
    }

    /// `PATCHBAY_` variables that nothing reads, sorted by name.
    pub(super) fn unknown(&self, entries: &[&ConfigEntry]) -> Vec<String> {
        let mut names: Vec<&str> = self
            .0
            .keys()
            .copied()
            .filter(|name| name.starts_with(OURS))
            .collect();
        names.retain(|name| {
            !OTHER_VARIABLES.contains(name) && !name.starts_with(SECRET) && !name.starts_with(TEST)
        });
        names.retain(|name| !entries.iter().any(|entry| entry.variable == *name));
        names.sort_unstable();
        let key = |name: &str| {
            name.trim_start_matches(OURS)
                .to_ascii_lowercase()
                .replacen('_', ".", 1)
        };
        let problem = |name| {
            format!(
                "{name} is not a known variable{}",
                suggestion(&key(name), entries)
            )
        };
        names.into_iter().map(problem).collect()
    }
}

/// Whether Kubernetes or Docker's links have set this variable for a service of that name, such as
/// `REDIS_PORT=tcp://10.0.0.1:6379` or `PATCHBAY_SERVICE_HOST`. Nobody set it on purpose.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
    let is_link = value
        .split_once("://")
        .is_some_and(|(scheme, _)| PROTOCOLS.contains(&scheme));
    if name.ends_with("_PORT") && is_link {
        return true;
    }
    // `…_PORT_8080_TCP`, and the same with `_PROTO`, `_PORT` and `_ADDR`.
    let port = ["", "_PROTO", "_PORT", "_ADDR"].iter().any(|end| {
        let stem = name
            .strip_suffix(end)
            .and_then(|stem| stem.rsplit_once('_'));
        let stem = stem
            .filter(|(_, protocol)| PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str()));
        let port = stem.and_then(|(stem, _)| stem.rsplit_once("_PORT_"));
        port.is_some_and(|(_, digits)| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    });
    let is_ours = name.starts_with("PATCHBAY_");
    is_ours
        && (port
            || name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.contains("_SERVICE_PORT_"))
}

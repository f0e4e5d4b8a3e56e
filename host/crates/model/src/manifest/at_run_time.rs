//! `[runtime_schedules]`, `[credentials]` and `[accounts]`: what a plugin makes while it runs, because
//! only then it is known how many there are. All are bounded; the first two stand under a prefix of
//! the plugin.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestError, invalid};
use crate::egress::{EgressAuth, EgressRule};
use crate::id::{CredentialName, KEPT, QueueName, ScheduleId};

/// Schedules or credentials of a plugin whose manifest does not say how many.
const DEFAULT_MAX: u32 = 100;
/// Most schedules or credentials that a manifest may ask for.
const MOST: u32 = 1_000;
/// Shortest interval between ticks of a schedule that a plugin makes. Nobody reads such a schedule
/// before it ticks.
const LEAST_EVERY_MS: u64 = 60_000;
/// Accounts of a day, of a plugin whose manifest does not say how many.
const DEFAULT_ACCOUNTS_PER_DAY: u32 = 100;
/// Most accounts of a day that a manifest may ask for.
const MOST_ACCOUNTS_PER_DAY: u32 = 10_000;
/// Longest prefix: the rest of the name must fit, too.
const MAX_PREFIX: usize = 40;
/// Most fields of one credential.
const MAX_FIELDS: usize = 8;

/// Schedules that the plugin makes and removes at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeSchedulesSpec {
    /// What their ids begin with; it begins with the plugin's name and `-`.
    pub prefix: String,
    /// The plugin's own queues that their jobs may go to.
    pub queues: BTreeSet<QueueName>,
    /// Most schedules at the same time; default 100, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Shortest time between two ticks of one of them; default and least 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_every_ms: Option<u64>,
}

impl RuntimeSchedulesSpec {
    pub fn max(&self) -> u32 {
        self.max.unwrap_or(DEFAULT_MAX)
    }

    pub fn min_every_ms(&self) -> u64 {
        self.min_every_ms.unwrap_or(LEAST_EVERY_MS)
    }

    /// Whether an id is one that the plugin may give: the prefix and something after it.
    pub fn covers(&self, id: &str) -> bool {
        id.strip_prefix(&self.prefix)
            .is_some_and(|rest| !rest.is_empty())
    }
}

/// Credentials that the plugin hands over at run time, for the host to send. It never gets them
/// back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsSpec {
    /// What their names begin with; it ends with `-`.
    pub prefix: String,
    /// The values that each of them has.
    pub fields: BTreeSet<String>,
    /// Most credentials at the same time; default 100, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

impl CredentialsSpec {
    pub fn max(&self) -> u32 {
        self.max.unwrap_or(DEFAULT_MAX)
    }

    /// Whether a name is one that the plugin may give: the prefix and something after it.
    pub fn covers(&self, name: &CredentialName) -> bool {
        let rest = name.as_str().strip_prefix(&self.prefix);
        rest.is_some_and(|rest| !rest.is_empty())
    }
}

/// Accounts of API clients that the plugin proposes. The host makes them, as plain users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountsSpec {
    /// Most new accounts within 24 hours; default 100, at most 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_day: Option<u32>,
}

impl AccountsSpec {
    pub fn max_per_day(&self) -> u32 {
        self.max_per_day.unwrap_or(DEFAULT_ACCOUNTS_PER_DAY)
    }
}

impl Manifest {
    pub(super) fn check_made_at_run_time(&self) -> Result<(), ManifestError> {
        if let Some(spec) = &self.runtime_schedules {
            self.check_runtime_schedules(spec)?;
        }
        if let Some(spec) = &self.credentials {
            check_credentials(spec)?;
        }
        if let Some(spec) = &self.accounts
            && !(1..=MOST_ACCOUNTS_PER_DAY).contains(&spec.max_per_day())
        {
            let reason = format!("must be from 1 to {MOST_ACCOUNTS_PER_DAY}");
            return Err(invalid("accounts.max_per_day", reason));
        }
        if let Some(kept) = self
            .secrets
            .iter()
            .position(|secret| secret.name.starts_with(KEPT))
        {
            let reason =
                format!("must not begin with {KEPT}: the host keeps credentials of plugins there");
            return Err(invalid(format!("secrets[{kept}].name"), reason));
        }
        for (i, rule) in self.egress.iter().enumerate() {
            self.check_named_credential(rule)
                .map_err(|reason| invalid(format!("egress[{i}].auth"), reason))?;
        }
        Ok(())
    }

    fn check_runtime_schedules(&self, spec: &RuntimeSchedulesSpec) -> Result<(), ManifestError> {
        let of_plugin = format!("{}-", self.name);
        let key = |field: &str| format!("runtime_schedules.{field}");
        if !spec.prefix.starts_with(&of_plugin)
            || spec.prefix.len() > MAX_PREFIX
            || spec.prefix.parse::<ScheduleId>().is_err()
        {
            let reason = format!(
                "must begin with {of_plugin:?} and have at most {MAX_PREFIX} printable characters without ':' and spaces"
            );
            return Err(invalid(key("prefix"), reason));
        }
        if spec.queues.is_empty() {
            return Err(invalid(key("queues"), "name at least one"));
        }
        if let Some(other) = spec.queues.iter().find(|name| self.queue(name).is_none()) {
            let reason = format!("{other} is not one of the plugin's own queues");
            return Err(invalid(key("queues"), reason));
        }
        if !(1..=MOST).contains(&spec.max()) {
            return Err(invalid(key("max"), format!("must be from 1 to {MOST}")));
        }
        if spec.min_every_ms() < LEAST_EVERY_MS {
            let reason = format!("must be at least {LEAST_EVERY_MS}");
            return Err(invalid(key("min_every_ms"), reason));
        }
        Ok(())
    }

    /// A rule that fills in a credential names fields that credentials have.
    fn check_named_credential(&self, rule: &EgressRule) -> Result<(), String> {
        let Some(EgressAuth::Credential(places)) = &rule.auth else {
            return Ok(());
        };
        let Some(spec) = &self.credentials else {
            return Err("fills in a credential, so the manifest must have [credentials]".into());
        };
        match places.fields().find(|field| !spec.fields.contains(*field)) {
            Some(unknown) => Err(format!("{unknown} is not in credentials.fields")),
            None => Ok(()),
        }
    }
}

fn check_credentials(spec: &CredentialsSpec) -> Result<(), ManifestError> {
    let key = |field: &str| format!("credentials.{field}");
    let valid = spec.prefix.parse::<CredentialName>().is_ok()
        && spec.prefix.ends_with('-')
        && spec.prefix.len() <= MAX_PREFIX;
    if !valid {
        let reason = format!(
            "must be a lower-case letter, then a-z, 0-9 and '-', end with '-', and have at most {MAX_PREFIX} characters"
        );
        return Err(invalid(key("prefix"), reason));
    }
    let is_name = |name: &String| {
        (1..=64).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    if !(1..=MAX_FIELDS).contains(&spec.fields.len()) || !spec.fields.iter().all(is_name) {
        let reason = format!(
            "must have 1 to {MAX_FIELDS} names, each 1 to 64 of letters, digits, '_' and '-'"
        );
        return Err(invalid(key("fields"), reason));
    }
    if !(1..=MOST).contains(&spec.max()) {
        return Err(invalid(key("max"), format!("must be from 1 to {MOST}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str =
        "name = \"mrlearn\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n[[queues]]\nname = \"q\"\n";

    fn read(more: &str) -> Result<Manifest, String> {
        Manifest::from_toml(&format!("{QUEUE}{more}"), |_| Err("no such file".into()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn schedules_at_run_time_stand_under_the_plugins_name_in_its_own_queues_and_are_bounded() {
        let with = |prefix: &str, queue: &str, more: &str| {
            read(&format!(
                "[runtime_schedules]\nprefix = \"{prefix}\"\nqueues = [\"{queue}\"]\n{more}\n"
            ))
        };
        let spec = with("mrlearn-sync-", "q", "")
            .expect("valid")
            .runtime_schedules
            .expect("there");
        assert_eq!((spec.max(), spec.min_every_ms()), (100, 60_000));
        assert!(spec.covers("mrlearn-sync-7"));
        assert!(!spec.covers("mrlearn-sync-") && !spec.covers("mrlearn-new-students"));
        for (refused, key) in [
            (with("sync-", "q", ""), "runtime_schedules.prefix"),
            (with("mrlearn", "q", ""), "runtime_schedules.prefix"),
            (with("mrlearn-a b", "q", ""), "runtime_schedules.prefix"),
            (with("mrlearn-", "emailQueue", ""), "emailQueue is not one"),
            (with("mrlearn-", "q", "max = 0"), "runtime_schedules.max"),
            (with("mrlearn-", "q", "max = 1001"), "runtime_schedules.max"),
            (
                with("mrlearn-", "q", "min_every_ms = 1000"),
                "runtime_schedules.min_every_ms",
            ),
        ] {
            assert!(refused.expect_err(key).contains(key), "{key}");
        }
    }

    #[test]
    fn a_rule_fills_in_only_fields_that_credentials_have() {
        let rule = "[[egress]]\nurl = \"https://a.example/**\"\nmethods = [\"GET\"]\n";
        let auth = |field: &str| {
            format!("{rule}auth = {{ credential = {{ query = {{ mid = \"{field}\" }} }} }}\n")
        };
        let section = "[credentials]\nprefix = \"graphy-\"\nfields = [\"mid\", \"key\"]\n";
        assert!(read(&format!("{section}{}", auth("mid"))).is_ok());
        for (text, told) in [
            (auth("mid"), "must have [credentials]"),
            (
                format!("{section}{}", auth("token")),
                "token is not in credentials.fields",
            ),
            (
                section.replace("graphy-", "Graphy-"),
                "credentials.prefix: must be",
            ),
            (
                section.replace("graphy-", "graphy"),
                "credentials.prefix: must be",
            ),
            (
                section.replace("[\"mid\", \"key\"]", "[]"),
                "credentials.fields: must have",
            ),
            (
                "[[secrets]]\nname = \"KEPT_GRAPHY_1\"\n".into(),
                "must not begin with KEPT_",
            ),
        ] {
            assert!(read(&text).expect_err(told).contains(told), "{told}");
        }
    }
}

//! One filter for attempts and jobs: history searches, saved searches and bulk operations.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::attempt::VerdictKind;
use crate::id::{JobId, PluginName, QueueName};
use crate::outcome::OutcomeKind;

/// Longest value, in bytes.
const MAX_VALUE_BYTES: usize = 1_024;
/// Most values of job data in one filter.
const MAX_DATA: usize = 8;

/// All conditions that are set must hold; an empty filter matches everything. The names are the
/// same in JSON and in a query string (`data.<path>` for each value of job data).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    try_from = "std::collections::BTreeMap<String, String>",
    into = "std::collections::BTreeMap<String, String>"
)]
pub struct Filter {
    /// `queue`
    pub queue: Option<QueueName>,
    /// `job`: its id.
    pub job: Option<JobId>,
    /// `name`: of the job.
    pub name: Option<String>,
    /// `from`: finished at this time or later (RFC 3339).
    pub from: Option<DateTime<Utc>>,
    /// `to`: finished before this time.
    pub to: Option<DateTime<Utc>>,
    /// `outcome`
    pub outcome: Option<OutcomeKind>,
    /// `verdict`
    pub verdict: Option<VerdictKind>,
    /// `code`: of the failure.
    pub code: Option<String>,
    /// `text`: a part of the failure's message, in any letter case. It is not a pattern: no
    /// character has a special meaning.
    pub text: Option<String>,
    /// `data.<path>`: values in the job's data, at paths that manifests declare searchable.
    pub data: Vec<(String, String)>,
    /// `plugin`
    pub plugin: Option<PluginName>,
    /// `revision`: its digest, or at least the first four digits of it.
    pub revision: Option<String>,
    /// `correlation-id`
    pub correlation_id: Option<String>,
    /// `platform`
    pub platform: Option<String>,
    /// `dead-letter`: the id of a group of dead letters.
    pub dead_letter: Option<i64>,
}

/// Why a filter is refused. Safe to show to its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct FilterError {
    pub key: String,
    /// What is wrong with the value, and what is allowed.
    pub reason: String,
}

/// All names of a filter, for messages.
pub const KEYS: &str = "queue, job, name, from, to, outcome, verdict, code, text, data.<path>, plugin, revision, correlation-id, platform, dead-letter";

impl Filter {
    /// A name given twice is refused, since one of the two values would be ignored.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in pairs {
            let refuse = |reason: String| FilterError {
                key: key.clone(),
                reason,
            };
            if !seen.insert(key.clone()) {
                return Err(refuse("given twice".into()));
            }
            // A job added by Node may have an empty name.
            if (value.is_empty() && key != "name")
                || value.len() > MAX_VALUE_BYTES
                || value.contains('\0')
            {
                return Err(refuse(format!(
                    "must be 1 to {MAX_VALUE_BYTES} bytes without NUL"
                )));
            }
            match key.as_str() {
                "queue" => filter.queue = Some(value.parse().map_err(|error| refuse(format!("{error}")))?),
                "job" => filter.job = Some(value.parse().map_err(|error| refuse(format!("{error}")))?),
                "plugin" => filter.plugin = Some(value.parse().map_err(|error| refuse(format!("{error}")))?),
                "name" => filter.name = Some(value),
                "from" => filter.from = Some(time(&value).map_err(refuse)?),
                "to" => filter.to = Some(time(&value).map_err(refuse)?),
                "outcome" => {
                    filter.outcome = Some(word(&value).ok_or_else(|| {
                        refuse(
                            "must be completed, failed, trapped, deadline, memory-limit, invalid-result or host-fault".into(),
                        )
                    })?)
                }
                "verdict" => {
                    filter.verdict = Some(word(&value).ok_or_else(|| refuse("must be complete, retry, defer or fail".into()))?)
                }
                "code" => filter.code = Some(value),
                "text" => filter.text = Some(value),
                "revision" => {
                    let digits = value.strip_prefix("sha256:").unwrap_or(&value);
                    let is_digest = (4..=64).contains(&digits.len())
                        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                    filter.revision = Some(
                        is_digest
                            .then(|| digits.to_owned())
                            .ok_or_else(|| refuse("must be 4 to 64 hexadecimal digits of a digest".into()))?,
                    );
                }
                "correlation-id" => filter.correlation_id = Some(value),
                "platform" => filter.platform = Some(value),
                "dead-letter" => {
                    filter.dead_letter = Some(
                        value
                            .parse()
                            .map_err(|_| refuse("must be a number, as `patchbay dead-letter list` shows it".into()))?,
                    )
                }
                _ => match key.strip_prefix("data.").filter(|path| !path.is_empty()) {
                    Some(_) if filter.data.len() == MAX_DATA => {
                        return Err(refuse(format!("a filter can have at most {MAX_DATA} values of job data")));
                    }
                    Some(path) => filter.data.push((path.to_owned(), value)),
                    None => return Err(refuse(format!("is not a filter. Known filters: {KEYS}"))),
                },
            }
        }
        if let (Some(from), Some(to)) = (filter.from, filter.to)
            && from >= to
        {
            return Err(FilterError {
                key: "to".into(),
                reason: "must be later than from".into(),
            });
        }
        filter.data.sort();
        Ok(filter)
    }

    /// The reverse of [`Self::from_pairs`].
    pub fn pairs(&self) -> Vec<(String, String)> {
        let Self {
            queue,
            job,
            name,
            from,
            to,
            outcome,
            verdict,
            code,
            text,
            data,
            plugin,
            revision,
            correlation_id,
            platform,
            dead_letter,
        } = self;
        let time = |at: &DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        let named = [
            ("queue", queue.as_ref().map(ToString::to_string)),
            ("job", job.as_ref().map(ToString::to_string)),
            ("name", name.clone()),
            ("from", from.as_ref().map(time)),
            ("to", to.as_ref().map(time)),
            ("outcome", outcome.map(|kind| kind.as_str().to_owned())),
            ("verdict", verdict.map(|kind| kind.as_str().to_owned())),
            ("code", code.clone()),
            ("text", text.clone()),
            ("plugin", plugin.as_ref().map(ToString::to_string)),
            ("revision", revision.clone()),
            ("correlation-id", correlation_id.clone()),
            ("platform", platform.clone()),
            ("dead-letter", dead_letter.map(|id| id.to_string())),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        named
            .chain(
                data.iter()
                    .map(|(path, value)| (format!("data.{path}"), value.clone())),
            )
            .collect()
    }

    /// A copy for records, without values of job data, which may be personal.
    pub fn without_data(&self) -> Self {
        let data = self
            .data
            .iter()
            .map(|(path, _)| (path.clone(), "…".to_owned()))
            .collect();
        Self {
            data,
            ..self.clone()
        }
    }

    pub fn is_everything(&self) -> bool {
        self.pairs().is_empty()
    }

    /// The first key that is set and that only finished attempts have: jobs in Redis cannot be found
    /// by it. Every field stands here by name, so that a new one does not compile until somebody
    /// has decided what it is: where it was ignored, a bulk operation would take more jobs than its
    /// filter says.
    pub fn only_of_attempts(&self) -> Option<&'static str> {
        let Self {
            // Known of jobs in Redis, too.
            queue: _,
            job: _,
            name: _,
            from: _,
            to: _,
            code: _,
            text: _,
            data: _,
            correlation_id: _,
            platform: _,
            outcome,
            verdict,
            plugin,
            revision,
            dead_letter,
        } = self;
        let given = [
            ("outcome", outcome.is_some()),
            ("verdict", verdict.is_some()),
            ("plugin", plugin.is_some()),
            ("revision", revision.is_some()),
            ("dead-letter", dead_letter.is_some()),
        ];
        given
            .into_iter()
            .find_map(|(key, given)| given.then_some(key))
    }
}

impl TryFrom<std::collections::BTreeMap<String, String>> for Filter {
    type Error = FilterError;
    fn try_from(pairs: std::collections::BTreeMap<String, String>) -> Result<Self, FilterError> {
        Self::from_pairs(pairs)
    }
}

impl From<Filter> for std::collections::BTreeMap<String, String> {
    fn from(filter: Filter) -> Self {
        filter.pairs().into_iter().collect()
    }
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::from(text)).ok()
}

/// The range of years excludes mistyped ones, and both sides can hold it.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "must be a time like 2026-01-31T08:00:00Z".to_owned())?
        .to_utc();
    let year = chrono::Datelike::year(&time);
    if (1970..10_000).contains(&year) {
        Ok(time)
    } else {
        Err("must have a year from 1970 to 9999".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Filter, FilterError> {
        Filter::from_pairs(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn a_filter_is_the_same_as_pairs_and_as_json() {
        let pairs = [
            ("queue", "emailQueue"),
            ("from", "2026-01-01T00:00:00Z"),
            ("outcome", "memory-limit"),
            ("data.lead.id", "42"),
            ("revision", "abcd12"),
            ("text", "100%_\\"),
        ];
        let filter = of(&pairs).expect("a filter");
        assert_eq!(
            Filter::from_pairs(filter.pairs()).expect("its own pairs"),
            filter
        );
        let json = serde_json::to_string(&filter).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Filter>(&json).expect("its own JSON"),
            filter
        );
        assert!(!filter.is_everything() && Filter::default().is_everything());
    }

    #[test]
    fn keys_that_only_attempts_have_are_named() {
        let filter = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Filter::from_pairs(pairs).expect("a filter")
        };
        let of_jobs = filter(&[("queue", "q"), ("code", "timeout"), ("data.to", "x")]);
        assert_eq!(of_jobs.only_of_attempts(), None);
        let of_attempts = filter(&[("queue", "q"), ("revision", "abcd"), ("plugin", "email")]);
        assert_eq!(of_attempts.only_of_attempts(), Some("plugin"));
    }

    #[test]
    fn what_a_filter_cannot_mean_is_refused_by_its_name() {
        for (pairs, key) in [
            (&[("quene", "x")][..], "quene"),
            (&[("queue", "a:b")], "queue"),
            (&[("from", "yesterday")], "from"),
            (&[("from", "-5000-01-01T00:00:00Z")], "from"),
            (
                &[
                    ("from", "2026-01-02T00:00:00Z"),
                    ("to", "2026-01-01T00:00:00Z"),
                ],
                "to",
            ),
            (&[("outcome", "bad")], "outcome"),
            (&[("revision", "xyz1")], "revision"),
            (&[("text", "")], "text"),
            (&[("text", "a\0b")], "text"),
            (&[("name", "a"), ("name", "b")], "name"),
            (&[("data.", "1")], "data."),
            (&[("dead-letter", "x")], "dead-letter"),
        ] {
            assert_eq!(of(pairs).expect_err("refused").key, key);
        }
    }
}

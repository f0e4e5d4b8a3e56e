//! Identifiers, parsed once at the edge so that code inside never handles a bare `String`.
//!
//! Each keeps its text form in JSON, SQL and Redis. Parsing is the only way to make one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid identifier. Safe for clients: it has the rule, not the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {} {kind}: {rule}", if kind.starts_with('a') { "an" } else { "a" })]
pub struct InvalidId {
    /// What was expected, for example `queue name`.
    pub kind: &'static str,
    /// The rule that the text breaks.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { kind: $kind, rule: $rule })
                }
            }
        }

        text_form!($name);

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// A BullMQ queue, such as `emailQueue`. Accepts every name that a Node producer can use and
    /// Postgres can hold. BullMQ itself forbids `:` because the name is part of Redis keys. Queues
    /// that we create follow the stricter [`QueueName::check_new`].
    QueueName, "queue name", "1 to 512 bytes without ':' and NUL",
    |text| (1..=512).contains(&text.len()) && !text.contains([':', '\0'])
}

text_id! {
    /// A job within a queue: BullMQ's counter or the producer's own id. Accepts every id that
    /// Postgres can hold in an index. Jobs that we add follow the stricter [`JobId::check_new`].
    JobId, "job id", "1 to 1024 bytes without NUL",
    |text| (1..=1024).contains(&text.len()) && !text.contains('\0')
}

impl QueueName {
    /// Whether we may create this queue: people must read and type the name, and put it into URLs.
    pub fn check_new(&self) -> Result<(), InvalidId> {
        let text = self.as_str();
        let is_plain =
            text.len() <= 128 && text == text.trim() && !text.chars().any(char::is_control);
        if is_plain && ![".", ".."].contains(&text) {
            return Ok(());
        }
        Err(InvalidId {
            kind: "name for a new queue",
            rule: "1 to 128 bytes without ':', control characters and spaces at the ends, and neither '.' nor '..'",
        })
    }
}

/// Names that follow a queue's own name in Redis keys of BullMQ 1 to 6 and of its paid edition,
/// sorted. A job with such an id would be stored under a key where BullMQ keeps something else.
/// Prefixes of further keys (`de:…`, `metrics:…`, `repeat:…`) are included, since a job's own keys
/// (`…:lock`, `…:logs`) would collide with them.
const QUEUE_KEYS: [&str; 25] = [
    "active",
    "completed",
    "de",
    "delay",
    "delayed",
    "dn",
    "events",
    "failed",
    "groups",
    "id",
    "limiter",
    "marker",
    "meta",
    "meta-paused",
    "metrics",
    "paused",
    "pc",
    "prioritized",
    "priority",
    "repeat",
    "stalled",
    "stalled-check",
    "wait",
    "waiting",
    "waiting-children",
];

/// Why we do not add a job under an id. These are BullMQ's own rules (`Job.validateOptions`) and
/// stricter ones, since BullMQ accepts ids that destroy the queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNewId {
    #[error(
        "a job's own id cannot be {0}: BullMQ keeps a part of the queue under that name, and the job would destroy it. Put something before \
         it, for example job-{0}"
    )]
    QueueKey(JobId),
    /// BullMQ counts ids itself, and would later give this one to another job.
    #[error(
        "a job's own id cannot be a whole number or NaN: BullMQ gives out numbers itself, and would give this one to another job. Put something \
         before it, for example job-{0}"
    )]
    Number(JobId),
    /// The separator of Redis keys.
    #[error(
        "a job's own id cannot have a ':': BullMQ separates the parts of its keys with it. Use another separator, for example '-'"
    )]
    Colon,
    /// Nobody could type it, or put it into a URL.
    #[error(
        "a job's own id must have 1 to 256 bytes without control characters, and cannot be '.' or '..'"
    )]
    Unprintable,
}

impl JobId {
    /// Whether BullMQ keeps data of the queue itself under this name, or may do so. A schedule's
    /// tick, `repeat:ID:TIME`, is a job and allowed.
    pub fn is_queue_key(&self) -> bool {
        let is_own = |name: &str| QUEUE_KEYS.binary_search(&name).is_ok();
        match self.as_str().split_once(':') {
            None => is_own(self.as_str()),
            Some(("repeat", rest)) => !rest.contains(':'),
            Some((first, _)) => is_own(first),
        }
    }

    pub fn check_new(&self) -> Result<(), InvalidNewId> {
        let text = self.as_str();
        let digits = text.strip_prefix('-').unwrap_or(text);
        if text.contains(':') {
            Err(InvalidNewId::Colon)
        } else if self.is_queue_key() {
            Err(InvalidNewId::QueueKey(self.clone()))
        } else if text == "NaN"
            || (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        {
            Err(InvalidNewId::Number(self.clone()))
        } else if text.len() > 256
            || text.chars().any(char::is_control)
            || [".", ".."].contains(&text)
        {
            Err(InvalidNewId::Unprintable)
        } else {
            Ok(())
        }
    }
}

text_id! {
    /// A schedule, such as `exotel-reconcile`. The id is part of job ids and Redis keys, whose
    /// parts are separated by `:`.
    ScheduleId, "schedule id", "1 to 100 printable characters without ':' and spaces",
    |text| (1..=100).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

text_id! {
    /// A plugin, such as `email`. The name becomes part of Redis keys, role names and paths, hence
    /// the narrow alphabet.
    PluginName, "plugin name", "a lower-case letter, then 1 to 38 of a-z, 0-9 and '-'",
    |text| (2..=39).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

text_id! {
    /// A secret of a plugin, such as `API_KEY`. Part of names of environment variables.
    SecretName, "secret name", "1 to 64 of A-Z, 0-9 and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// What the secrets' names of kept credentials begin with. No manifest asks for such a secret.
pub const KEPT: &str = "KEPT_";

text_id! {
    /// A credential that a plugin has handed over, such as `graphy-12`.
    CredentialName, "credential name", "a lower-case letter, then up to 58 of a-z, 0-9 and '-'",
    |text| (1..=59).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

impl CredentialName {
    /// The secret of the vault that holds it: `KEPT_GRAPHY_12`. No two names have the same.
    pub fn as_secret(&self) -> String {
        format!(
            "{KEPT}{}",
            self.as_str().to_ascii_uppercase().replace('-', "_")
        )
    }

    /// The credential that such a secret holds.
    pub fn of_secret(secret: &str) -> Option<Self> {
        let name = secret.strip_prefix(KEPT)?;
        name.to_ascii_lowercase().replace('_', "-").parse().ok()
    }
}

text_id! {
    /// An audit trail, such as `lead_activity_log`.
    TrailName, "audit trail name", "a lower-case letter, then up to 63 of a-z, 0-9, '_', '-' and '.'",
    |text| (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c))
}

/// SHA-256 of a plugin's component file with its manifest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionDigest([u8; 32]);

impl RevisionDigest {
    pub fn of(component: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(component).into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 digits, for display, as in `docker images`.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl FromStr for RevisionDigest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidId {
            kind: "revision digest",
            rule: "64 hexadecimal digits (SHA-256 of the component file)",
        })?;
        Ok(Self(bytes))
    }
}

text_form!(RevisionDigest);

impl fmt::Display for RevisionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RevisionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_redis_keys_are_refused() {
        assert!("emailQueue".parse::<QueueName>().is_ok());
        for bad in ["", "a:b", "a\0b", &"a".repeat(513)] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_name_that_node_can_give_is_known_and_only_plain_ones_are_made() {
        for (name, is_plain) in [
            ("my queue", true),
            ("отчёты", true),
            ("a/b.c%2F?#", true),
            ("-x", true),
            (&"a".repeat(200), false),
            (".", false),
            ("..", false),
            ("a\nb", false),
            (" a", false),
        ] {
            let name: QueueName = name.parse().expect("a name");
            assert_eq!(name.check_new().is_ok(), is_plain, "{name:?}");
        }
    }

    #[test]
    fn ids_that_would_destroy_a_queue_are_known_and_not_added() {
        let refused = |id: &str| id.parse::<JobId>().expect("an id").check_new().err();
        assert!(QUEUE_KEYS.is_sorted());
        for id in QUEUE_KEYS {
            let error = refused(id).expect("refused");
            assert!(
                matches!(error, InvalidNewId::QueueKey(_))
                    && error.to_string().contains(&format!("job-{id}")),
                "{id}"
            );
        }
        for (id, is_own) in [
            ("7:lock", false),
            ("repeat:a:1", false),
            ("repeat:a", true),
            ("de:x", true),
            ("metrics:completed", true),
            (":", false),
        ] {
            assert_eq!(refused(id), Some(InvalidNewId::Colon), "{id}");
            assert_eq!(
                id.parse::<JobId>().expect("an id").is_queue_key(),
                is_own,
                "{id}"
            );
        }
        for id in ["0", "7", "-7", "007", "NaN", "99999999999999999999999"] {
            assert!(matches!(refused(id), Some(InvalidNewId::Number(_))), "{id}");
        }
        for id in ["a\nb", ".", "..", &"a".repeat(257), "\u{9b}"] {
            assert_eq!(refused(id), Some(InvalidNewId::Unprintable), "{id:?}");
        }
        for id in [
            "job-failed",
            "Failed",
            "faile",
            "failed ",
            "a/b",
            "-",
            "-x",
            "1e3",
            "1.5",
            "отчёт 7",
            "😀",
            "~.",
        ] {
            assert_eq!(refused(id), None, "{id}");
        }
    }

    #[test]
    fn plugin_names_are_lower_case_and_short() {
        assert!("email".parse::<PluginName>().is_ok());
        for bad in ["e", "Email", "1mail", "e_mail", "../email", &"a".repeat(40)] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_expected_is_said_in_english() {
        let said = |error: InvalidId| error.to_string();
        assert!(
            said("X".parse::<TrailName>().expect_err("upper case"))
                .starts_with("not an audit trail name: ")
        );
        assert!(
            said("x".parse::<PluginName>().expect_err("short")).starts_with("not a plugin name: ")
        );
    }

    #[test]
    fn digests_survive_their_text_form() {
        let digest = RevisionDigest::of(b"component");
        assert_eq!(digest.to_string().parse::<RevisionDigest>(), Ok(digest));
        assert!("abc".parse::<RevisionDigest>().is_err());
    }
}

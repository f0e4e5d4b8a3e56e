//! Identifiers, parsed once at the edge so that the inside never handles a bare `String`.
//!
//! Each keeps its text form on the wire (JSON, SQL, Redis); parsing is the only way in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier that it should be. Safe to show to a client: it carries the kind and the rule, not the input.
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
            /// The text form.
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

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

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
    /// A BullMQ queue, such as `emailQueue`. BullMQ itself forbids `:` because the name is part of Redis keys.
    QueueName, "queue name", "1 to 128 printable characters without ':' and spaces",
    |text| (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

text_id! {
    /// A job within a queue: BullMQ's counter or the producer's own id.
    JobId, "job id", "1 to 1024 bytes without control characters",
    |text| (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control)
}

text_id! {
    /// A schedule, such as `exotel-reconcile`. Part of job ids and Redis keys, whose parts `:` separates.
    ScheduleId, "schedule id", "1 to 100 printable characters without ':' and spaces",
    |text| (1..=100).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

text_id! {
    /// A plugin, such as `email`. Becomes part of Redis keys, role names and paths, hence the narrow alphabet.
    PluginName, "plugin name", "a lower-case letter, then 1 to 38 of a-z, 0-9 and '-'",
    |text| (2..=39).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

text_id! {
    /// A secret of a plugin, such as `API_KEY`. Part of the names of environment variables.
    SecretName, "secret name", "1 to 64 of A-Z, 0-9 and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

text_id! {
    /// An audit trail, such as `lead_activity_log`.
    TrailName, "audit trail name", "a lower-case letter, then up to 63 of a-z, 0-9, '_', '-' and '.'",
    |text| (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c))
}

/// A plugin revision: SHA-256 of its component file, manifest included. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionDigest([u8; 32]);

impl RevisionDigest {
    /// The digest of a component file.
    pub fn of(component: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(component).into())
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 digits: enough for people, as in `docker images`.
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

impl TryFrom<String> for RevisionDigest {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RevisionDigest> for String {
    fn from(digest: RevisionDigest) -> String {
        digest.to_string()
    }
}

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
        for bad in ["", "a:b", "a b", "ü", "a\n"] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad:?}");
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
        assert!(said("X".parse::<TrailName>().expect_err("upper case")).starts_with("not an audit trail name: "));
        assert!(said("x".parse::<PluginName>().expect_err("short")).starts_with("not a plugin name: "));
    }

    #[test]
    fn digests_survive_their_text_form() {
        let digest = RevisionDigest::of(b"component");
        assert_eq!(digest.to_string().parse::<RevisionDigest>(), Ok(digest));
        assert!("abc".parse::<RevisionDigest>().is_err());
    }
}

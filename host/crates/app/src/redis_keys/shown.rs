//! Keys as they leave the host: without secrets, and within limits. The rules of what is hidden are
//! `model::redaction`'s; here is which of them hold for which key.

use patchbay_api::redis_keys::{KeyEncoding, RedisKey};
use patchbay_model::Redaction;
use patchbay_model::redaction::{Mask, REDACTED, closed, is_secret};
use patchbay_queue::{KeyOwner, StoredFields, StoredKey, StoredValue};
use serde_json::{Map, Number, Value, json};

use super::in_base64;

/// All values of an answer, as JSON.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// Fields of BullMQ's hashes and events that never hold what a producer, a worker or a plugin
/// wrote. Everything else, such as `data`, `returnvalue` and `stacktrace`, is shown on the job's
/// page, by the rules of its queue.
const OF_BULLMQ: [&str; 39] = [
    "atm",
    "ats",
    "attemptsMade",
    "attemptsStarted",
    "concurrency",
    "count",
    "defa",
    "deid",
    "delay",
    "delayedId",
    "duration",
    "endDate",
    "event",
    "every",
    "finishedOn",
    "ic",
    "id",
    "jobId",
    "limit",
    "max",
    "name",
    "next",
    "nrjid",
    "offset",
    "opts.maxLenEvents",
    "parent",
    "parentKey",
    "pattern",
    "paused",
    "pb",
    "prev",
    "priority",
    "processedOn",
    "rjk",
    "startDate",
    "stc",
    "timestamp",
    "tz",
    "version",
];

/// The keys of an answer.
pub(super) fn page(keys: Vec<StoredKey>) -> Vec<RedisKey> {
    let mut left = MAX_PAGE_BYTES;
    let mut shown: Vec<RedisKey> = keys.into_iter().map(key).collect();
    for key in &mut shown {
        // Control characters take six bytes each.
        match left.checked_sub(key.value.to_string().len()) {
            Some(rest) => left = rest,
            None => {
                key.value = Value::Null;
                key.truncated = true;
            }
        }
    }
    shown
}

fn key(stored: StoredKey) -> RedisKey {
    let hiding = Hiding::of(&stored);
    let owner = match &stored.owner {
        KeyOwner::Nobody => None,
        KeyOwner::Queue(name) => Some(format!("queue:{name}")),
        KeyOwner::Host => Some("patchbay".to_owned()),
        KeyOwner::Plugin(name) => Some(name.clone()),
        KeyOwner::SharedByPlugins => Some("shared".to_owned()),
    };
    let mut shown = Shown {
        hiding,
        redaction: Redaction::strict(),
        is_cut: stored.is_cut,
        is_redacted: hiding == Hiding::Whole && stored.kind.is_some(),
    };
    let value = shown.value(stored.value);
    let problem = stored.kind.is_none().then(|| {
        "Redis's user may not read this key. Give the user the right ~KEY, or a pattern of it"
            .to_owned()
    });
    let (key, encoding) = match String::from_utf8(stored.key) {
        Ok(key) => (key, None),
        Err(error) => (in_base64(error.as_bytes()), Some(KeyEncoding::Base64)),
    };
    RedisKey {
        key,
        encoding,
        kind: stored.kind.unwrap_or_else(|| "unknown".to_owned()),
        ttl_ms: stored.ttl_ms,
        size_bytes: stored.size_bytes,
        length: stored.length,
        value,
        truncated: shown.is_cut,
        redacted: shown.is_redacted,
        read_only: stored.owner.is_read_only(),
        owner,
        problem,
    }
}

/// What of a key is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hiding {
    /// Secrets, by the names of fields and by their form.
    Secrets,
    /// All fields but BullMQ's own.
    FieldsOfJobs,
    Whole,
}

impl Hiding {
    fn of(key: &StoredKey) -> Self {
        let name = String::from_utf8_lossy(&key.key);
        match key.owner {
            KeyOwner::Host => Self::Whole,
            // A lock holds its worker's token. Log lines are a plugin's.
            KeyOwner::Queue(_) if name.ends_with(":lock") || name.ends_with(":logs") => Self::Whole,
            KeyOwner::Queue(_) => Self::FieldsOfJobs,
            // As in `otp:42` and `session.token`, where the value is a bare text.
            _ if name.split([':', '/', '|', '.']).any(is_secret) => Self::Whole,
            _ => Self::Secrets,
        }
    }
}

struct Shown {
    hiding: Hiding,
    redaction: Redaction,
    is_cut: bool,
    is_redacted: bool,
}

impl Shown {
    fn value(&mut self, value: StoredValue) -> Value {
        if self.hiding == Hiding::Whole {
            return Value::Null;
        }
        match value {
            StoredValue::NotRead => Value::Null,
            StoredValue::Text(text) => self.text(text),
            StoredValue::Elements(elements) => {
                elements.into_iter().map(|text| self.text(text)).collect()
            }
            StoredValue::Scored(members) => members
                .into_iter()
                .map(|(member, score)| json!({ "member": self.text(member), "score": number(&score) }))
                .collect(),
            StoredValue::Fields(fields) => self.fields(fields),
            StoredValue::Entries(entries) => entries
                .into_iter()
                .map(|(id, fields)| json!({ "id": id, "fields": self.fields(fields) }))
                .collect(),
        }
    }

    fn fields(&mut self, fields: StoredFields) -> Value {
        let fields = fields.into_iter().map(|(name, value)| {
            let name = match String::from_utf8(name) {
                Ok(name) => name,
                Err(error) => format!("base64:{}", in_base64(error.as_bytes())),
            };
            let is_hidden = match self.hiding {
                Hiding::FieldsOfJobs => !OF_BULLMQ.contains(&name.as_str()),
                _ => self.redaction.hides_name(&name),
            };
            let value = match is_hidden && !value.is_empty() {
                true => self.hidden(),
                false => self.text(value),
            };
            // A name can be a secret of its own, as in a hash of sessions by token.
            let Value::String(name) = self.text(name.into_bytes()) else {
                return (REDACTED.to_owned(), value);
            };
            (name, value)
        });
        Value::Object(fields.collect::<Map<_, _>>())
    }

    fn text(&mut self, bytes: Vec<u8>) -> Value {
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let cause = error.utf8_error();
                // A text that was cut within a character.
                if self.is_cut && cause.error_len().is_none() && cause.valid_up_to() > 0 {
                    let mut bytes = error.into_bytes();
                    bytes.truncate(cause.valid_up_to());
                    return self.text(bytes);
                }
                return self.binary(error.as_bytes());
            }
        };
        // Where a document was cut, its names count all the same.
        let text = match closed(&text).filter(|closed| self.is_cut && is_json(closed)) {
            Some(closed) => closed,
            None => text,
        };
        let shown = self.redaction.document(&text, &Mask::default());
        self.is_redacted |= shown.hidden > 0;
        shown.text.into_owned().into()
    }

    /// Names and credentials within bytes can only be guessed, so such bytes are hidden whole.
    fn binary(&mut self, bytes: &[u8]) -> Value {
        let text = String::from_utf8_lossy(bytes);
        match self.redaction.document(&text, &Mask::default()).hidden {
            0 => json!({ "base64": in_base64(bytes) }),
            _ => self.hidden(),
        }
    }

    fn hidden(&mut self) -> Value {
        self.is_redacted = true;
        REDACTED.into()
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Infinite scores are texts: JSON has no such numbers.
fn number(score: &str) -> Value {
    let number = score.parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| score.into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(key: &str, owner: KeyOwner, value: StoredValue) -> StoredKey {
        StoredKey {
            key: key.into(),
            kind: Some("string".into()),
            ttl_ms: None,
            size_bytes: Some(64),
            length: Some(1),
            value,
            is_cut: false,
            owner,
        }
    }

    fn fields(fields: &[(&str, &str)]) -> StoredValue {
        let fields = fields
            .iter()
            .map(|(name, value)| (Vec::from(*name), Vec::from(*value)));
        StoredValue::Fields(fields.collect())
    }

    fn shown(key: &str, value: StoredValue) -> RedisKey {
        super::key(stored(key, KeyOwner::Nobody, value))
    }

    #[test]
    fn secrets_are_hidden_by_the_names_of_fields_and_keys_and_by_their_form() {
        let text = |text: &str| StoredValue::Text(text.into());
        let kpi = shown(
            "kpi:dashboard",
            text(r#"{"revenue":1250,"ownerEmail":"a@b.example"}"#),
        );
        assert_eq!(kpi.value, r#"{"revenue":1250,"ownerEmail":"[redacted]"}"#);
        assert!(kpi.redacted && !kpi.truncated && !kpi.read_only && kpi.owner.is_none());
        let plain = shown("kpi:count", text("1250"));
        assert_eq!((plain.value, plain.redacted), ("1250".into(), false));
        let otp = shown("otp:42", text("4711"));
        assert_eq!((otp.value, otp.redacted), (Value::Null, true));
        let user = shown(
            "user:7",
            fields(&[("password", "hunter2"), ("city", "Pune"), ("email", "")]),
        );
        assert_eq!(
            user.value,
            json!({ "password": "[redacted]", "city": "Pune", "email": "" })
        );
        let sessions = shown("sessions", fields(&[("eyJhbGciOiJub25lIn0.x.y", "7")]));
        assert_eq!(sessions.value, json!({ "[redacted]": "7" }));
        let list = shown(
            "l",
            StoredValue::Elements(vec![b"pbt_1a2b3c4d_secret".to_vec(), b"x".to_vec()]),
        );
        assert_eq!(list.value, json!(["[redacted]", "x"]));
    }

    #[test]
    fn of_a_text_that_was_cut_no_half_of_a_secret_is_shown() {
        let cut = |text: &[u8]| {
            let mut key = stored("k", KeyOwner::Nobody, StoredValue::Text(text.to_vec()));
            key.is_cut = true;
            super::key(key)
        };
        assert_eq!(cut(br#"{"n":1,"password":"hunt"#).value, r#"{"n":1}"#);
        assert_eq!(cut("Gr\u{fc}".as_bytes()).value, "Gr\u{fc}");
        assert_eq!(cut(&"Gr\u{fc}".as_bytes()[..3]).value, "Gr");
        assert_eq!(cut(b"plain text").value, "plain text");
        assert!(cut(b"x").truncated);
    }

    #[test]
    fn bytes_are_base64_unless_they_hold_a_credential() {
        let bytes = |bytes: &[u8]| shown("b", StoredValue::Text(bytes.to_vec())).value;
        assert_eq!(bytes(b"\xff\x00"), json!({ "base64": "/wA=" }));
        assert_eq!(
            bytes(b"\xffeyJhbGciOiJub25lIn0.eyJzdWIiOjF9."),
            "[redacted]"
        );
        let key = super::key(StoredKey {
            key: b"\xff".to_vec(),
            ..stored("", KeyOwner::Nobody, StoredValue::NotRead)
        });
        assert_eq!(
            (key.key.as_str(), key.encoding),
            ("/w==", Some(KeyEncoding::Base64))
        );
    }

    #[test]
    fn of_jobs_only_bullmqs_own_fields_are_shown_and_of_the_host_nothing() {
        let queue = || KeyOwner::Queue("q".into());
        let job = fields(&[
            ("name", "send"),
            ("timestamp", "1"),
            ("data", r#"{"to":"a"}"#),
            ("returnvalue", "1"),
            ("stacktrace", "[]"),
            ("bull:q:8", "a child's result"),
        ]);
        let job = super::key(stored("bull:q:7", queue(), job));
        assert_eq!(
            job.value,
            json!({
                "name": "send", "timestamp": "1", "data": "[redacted]", "returnvalue": "[redacted]",
                "stacktrace": "[redacted]", "bull:q:8": "[redacted]",
            })
        );
        assert_eq!(
            (job.owner.as_deref(), job.read_only),
            (Some("queue:q"), true)
        );
        let lock = StoredValue::Text(b"worker".to_vec());
        assert_eq!(
            super::key(stored("bull:q:7:lock", queue(), lock)).value,
            Value::Null
        );
        let own = super::key(stored(
            "patchbay:attempts",
            KeyOwner::Host,
            StoredValue::NotRead,
        ));
        assert_eq!((own.redacted, own.read_only), (true, true));
    }

    #[test]
    fn a_page_of_large_values_ends_within_its_limit() {
        let large = || stored("k", KeyOwner::Nobody, StoredValue::Text(vec![1; 100_000]));
        let page = page(vec![
            large(),
            large(),
            stored("small", KeyOwner::Nobody, StoredValue::Text(b"x".to_vec())),
        ]);
        assert!(page[0].value.is_string() && page[1].value.is_null() && page[1].truncated);
        assert_eq!(page[2].value, "x");
    }

    #[test]
    fn scores_are_numbers_where_json_has_them() {
        assert_eq!(number("1.5"), json!(1.5));
        assert_eq!(number("-inf"), json!("-inf"));
    }
}

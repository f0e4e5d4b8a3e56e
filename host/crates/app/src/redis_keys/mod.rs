//! Use cases of Redis's keys: looking at them, and removing one, whoever wrote it. What queues and
//! Patchbay itself depend on stays.

mod cursor;
mod shown;

use base64::Engine as _;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::alphabet::URL_SAFE as URL_ALPHABET;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use patchbay_api::redis_keys::{
    KeyEncoding, ListRedisKeys, RedisKeyPage, RedisKeysRemove, RemovedRedisKey,
};
use patchbay_model::Redaction;
use patchbay_model::key_pattern::{InvalidKeyPattern, KeyPattern, MAX_KEY_BYTES};
use patchbay_model::redaction::Mask;
use patchbay_queue::{Broker, KeyOwner, KeyQuery, StoredKey};
use serde_json::json;

use self::cursor::Listing;
use crate::actions::{Actions, Caller};
use crate::error::Kind;
use crate::{Error, Parts};

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
/// Of a key that is recorded. The rest says how long it is.
const MAX_RECORDED_BYTES: usize = 500;

#[derive(Clone)]
pub struct RedisKeys {
    broker: Broker,
    actions: Actions,
}

impl RedisKeys {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            actions: parts.actions.clone(),
        }
    }

    /// One page of keys, without secrets.
    pub async fn list(&self, asked: ListRedisKeys) -> Result<RedisKeyPage, Error> {
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(format!(
                "limit: must be from 1 to {MAX_LIMIT}"
            )));
        }
        let pattern = match &asked.pattern {
            Some(pattern) => Some(bytes("pattern", pattern, asked.encoding)?),
            None => None,
        };
        let wanted = pattern.as_deref().map(KeyPattern::new).transpose()?;
        let kind = asked.kind.map(|kind| kind.as_str());
        let run = self.broker.server_run().await?;
        let listing = Listing {
            run: &run,
            pattern: pattern.as_deref(),
            kind,
        };
        let from = match &asked.cursor {
            Some(cursor) => Some(listing.place(cursor)?),
            None => None,
        };
        let query = KeyQuery {
            pattern: wanted,
            kind,
            from,
            limit: limit.into(),
            with_values: asked.values.unwrap_or(true),
        };
        let page = self.broker.keys_of_page(&query).await?;
        let data = shown::page(page.keys);
        Ok(RedisKeyPage {
            success: true,
            count: data.len(),
            data,
            next_cursor: page.next.map(|next| listing.cursor(&next)),
            partial: page.partial,
        })
    }

    /// Removes exactly this key, and records its name, type and size.
    pub async fn remove(
        &self,
        who: &Caller,
        key: &str,
        encoding: Option<KeyEncoding>,
    ) -> Result<RemovedRedisKey, Error> {
        let key = bytes("key", key, encoding)?;
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::invalid(format!(
                "key: has {} bytes; the limit is {MAX_KEY_BYTES}",
                key.len()
            )));
        }
        let found = self.broker.key(&key).await?.ok_or_else(unknown)?;
        refuse_read_only(&found)?;
        let details = json!({ "type": found.kind, "sizeBytes": found.size_bytes });
        let act = async {
            match self.broker.remove_key(&key).await? {
                true => Ok(RemovedRedisKey {
                    success: true,
                    deleted_count: 1,
                }),
                // It has expired, or somebody else has removed it.
                false => Err(unknown()),
            }
        };
        let deleted = |removed: &RemovedRedisKey| json!({ "deletedCount": removed.deleted_count });
        self.actions
            .record_as::<RedisKeysRemove, _>(who, &recorded(&key), details, act, deleted)
            .await
    }
}

/// The text of the previous backend: its clients compare it.
fn unknown() -> Error {
    Error::not_found("Key not found")
}

fn refuse_read_only(key: &StoredKey) -> Result<(), Error> {
    let message = match &key.owner {
        KeyOwner::Queue(_) => "Key belongs to a queue. Use the queue's own operations",
        KeyOwner::Host => "Key belongs to Patchbay itself and cannot be removed here",
        KeyOwner::Nobody | KeyOwner::Plugin(_) | KeyOwner::SharedByPlugins => return Ok(()),
    };
    Err(Error::new(Kind::Conflict, "read-only", message))
}

/// What a parameter says, in bytes.
fn bytes(name: &str, text: &str, encoding: Option<KeyEncoding>) -> Result<Vec<u8>, Error> {
    match encoding {
        None => Ok(text.as_bytes().to_vec()),
        Some(KeyEncoding::Base64) => {
            let lenient = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let is_standard = text.contains(['+', '/']);
            let alphabet = if is_standard {
                &STANDARD_ALPHABET
            } else {
                &URL_ALPHABET
            };
            GeneralPurpose::new(alphabet, lenient)
                .decode(text)
                .map_err(|_| Error::invalid(format!("{name}: is not base64, as encoding says")))
        }
    }
}

/// A key as it stands in the record: text without credentials, such as a token by which a session
/// is kept, anything else in base64.
fn recorded(key: &[u8]) -> String {
    let cut = &key[..key.len().min(MAX_RECORDED_BYTES)];
    let text = match std::str::from_utf8(cut) {
        Ok(text) if !text.chars().any(char::is_control) => without_secrets(text),
        Err(error) if error.error_len().is_none() && cut.len() < key.len() => {
            without_secrets(&String::from_utf8_lossy(&cut[..error.valid_up_to()]))
        }
        _ => format!("base64:{}", URL_SAFE_NO_PAD.encode(cut)),
    };
    match cut.len() < key.len() {
        true => format!("{text}… ({} bytes)", key.len()),
        false => text,
    }
}

fn without_secrets(text: &str) -> String {
    let shown = Redaction::strict().document(text, &Mask::default());
    shown.text.into_owned()
}

/// In base64 as the API writes it.
fn in_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl From<InvalidKeyPattern> for Error {
    fn from(error: InvalidKeyPattern) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_either_alphabet_is_read_with_and_without_padding() {
        let read = |text| bytes("key", text, Some(KeyEncoding::Base64)).ok();
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(read(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        for text in ["+_8", "a", "a b", "é", "="] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(bytes("key", "a+/", None).ok(), Some(b"a+/".to_vec()));
    }

    #[test]
    fn a_recorded_key_is_a_short_text() {
        assert_eq!(recorded("kpi:é".as_bytes()), "kpi:é");
        assert_eq!(
            recorded(b"session:eyJhbGciOiJub25lIn0.x.y"),
            "session:[redacted]"
        );
        assert_eq!(recorded(b"a\nb"), "base64:YQpi");
        assert_eq!(recorded(b"\xff"), "base64:_w");
        assert_eq!(recorded(b"a\0"), "base64:YQA");
        let long = format!("{}é tail", "a".repeat(MAX_RECORDED_BYTES - 1));
        let expected = format!(
            "{}… ({} bytes)",
            "a".repeat(MAX_RECORDED_BYTES - 1),
            long.len()
        );
        assert_eq!(recorded(long.as_bytes()), expected);
    }
}

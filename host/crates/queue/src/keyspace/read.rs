//! Reads keys with `read.lua`, all of a page in one round trip.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{RedisError, RedisResult, Script, Value};

use super::{KeyOwner, too_late};
use crate::scripts::is_unknown;
use crate::{Broker, QueueError, Trouble};

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// For the values of a page.
const VALUES_LIMIT: Duration = Duration::from_millis(500);
/// What is read of a string.
const MAX_TEXT_BYTES: usize = 4_096;
const MAX_ELEMENTS: usize = 50;
const MAX_ELEMENT_BYTES: usize = 1_024;
/// What is read of all values of a page; its keys have equal shares.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// A key, as Redis has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    pub key: Vec<u8>,
    /// As the command `TYPE` names it; `None` if Redis's user may not read this key.
    pub kind: Option<String>,
    /// `None`: it does not expire.
    pub ttl_ms: Option<u64>,
    /// Memory that it takes, by Redis's own estimate.
    pub size_bytes: Option<u64>,
    /// Bytes of a string, elements of anything else.
    pub length: Option<u64>,
    pub value: StoredValue,
    /// Part of the value was not read.
    pub is_cut: bool,
    pub owner: KeyOwner,
}

/// Names with values, in the order of Redis.
pub type StoredFields = Vec<(Vec<u8>, Vec<u8>)>;

/// The beginning of a value. Each text may be cut.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredValue {
    NotRead,
    Text(Vec<u8>),
    /// Of a list from its head, or of a set.
    Elements(Vec<Vec<u8>>),
    /// Of a sorted set, from the lowest score on. Scores as Redis writes them.
    Scored(Vec<(Vec<u8>, String)>),
    Fields(StoredFields),
    /// Of a stream: id and fields, the newest first.
    Entries(Vec<(String, StoredFields)>),
}

impl Broker {
    /// Those of the keys that exist, in the same order.
    pub(super) async fn read_keys(
        &self,
        keys: &[Vec<u8>],
        with_values: bool,
    ) -> Result<Vec<StoredKey>, QueueError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let share = MAX_PAGE_BYTES / keys.len();
        let owners: Vec<KeyOwner> = keys
            .iter()
            .map(|key| KeyOwner::of(key, &self.config))
            .collect();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for (key, owner) in keys.iter().zip(&owners) {
            // Nobody is shown values of Patchbay's own keys.
            let is_read = with_values && *owner != KeyOwner::Host;
            pipe.cmd("EVALSHA")
                .arg(READ.get_hash())
                .arg(1)
                .arg(key)
                .arg(u8::from(is_read))
                .arg(MAX_TEXT_BYTES.min(share))
                .arg(MAX_ELEMENT_BYTES)
                .arg(share)
                .arg(MAX_ELEMENTS);
        }
        let mut replies = self.told(&pipe).await?;
        if replies
            .iter()
            .any(|reply| matches!(reply, Err(error) if is_unknown(error)))
        {
            let mut connection = self.connection.get();
            READ.prepare_invoke().load_async(&mut connection).await?;
            replies = self.told(&pipe).await?;
        }
        let mut read = Vec::with_capacity(keys.len());
        for ((key, owner), reply) in keys.iter().zip(owners).zip(replies) {
            let is_value_wanted = with_values && owner != KeyOwner::Host;
            if let Some(found) = stored(key, owner, reply, is_value_wanted)? {
                read.push(found);
            }
        }
        Ok(read)
    }

    async fn told(&self, pipe: &redis::Pipeline) -> Result<Vec<RedisResult<Value>>, QueueError> {
        let mut connection = self.connection.get();
        let told = tokio::time::timeout(VALUES_LIMIT, pipe.query_async(&mut connection)).await;
        Ok(told.map_err(|_| too_late())??)
    }
}

/// `None` if the key does not exist.
fn stored(
    key: &[u8],
    owner: KeyOwner,
    reply: RedisResult<Value>,
    is_value_wanted: bool,
) -> Result<Option<StoredKey>, QueueError> {
    let mut found = StoredKey {
        key: key.to_vec(),
        kind: None,
        ttl_ms: None,
        size_bytes: None,
        length: None,
        value: StoredValue::NotRead,
        is_cut: false,
        owner,
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if is_about_key(&error) => return Ok(Some(found)),
        Err(error) => return Err(error.into()),
    };
    let Value::Array(parts) = reply else {
        return Err(unreadable());
    };
    let mut parts = parts.into_iter();
    let kind = text(parts.next())?;
    match kind.as_str() {
        "none" => return Ok(None),
        "denied" => {
            let (command, why) = (text(parts.next())?, text(parts.next())?);
            return match is_about_key_in(&why) {
                true => Ok(Some(found)),
                false => Err(denied(&command, &why)),
            };
        }
        _ => {}
    }
    let mut number = || match parts.next() {
        Some(Value::Int(number)) => Ok(number),
        _ => Err(unreadable()),
    };
    let (ttl, size, length, is_cut, is_read) =
        (number()?, number()?, number()?, number()?, number()?);
    found.ttl_ms = u64::try_from(ttl).ok();
    found.size_bytes = u64::try_from(size).ok();
    found.length = u64::try_from(length).ok();
    found.is_cut = is_cut == 1 || (is_value_wanted && is_read == 0);
    if is_read == 1 {
        found.value = value(&kind, parts.next().unwrap_or(Value::Nil))?;
    }
    found.kind = Some(kind);
    Ok(Some(found))
}

fn value(kind: &str, value: Value) -> Result<StoredValue, QueueError> {
    Ok(match kind {
        "string" => StoredValue::Text(bytes(value)?),
        "list" | "set" => StoredValue::Elements(elements(value)?),
        "zset" => {
            let pairs = pairs(value)?.into_iter();
            let score = |score: Vec<u8>| String::from_utf8_lossy(&score).into_owned();
            StoredValue::Scored(pairs.map(|(member, of)| (member, score(of))).collect())
        }
        "hash" => StoredValue::Fields(pairs(value)?),
        _ => {
            let entry = |entry: Value| match entry {
                Value::Array(parts) => {
                    let mut parts = parts.into_iter();
                    let id = text(parts.next())?;
                    Ok((id, pairs(parts.next().unwrap_or(Value::Nil))?))
                }
                _ => Err(unreadable()),
            };
            let Value::Array(entries) = value else {
                return Err(unreadable());
            };
            StoredValue::Entries(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

fn bytes(value: Value) -> Result<Vec<u8>, QueueError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(unreadable()),
    }
}

fn text(value: Option<Value>) -> Result<String, QueueError> {
    let bytes = bytes(value.unwrap_or(Value::Nil))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn elements(value: Value) -> Result<Vec<Vec<u8>>, QueueError> {
    match value {
        Value::Array(elements) => elements.into_iter().map(bytes).collect(),
        _ => Err(unreadable()),
    }
}

fn pairs(value: Value) -> Result<StoredFields, QueueError> {
    let mut elements = elements(value)?.into_iter();
    let mut pairs = Vec::with_capacity(elements.len() / 2);
    while let (Some(first), Some(second)) = (elements.next(), elements.next()) {
        pairs.push((first, second));
    }
    Ok(pairs)
}

fn unreadable() -> QueueError {
    QueueError::Damaged {
        what: "Redis's reply about a key does not have the expected form".into(),
        source: None,
    }
}

/// Whether Redis's user may not reach this key, while the command itself is allowed.
pub(super) fn is_about_key(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") && is_about_key_in(&error.to_string())
}

fn is_about_key_in(why: &str) -> bool {
    why.contains("a key") || why.contains("the keys")
}

/// For a request about one key that Redis's user may not reach.
pub(super) fn no_access(source: RedisError) -> QueueError {
    QueueError::CannotServe {
        trouble: Trouble::Rights("access to this key (~KEY)".into()),
        source,
    }
}

/// Redis has refused a command within the script. `why` is its reply, with or without a code.
fn denied(command: &str, why: &str) -> QueueError {
    let (code, detail) = why
        .split_once(' ')
        .filter(|(code, _)| code.bytes().all(|byte| byte.is_ascii_uppercase()))
        .unwrap_or(("ERR", why));
    let trouble = match Trouble::of_reply(code, detail) {
        // Some versions of Redis do not say which command it was.
        Some(Trouble::Rights(_)) => Trouble::Rights(format!("+{}", right(command))),
        Some(trouble) => trouble,
        None => Trouble::Refused(format!("{} ({code})", right(command))),
    };
    let source = (
        redis::ErrorKind::Client,
        "refused within a script",
        why.to_owned(),
    )
        .into();
    QueueError::CannotServe { trouble, source }
}

/// A command as `ACL SETUSER` names it.
fn right(command: &str) -> String {
    let command = command.to_ascii_lowercase();
    if command == "memory" {
        return "memory|usage".into();
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_is_told_as_the_right_that_is_missing() {
        for why in [
            "ERR The user executing the script can't run this command or subcommand",
            "NOPERM ACL failure in script: User u has no permissions to run the 'memory|usage' command",
            "NOPERM this user has no permissions to run the 'memory' command or its subcommand",
        ] {
            let told = denied("MEMORY", why).to_string();
            assert!(
                told.starts_with("Redis's user lacks a right: +memory|usage. "),
                "{told}"
            );
        }
        let told = denied("HSCAN", "ERR unknown command 'HSCAN'").to_string();
        assert!(told.starts_with("Redis refuses a command: "), "{told}");
    }

    #[test]
    fn a_reply_of_another_form_is_an_error_and_no_panic() {
        let key = |reply| stored(b"k", KeyOwner::Nobody, Ok(reply), true);
        for reply in [
            Value::Nil,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::BulkString(b"string".to_vec())]),
        ] {
            assert!(key(reply).is_err());
        }
        let none = Value::Array(vec![Value::BulkString(b"none".to_vec())]);
        assert_eq!(key(none).expect("readable"), None);
    }
}

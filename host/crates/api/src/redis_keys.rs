//! Keys of Redis, whoever wrote them: the previous backend's `/api/redis/keys`, with its shapes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::answer::Whole;
use crate::body::NoBody;
use crate::{operations, path_params};

path_params! {
    /// A key.
    RedisKeyPath {
        /// The key, percent-encoded as UTF-8, or in base64 (see `encoding`). It may contain `/`, encoded or not
        key: String,
    }
}

operations! {
    /// List keys of Redis page by page, with the beginnings of their values. Secrets and personal
    /// data are hidden by the names of their fields.
    RedisKeysList = "redis_keys.list": GET "/api/redis/keys" ((), ListRedisKeys, NoBody) -> Whole<RedisKeyPage>,
        AdminOrViewer, Reads, data Shown(&["value"]), errors [];
    /// Remove one key. Keys of queues and Patchbay's own keys are read-only.
    RedisKeysRemove = "redis_keys.remove": DELETE "/api/redis/keys/{*key}" (RedisKeyPath, RemoveRedisKey, NoBody) -> Whole<RemovedRedisKey>,
        AdminOrOperator, DestroysNamed("removes the key"), audit "redis-key.remove",
        errors [404 "Key not found", 409 "`read-only`: the key belongs to a queue, or to Patchbay itself"];
}

/// Which keys to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListRedisKeys {
    /// Only keys that match: `*` (at most 4), `?`, `[ab]`, and `\` before a character that stands
    /// for itself; at most 200 bytes. A pattern without a wildcard is one key, which is looked up.
    pub pattern: Option<String>,
    /// `base64` if `pattern` is in base64.
    #[param(inline)]
    pub encoding: Option<KeyEncoding>,
    /// Only keys of this type.
    #[param(inline)]
    #[serde(rename = "type")]
    pub kind: Option<KeyType>,
    /// `nextCursor` of the page before, with the same pattern and type.
    pub cursor: Option<String>,
    /// Keys per page, 1 to 200; default 50. A page of keys with very long names may have a few
    /// more.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
    /// Whether to read the values; default true.
    pub values: Option<bool>,
}

/// How to remove a key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RemoveRedisKey {
    /// `base64` if the key in the path is in base64, of the standard or the URL alphabet. For keys
    /// that are not UTF-8, and `.` and `..`, which clients drop from paths.
    #[param(inline)]
    pub encoding: Option<KeyEncoding>,
}

/// How a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyEncoding {
    /// Base64 of its bytes.
    Base64,
}

/// Type of a value in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// A text, a number or bytes.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// Fields with values.
    Hash,
    /// A stream of entries.
    Stream,
}

impl KeyType {
    /// As Redis names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
        }
    }
}

/// A page of keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisKeyPage {
    /// Always true.
    pub success: bool,
    /// Number of keys in this page.
    pub count: usize,
    /// The keys, in no order. A key may come again in a later page if Redis changes meanwhile.
    pub data: Vec<RedisKey>,
    /// Only if there are more pages: the value of `cursor` for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// The search reached its limit of time before the page was full. `nextCursor` may lead to more
    /// keys, or to none.
    pub partial: bool,
}

/// A key and the beginning of its value.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisKey {
    /// The key; in base64 if `encoding` says so.
    pub key: String,
    /// `base64` if the key is not UTF-8. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub encoding: Option<KeyEncoding>,
    /// `string`, `list`, `set`, `zset`, `hash`, `stream`, or the type of a module of Redis;
    /// `unknown` if Redis's user may not read the key.
    #[serde(rename = "type")]
    pub kind: String,
    /// Milliseconds until it expires; null if it does not.
    pub ttl_ms: Option<u64>,
    /// Memory that it takes, in bytes, by Redis's own estimate.
    pub size_bytes: Option<u64>,
    /// Bytes of a string; elements, fields or entries of anything else.
    pub length: Option<u64>,
    /// The beginning of the value: a text of at most 4 KiB, or at most 50 elements of at most 1 KiB
    /// each, and less in large pages. A list or set is an array; a sorted set an array of `member`
    /// and `score`; a hash an object; a stream an array of `id` and `fields`, the newest first. A
    /// text that is not UTF-8 is `{"base64": …}`. Null if it was not read or is hidden whole.
    pub value: Value,
    /// There is more of the value than is shown.
    pub truncated: bool,
    /// Something of the value is hidden.
    pub redacted: bool,
    /// The key cannot be removed here, because a queue or Patchbay depends on it.
    pub read_only: bool,
    /// `queue:NAME`, the name of the plugin whose key-value space it is in, `shared` for a space
    /// that plugins share, `patchbay` for the host's own; null for keys of other programs.
    pub owner: Option<String>,
    /// Why the key could not be read. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a removal has removed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovedRedisKey {
    /// Always true.
    pub success: bool,
    /// Always 1.
    pub deleted_count: u64,
}

//! `patchbay redis …`

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand, ValueEnum};
use patchbay_api::redis_keys::{
    KeyEncoding, KeyType, ListRedisKeys, RedisKey, RedisKeyPath, RedisKeysList, RedisKeysRemove,
    RemoveRedisKey,
};
use patchbay_model::key_pattern::KeyPattern;
use patchbay_model::shell::word;
use patchbay_model::words::{counted, lasted};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, ReceivedPage};
use super::output::Output;
use super::paging::Paging;
use super::refusal::{Consent, NotFound, Refusal};

/// Of a value in a table, in characters.
const MAX_CELL: usize = 60;

#[derive(Subcommand)]
pub enum RedisCommand {
    /// List keys of Redis, with the beginnings of their values
    List(ListArgs),
    /// Show one key: type, time to live, size and the beginning of its value
    Show(KeyArgs),
    /// Remove one key. Keys of queues and Patchbay's own keys are read-only
    Remove {
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args)]
pub struct ListArgs {
    /// Only keys that match: `*` (at most 4), `?`, `[ab]`, and `\` before a character that stands
    /// for itself
    #[arg(long)]
    pattern: Option<String>,
    /// Only keys of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Type>,
    /// Only names, types and sizes
    #[arg(long)]
    no_values: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Args)]
pub struct KeyArgs {
    /// The key, exactly: `*` and `?` stand for themselves
    #[arg(allow_hyphen_values = true)]
    key: String,
    /// KEY is written in base64, for keys that are not UTF-8
    #[arg(long)]
    base64: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
}

impl From<Type> for KeyType {
    fn from(kind: Type) -> Self {
        match kind {
            Type::String => Self::String,
            Type::List => Self::List,
            Type::Set => Self::Set,
            Type::Zset => Self::Zset,
            Type::Hash => Self::Hash,
            Type::Stream => Self::Stream,
        }
    }
}

impl RedisCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show(_))
    }
}

impl KeyArgs {
    fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        if !self.base64 {
            return Ok(self.key.clone().into_bytes());
        }
        // Of the standard or the URL alphabet, with or without padding.
        let text = self.key.trim_end_matches('=');
        let text = text.replace('+', "-").replace('/', "_");
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Refusal("KEY is not base64, as --base64 says".into()).into())
    }

    /// As a reader knows it.
    fn shown(&self) -> String {
        word(&self.key).into_owned()
    }

    fn unknown(&self) -> NotFound {
        NotFound(format!(
            "Redis has no key {}. It may have expired. List keys: patchbay redis list --pattern PATTERN",
            self.shown()
        ))
    }
}

pub(crate) async fn run(
    command: RedisCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    match command {
        RedisCommand::List(list) => {
            let page = list
                .paging
                .ask::<RedisKeysList, RedisKey>(&client, &(), |limit, cursor| ListRedisKeys {
                    pattern: list.pattern.clone(),
                    encoding: None,
                    kind: list.kind.map(KeyType::from),
                    cursor,
                    limit: Some(limit),
                    values: Some(!list.no_values),
                })
                .await?;
            print_list(&page, list.no_values, output);
        }
        RedisCommand::Show(args) => {
            let key = found(&client, &args, true).await?;
            output.value(&described(&key), &key);
        }
        RedisCommand::Remove { key: args, consent } => {
            let key = found(&client, &args, false).await?;
            let (name, kind) = (args.shown(), &key.kind);
            let size = key
                .size_bytes
                .map_or(String::new(), |size| format!(", {size} bytes"));
            // A key that cannot be removed is refused by the host, which says what to do instead.
            if !key.read_only {
                consent.ask(&format!(
                    "This removes the key {name} ({kind}{size}), which cannot be undone"
                ))?;
            }
            let path = RedisKeyPath {
                key: URL_SAFE_NO_PAD.encode(args.bytes()?),
            };
            let query = RemoveRedisKey {
                encoding: Some(KeyEncoding::Base64),
            };
            let client = client.because(&consent.why);
            let removed = client.ask_whole::<RedisKeysRemove, _>(path, query).await?;
            let count = removed.data.deleted_count;
            output.done(
                &format!("Removed {name} ({kind}{size})"),
                &json!({ "deletedCount": count }),
            );
        }
    }
    Ok(())
}

async fn found(client: &Client, args: &KeyArgs, with_value: bool) -> anyhow::Result<RedisKey> {
    let query = ListRedisKeys {
        pattern: Some(URL_SAFE_NO_PAD.encode(KeyPattern::of_key(&args.bytes()?))),
        encoding: Some(KeyEncoding::Base64),
        values: Some(with_value),
        ..ListRedisKeys::default()
    };
    let page = client
        .ask_page::<RedisKeysList, RedisKey>(&(), &query)
        .await?;
    Ok(page
        .items
        .into_iter()
        .next()
        .ok_or_else(|| args.unknown())?)
}

fn print_list(page: &ReceivedPage<RedisKey>, no_values: bool, output: Output) {
    let rows = page.items.iter().map(|key| {
        let mut row = vec![
            key.key.clone(),
            key.kind.clone(),
            expires(key),
            key.size_bytes
                .map_or(String::new(), |size| size.to_string()),
            key.owner.clone().unwrap_or_default(),
        ];
        if !no_values {
            row.push(cell(key));
        }
        row
    });
    let mut head = vec!["KEY", "TYPE", "EXPIRES", "BYTES", "OWNER"];
    if !no_values {
        head.push("VALUE");
    }
    output.list(&head, &[], rows.collect(), &page.raw, &page.more());
    let binary = page
        .items
        .iter()
        .filter(|key| key.encoding.is_some())
        .count() as u64;
    if binary > 0 {
        output.note(&format!(
            "{} not UTF-8 and in base64: patchbay redis show --base64 KEY",
            match binary {
                1 => "1 key is".to_owned(),
                binary => format!("{binary} keys are"),
            }
        ));
    }
    page.note("key", output);
}

fn expires(key: &RedisKey) -> String {
    match key.ttl_ms {
        Some(ms) => format!("in {}", lasted(Duration::from_millis(ms))),
        None => "never".to_owned(),
    }
}

/// The value in a table.
fn cell(key: &RedisKey) -> String {
    if let Some(problem) = &key.problem {
        return problem.clone();
    }
    let text = match &key.value {
        Value::Null if key.redacted => "[redacted]".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut cut: String = text.chars().take(MAX_CELL).collect();
    if cut.len() < text.len() || key.truncated {
        cut.push('…');
    }
    cut
}

fn described(key: &RedisKey) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<9}{value}"));
    line("key", key.key.clone());
    line("type", key.kind.clone());
    line("expires", expires(key));
    if let Some(size) = key.size_bytes {
        line("memory", counted(size, "byte"));
    }
    if let Some(length) = key.length {
        let unit = if key.kind == "string" {
            "byte"
        } else {
            "element"
        };
        line("length", counted(length, unit));
    }
    if let Some(owner) = &key.owner {
        let note = if key.read_only { " (read-only)" } else { "" };
        line("owner", format!("{owner}{note}"));
    }
    if let Some(problem) = &key.problem {
        line("problem", problem.clone());
    }
    let value = match &key.value {
        Value::Null if key.redacted => "[redacted]".to_owned(),
        Value::Null => return lines.join("\n"),
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    };
    line("value", value);
    if key.truncated {
        lines.push("There is more of the value than is shown".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(more: Value) -> RedisKey {
        let mut key = json!({
            "key": "kpi:dashboard", "type": "string", "ttlMs": null, "sizeBytes": 64, "length": 4, "value": "1250",
            "truncated": false, "redacted": false, "readOnly": false, "owner": null,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            key[name] = value.clone();
        }
        serde_json::from_value(key).expect("a key")
    }

    #[test]
    fn a_value_in_a_table_is_short_and_says_whether_there_is_more() {
        assert_eq!(cell(&key(json!({}))), "1250");
        assert_eq!(cell(&key(json!({ "truncated": true }))), "1250…");
        assert_eq!(cell(&key(json!({ "value": ["a", 1] }))), r#"["a",1]"#);
        assert_eq!(
            cell(&key(json!({ "value": null, "redacted": true }))),
            "[redacted]"
        );
        assert_eq!(
            cell(&key(json!({ "value": "é".repeat(61) }))),
            format!("{}…", "é".repeat(60))
        );
    }

    #[test]
    fn a_key_is_described_with_units() {
        assert_eq!(
            described(&key(
                json!({ "ttlMs": 90_000, "owner": "queue:q", "readOnly": true, "truncated": true })
            )),
            "key      kpi:dashboard\ntype     string\nexpires  in 90 s\nmemory   64 bytes\nlength   4 bytes\n\
             owner    queue:q (read-only)\nvalue    1250\nThere is more of the value than is shown"
        );
    }
}

//! Addresses that get no more mails, because a mail server has said that nobody is there.
//!
//! What decides is a mark in the key-value space, so that sending never waits for Postgres; the
//! table is what people read. A mark that is lost costs one more refused mail.

use patchbay_plugin::{Answer, Failure, Request, Retry, json, kv};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::address;
use crate::database::{self, int, kv_failed, number, query, text, text_at};

/// As long as the host keeps a value.
const KEPT_MS: u64 = 366 * 24 * 3_600 * 1_000;
/// RFC 3463: no such mailbox; it has moved and left no address; its domain takes no mail (RFC 7505).
const NOBODY_THERE: [&str; 3] = ["5.1.1", "5.1.6", "5.1.10"];
const DEFAULT_PAGE: i64 = 100;

/// Whether a refusal of a recipient is about the address itself and for good. A bare 550 is not
/// enough: servers also say that to a sender or a text that they do not like.
pub fn is_nobody_there(code: u16, enhanced: Option<&str>) -> bool {
    (500..600).contains(&code) && enhanced.is_some_and(|enhanced| NOBODY_THERE.contains(&enhanced))
}

/// Domains have no case, and nobody tells two local parts apart by it. A hash: names of keys are
/// shown to operators.
fn key(address: &str) -> String {
    let hash = Sha256::digest(address.to_lowercase().as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("suppressed:{hash}")
}

/// From now on, this address gets nothing.
pub fn suppress(address: &str) {
    if let Err(error) = kv::set(&key(address), b"1", Some(KEPT_MS)) {
        patchbay_plugin::warn!("cannot note that an address is gone: {}", error.message);
    }
}

pub fn is_suppressed(address: &str) -> Result<bool, Failure> {
    let mark = kv::get(&key(address)).map_err(kv_failed)?;
    Ok(mark.is_some())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    path: Path,
    query: Query,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Path {
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// All of them, in the order of the alphabet.
pub fn list(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let limit = input.query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, 1_000);
    let rows = query(
        "select address, reply_code, reply, bounces, first_at, last_at from public.email_suppressions \
         where address > $1 order by address limit $2",
        &[text(input.query.cursor.unwrap_or_default()), number(Some(limit))],
    )
    .map_err(database::failed)?;
    let next = (i64::try_from(rows.len()).ok() == Some(limit))
        .then(|| rows.last().and_then(|row| text_at(row, 0)))
        .flatten();
    let entries: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "address": text_at(row, 0), "replyCode": int(row, 1), "reply": text_at(row, 2), "bounces": int(row, 3),
                "firstAt": text_at(row, 4), "lastAt": text_at(row, 5),
            })
        })
        .collect();
    Ok(Answer::json(
        &json!({ "suppressions": entries, "nextCursor": next }),
    ))
}

/// The way back: this address gets mails again.
pub fn lift(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let mailbox = address::one("address", &input.path.address)?;
    let address = mailbox.address.to_string().to_lowercase();
    let had_mark = kv::delete(&key(&address)).map_err(kv_failed)?;
    // The mark first: what is left half-way shows in the list, and can be repeated.
    let rows = query(
        "delete from public.email_suppressions where address = $1 returning address",
        &[text(address.as_str())],
    )
    .map_err(database::failed)?;
    if rows.is_empty() && !had_mark {
        return Err(Failure::new(
            "not-found",
            "this address is not suppressed",
            Retry::Never,
        ));
    }
    Ok(Answer::json(&json!({ "lifted": true })))
}

/// A person asks to be forgotten: nothing in the plugin's tables names this address any more. What
/// was sent cannot be taken back, and it may get mails again.
pub fn forget(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let mailbox = address::one("address", &input.path.address)?;
    let address = mailbox.address.to_string().to_lowercase();
    kv::delete(&key(&address)).map_err(kv_failed)?;
    let rows = query(
        "with m as (delete from public.emails_sent where lower(to_address) = $1 returning 1), \
         s as (delete from public.email_suppressions where address = $1 returning 1) \
         select (select count(*) from m), (select count(*) from s)",
        &[text(address)],
    )
    .map_err(database::failed)?;
    let (mails, suppressions) = rows
        .first()
        .map_or((0, 0), |row| (int(row, 0), int(row, 1)));
    Ok(Answer::json(
        &json!({ "mails": mails, "suppressions": suppressions }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_about_the_address_itself_suppresses_it() {
        for (code, enhanced, expected) in [
            (550, Some("5.1.1"), true),
            (551, Some("5.1.6"), true),
            (556, Some("5.1.10"), true),
            (550, None, false),
            (550, Some("5.7.1"), false),
            (550, Some("5.4.5"), false),
            (552, Some("5.2.2"), false),
            (571, Some("5.7.1"), false),
            (450, Some("4.1.1"), false),
            (450, Some("5.1.1"), false),
        ] {
            assert_eq!(
                is_nobody_there(code, enhanced),
                expected,
                "{code} {enhanced:?}"
            );
        }
        assert_eq!(key("Ann@Example.COM"), key("ann@example.com"));
        assert!(!key("ann@example.com").contains("ann"));
    }
}

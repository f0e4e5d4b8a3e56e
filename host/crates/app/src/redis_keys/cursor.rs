//! The cursor of a listing: SCAN's place, sealed with what it belongs to.
//!
//! The key of its MAC is made of `run_id` of Redis: 160 random bits that every host reads from the
//! same Redis, that no client of the API sees, and that change when Redis restarts or a replica
//! takes over. Then SCAN's places mean nothing any more, and such a cursor is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use patchbay_queue::KeyPlace;
use sha2::Sha256;

use crate::Error;

/// Of the MAC, behind the place: so a cursor never begins with `-`, as an option would.
const MAC_BYTES: usize = 16;
/// Longer ones are none of ours.
const MAX_TEXT: usize = 8_192;

/// What is listed.
pub(super) struct Listing<'a> {
    /// `run_id` of Redis.
    pub(super) run: &'a str,
    pub(super) pattern: Option<&'a [u8]>,
    pub(super) kind: Option<&'a str>,
}

/// SCAN's cursor, and the names that are left.
type Plain = (u64, Vec<String>);

impl Listing<'_> {
    pub(super) fn cursor(&self, place: &KeyPlace) -> String {
        let left = place.left.iter().map(|name| URL_SAFE_NO_PAD.encode(name));
        let plain: Plain = (place.cursor, left.collect());
        let plain = serde_json::to_vec(&plain).unwrap_or_default();
        let mac = self.mac(&plain).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&plain[..], &mac[..MAC_BYTES]].concat())
    }

    /// Refuses a cursor that this listing has not given.
    pub(super) fn place(&self, cursor: &str) -> Result<KeyPlace, Error> {
        self.opened(cursor).ok_or_else(|| {
            Error::invalid(
                "cursor: not valid for this pattern and type, or Redis has restarted since. Use `nextCursor` of the page before, or leave it out for the first page",
            )
        })
    }

    fn opened(&self, cursor: &str) -> Option<KeyPlace> {
        if cursor.len() > MAX_TEXT {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (plain, mac) = sealed.split_at_checked(sealed.len().checked_sub(MAC_BYTES)?)?;
        self.mac(plain).verify_truncated_left(mac).ok()?;
        let (cursor, left): Plain = serde_json::from_slice(plain).ok()?;
        let left = left.iter().map(|name| URL_SAFE_NO_PAD.decode(name));
        let left: Vec<Vec<u8>> = left.collect::<Result<_, _>>().ok()?;
        Some(KeyPlace { cursor, left })
    }

    fn mac(&self, plain: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.run.as_bytes())
            .expect("HMAC takes keys of any length");
        // Lengths come first, so that no two listings give the same bytes. What is absent differs
        // from what is empty.
        for part in [
            Some(&b"cursor of GET /api/redis/keys"[..]),
            self.pattern,
            self.kind.map(str::as_bytes),
            Some(plain),
        ] {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            mac.update(&length.to_be_bytes());
            mac.update(part.unwrap_or_default());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing<'a>(run: &'a str, pattern: Option<&'a str>, kind: Option<&'a str>) -> Listing<'a> {
        Listing {
            run,
            pattern: pattern.map(str::as_bytes),
            kind,
        }
    }

    #[test]
    fn a_place_comes_back_to_its_own_listing_only() {
        let place = KeyPlace {
            cursor: u64::MAX,
            left: vec![b"\xff\n".to_vec(), Vec::new()],
        };
        let ours = listing("run", Some("kpi:*"), None);
        let cursor = ours.cursor(&place);
        assert_eq!(ours.place(&cursor).expect("ours"), place);
        assert!(cursor.starts_with('W'), "{cursor}");
        for other in [
            listing("another", Some("kpi:*"), None),
            listing("run", Some("kpi:?"), None),
            listing("run", None, None),
            listing("run", Some(""), None),
            listing("run", Some("kpi:*"), Some("hash")),
        ] {
            other.place(&cursor).expect_err("another listing");
        }
    }

    #[test]
    fn what_somebody_made_up_is_refused() {
        let ours = listing("run", None, None);
        let place = KeyPlace {
            cursor: 7,
            left: Vec::new(),
        };
        let cursor = ours.cursor(&place);
        let sealed = URL_SAFE_NO_PAD.decode(&cursor).expect("base64");
        let mut changed = sealed.clone();
        *changed.last_mut().expect("a byte") ^= 1;
        for text in [
            String::new(),
            "0".into(),
            "!".into(),
            "a".repeat(MAX_TEXT + 1),
            URL_SAFE_NO_PAD.encode(changed),
            URL_SAFE_NO_PAD.encode(&sealed[..MAC_BYTES - 1]),
            URL_SAFE_NO_PAD.encode(&sealed[1..]),
            URL_SAFE_NO_PAD.encode(&sealed[..sealed.len() - MAC_BYTES]),
            format!("{cursor}AA"),
        ] {
            ours.place(&text).expect_err(&text);
        }
    }
}

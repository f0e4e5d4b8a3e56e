//! What administrators do with vendors' keys. A key itself is in the answer of its issue only: what
//! is stored and recorded has its prefix and its hash.

use std::collections::BTreeSet;

use patchbay_api::answer::Page;
use patchbay_api::secrets::SecretText;
use patchbay_api::vendor_keys::{
    self as api, IssuedVendorKey, VendorKeyDetails, VendorKeyState, VendorKeysDisable,
    VendorKeysEdit, VendorKeysEnable, VendorKeysIssue, VendorKeysRevoke, VendorKeysRotate,
};
use patchbay_store::{NewVendorKey, VendorKeyChange, VendorKeyListing, VendorKeyRow};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::VendorKeys;
use super::secret::{generate, hash, is_prefix};
use crate::actions::Caller;
use crate::error::Error;
use crate::people::within;

const MOST: u16 = 200;
const MAX_NAME: usize = 100;
const MAX_SCOPES: usize = 32;
const MAX_SCOPE: usize = 64;
const MAX_ASSIGNED: usize = 254;
const MAX_RATE: u32 = 60_000;
/// As many as an ordinary program never needs.
const DEFAULT_RATE: u32 = 600;
/// Ten years.
const MAX_LIFE_MS: u64 = 315_360_000_000;
const DAY_MS: u64 = 86_400_000;
/// No vendor needs longer to change over, so a longer overlap is a typing error.
const MAX_OVERLAP_MS: u64 = 30 * DAY_MS;

impl VendorKeys {
    /// The newest first.
    pub async fn list(&self, query: api::VendorKeysQuery) -> Result<Page<api::VendorKey>, Error> {
        let most = query.limit.unwrap_or(50);
        if !(1..=MOST).contains(&most) {
            return Err(Error::invalid(format!(
                "limit: must be a whole number from 1 to {MOST}"
            )));
        }
        if query
            .cursor
            .as_ref()
            .is_some_and(|cursor| !is_prefix(cursor))
        {
            return Err(Error::invalid(
                "cursor: must be nextCursor of the page before",
            ));
        }
        let listing = VendorKeyListing {
            is_over: query.over,
            text: query.text,
            after: query.cursor,
        };
        let listed = self.parts.store.vendor_keys(&listing, i64::from(most) + 1);
        let mut rows = within(listed).await?;
        let goes_on = rows.len() > usize::from(most);
        rows.truncate(most.into());
        let next_cursor = rows.last().filter(|_| goes_on);
        Ok(Page {
            next_cursor: next_cursor.map(|row| row.prefix.clone()),
            items: rows.into_iter().map(view).collect(),
            partial: false,
        })
    }

    /// One key, with its use of the last 30 days.
    pub async fn show(&self, prefix: &str) -> Result<VendorKeyDetails, Error> {
        let row = self.row(prefix).await?;
        let uses = within(self.parts.store.vendor_key_uses(&row.prefix)).await?;
        Ok(VendorKeyDetails {
            key: view(row),
            uses: uses
                .into_iter()
                .map(|used| api::VendorKeyUse {
                    day: used.day,
                    route: used.route,
                    calls: used.calls.unsigned_abs(),
                    refused: used.refused.unsigned_abs(),
                })
                .collect(),
        })
    }

    /// Issues a key.
    pub async fn issue(
        &self,
        who: &Caller,
        body: api::NewVendorKey,
    ) -> Result<IssuedVendorKey, Error> {
        let name = text("name", &body.name, MAX_NAME)?;
        let scopes = checked_scopes(body.scopes)?;
        let assigned_to = body.assigned_to.as_deref();
        let assigned_to = assigned_to.map(|given| text("assignedTo", given, MAX_ASSIGNED));
        let assigned_to = assigned_to.transpose()?;
        let rate_per_min = checked_rate(body.rate_per_min.unwrap_or(DEFAULT_RATE))?;
        let lasts_s = body.expires_in_ms.map(checked_life).transpose()?;
        let (prefix, key) = generate();
        let details = json!({
            "name": name, "scopes": scopes, "assignedTo": assigned_to, "ratePerMin": rate_per_min,
            "expiresInMs": body.expires_in_ms,
        });
        let act = async {
            let new = NewVendorKey {
                prefix: &prefix,
                secret_hash: hash(&key),
                name: &name,
                scopes: &scopes,
                assigned_to: assigned_to.as_deref(),
                rate_per_min,
                lasts_s,
                by: &who.actor,
            };
            within(self.parts.store.add_vendor_key(&new)).await?;
            self.issued(&prefix, key.clone()).await
        };
        self.actions
            .record_as::<VendorKeysIssue, _>(who, &prefix, details, act, |_| Value::Null)
            .await
    }

    /// Issues a key in the place of another one, which goes on for a while.
    pub async fn rotate(
        &self,
        who: &Caller,
        prefix: &str,
        body: api::VendorKeyRotation,
    ) -> Result<IssuedVendorKey, Error> {
        let overlap_ms = body.overlap_ms.unwrap_or(DAY_MS);
        if overlap_ms > MAX_OVERLAP_MS {
            return Err(Error::invalid(format!(
                "overlapMs: must be a whole number from 0 to {MAX_OVERLAP_MS} (30 days)"
            )));
        }
        let old = self.row(prefix).await?;
        refuse_rotation(&old)?;
        let (prefix, key) = generate();
        let details = json!({ "overlapMs": overlap_ms, "replacedBy": prefix });
        let act = async {
            let new = NewVendorKey {
                prefix: &prefix,
                secret_hash: hash(&key),
                name: &old.name,
                scopes: &old.scopes,
                assigned_to: old.assigned_to.as_deref(),
                rate_per_min: old.rate_per_min,
                // As long as the one before was meant to last.
                lasts_s: old
                    .expires_at
                    .map(|at| (at - old.created_at).num_seconds().max(1)),
                by: &who.actor,
            };
            let overlap_s = overlap_ms.div_ceil(1_000).cast_signed();
            let store = &self.parts.store;
            let rotated = within(store.rotate_vendor_key(&old.prefix, &new, overlap_s)).await?;
            self.parts.key_changed(&old.prefix);
            if !rotated {
                return Err(Error::conflict(
                    "The key was changed by somebody else meanwhile. Look at it, then try again: patchbay vendor-key show KEY",
                ));
            }
            self.issued(&prefix, key.clone()).await
        };
        self.actions
            .record_as::<VendorKeysRotate, _>(who, &old.prefix, details, act, |_| Value::Null)
            .await
    }

    /// Switches a key off. One that is off stays as it is.
    pub async fn disable(&self, who: &Caller, prefix: &str) -> Result<api::VendorKey, Error> {
        let row = self.row(prefix).await?;
        let act = self.moved(
            &row,
            who,
            &["active"],
            "disabled",
            "can never be used again",
        );
        self.actions
            .record_as::<VendorKeysDisable, _>(who, prefix, json!({}), act, recorded)
            .await
    }

    /// Switches a key on again. One that is on stays as it is.
    pub async fn enable(&self, who: &Caller, prefix: &str) -> Result<api::VendorKey, Error> {
        let row = self.row(prefix).await?;
        let act = self.moved(
            &row,
            who,
            &["disabled"],
            "active",
            "can never be used again, so it cannot be enabled. Issue another one: patchbay vendor-key issue",
        );
        self.actions
            .record_as::<VendorKeysEnable, _>(who, prefix, json!({}), act, recorded)
            .await
    }

    /// Ends a key for good.
    pub async fn revoke(&self, who: &Caller, prefix: &str) -> Result<api::VendorKey, Error> {
        let row = self.row(prefix).await?;
        let from = ["active", "disabled"];
        let act = self.moved(&row, who, &from, "revoked", "could not be revoked");
        self.actions
            .record_as::<VendorKeysRevoke, _>(who, prefix, json!({}), act, recorded)
            .await
    }

    /// Changes what is given of name, scopes, limit and contact.
    pub async fn edit(
        &self,
        who: &Caller,
        prefix: &str,
        body: api::VendorKeyChange,
    ) -> Result<api::VendorKey, Error> {
        let name = body.name.as_deref();
        let name = name.map(|name| text("name", name, MAX_NAME)).transpose()?;
        let scopes = body.scopes.map(checked_scopes).transpose()?;
        let rate_per_min = body.rate_per_min.map(checked_rate).transpose()?;
        let assigned_to = match body.assigned_to.as_deref().map(str::trim) {
            None => None,
            Some("") => Some(None),
            Some(given) => Some(Some(text("assignedTo", given, MAX_ASSIGNED)?)),
        };
        let mut details = json!({});
        for (field, value) in [
            ("name", name.as_ref().map(|name| json!(name))),
            ("scopes", scopes.as_ref().map(|scopes| json!(scopes))),
            ("ratePerMin", rate_per_min.map(|rate| json!(rate))),
            ("assignedTo", assigned_to.as_ref().map(|whom| json!(whom))),
        ] {
            if let Some(value) = value {
                details[field] = value;
            }
        }
        if details.as_object().is_some_and(serde_json::Map::is_empty) {
            return Err(Error::invalid(
                "Nothing to change: give name, scopes, ratePerMin or assignedTo",
            ));
        }
        let row = self.row(prefix).await?;
        let change = VendorKeyChange {
            name: name.as_deref(),
            scopes: scopes.as_deref(),
            assigned_to: assigned_to.as_ref().map(Option::as_deref),
            rate_per_min,
        };
        let act = async {
            let store = &self.parts.store;
            let change = store.change_vendor_key(&row.prefix, &change, &who.actor);
            let changed = within(change).await?;
            self.parts.key_changed(&row.prefix);
            Ok(api::VendorKey {
                already: !changed,
                ..view(self.row(&row.prefix).await?)
            })
        };
        self.actions
            .record_as::<VendorKeysEdit, _>(who, &row.prefix, details, act, recorded)
            .await
    }

    async fn moved(
        &self,
        row: &VendorKeyRow,
        who: &Caller,
        from: &[&str],
        to: &str,
        problem: &str,
    ) -> Result<api::VendorKey, Error> {
        let store = &self.parts.store;
        let moved = store.set_vendor_key_state(&row.prefix, from, to, &who.actor);
        let moved = within(moved).await?;
        self.parts.key_changed(&row.prefix);
        let now = view(self.row(&row.prefix).await?);
        let is_so = matches!(
            (to, now.state),
            ("active", VendorKeyState::Active | VendorKeyState::Ending)
                | ("disabled", VendorKeyState::Disabled)
                | ("revoked", VendorKeyState::Revoked)
        );
        if !moved && !is_so {
            return Err(Error::conflict(format!(
                "Key {} of {} {problem}. Nothing was changed",
                row.prefix, row.name
            )));
        }
        Ok(api::VendorKey {
            already: !moved,
            ..now
        })
    }

    async fn row(&self, prefix: &str) -> Result<VendorKeyRow, Error> {
        let found = match is_prefix(prefix) {
            true => within(self.parts.store.vendor_key(prefix)).await?,
            false => None,
        };
        // What was asked for may be a whole key, and is not repeated.
        found.ok_or_else(|| {
            Error::not_found(
                "There is no such key. It is named by the 12 characters after vk_live_. List keys: patchbay vendor-key list --over",
            )
        })
    }

    async fn issued(&self, prefix: &str, key: Zeroizing<String>) -> Result<IssuedVendorKey, Error> {
        Ok(IssuedVendorKey {
            key: view(self.row(prefix).await?),
            secret: SecretText(key),
        })
    }
}

fn recorded(key: &api::VendorKey) -> Value {
    json!({ "already": key.already })
}

fn refuse_rotation(old: &VendorKeyRow) -> Result<(), Error> {
    let problem = match (state(old), &old.replaced_by) {
        (VendorKeyState::Active, None) => return Ok(()),
        (_, Some(next)) => format!("was replaced by {next} already"),
        (VendorKeyState::Disabled, _) => {
            "is disabled. Enable it first: patchbay vendor-key enable KEY".to_owned()
        }
        (VendorKeyState::Revoked, _) => {
            "is revoked. Issue a new one: patchbay vendor-key issue".to_owned()
        }
        _ => "has expired. Issue a new one: patchbay vendor-key issue".to_owned(),
    };
    Err(Error::conflict(format!(
        "Key {} of {} {problem}",
        old.prefix, old.name
    )))
}

fn state(row: &VendorKeyRow) -> VendorKeyState {
    match row.state.as_str() {
        "revoked" => VendorKeyState::Revoked,
        _ if row.has_ended => VendorKeyState::Expired,
        "disabled" => VendorKeyState::Disabled,
        _ if row.replaced_by.is_some() => VendorKeyState::Ending,
        _ => VendorKeyState::Active,
    }
}

fn view(row: VendorKeyRow) -> api::VendorKey {
    api::VendorKey {
        state: state(&row),
        prefix: row.prefix,
        name: row.name,
        scopes: row.scopes,
        assigned_to: row.assigned_to,
        rate_per_min: row.rate_per_min.unsigned_abs(),
        created_at: row.created_at,
        created_by: row.created_by,
        changed_at: row.changed_at,
        changed_by: row.changed_by,
        expires_at: row.expires_at,
        replaced_by: row.replaced_by,
        ends_at: row.ends_at,
        last_used_at: row.last_used_at,
        already: false,
    }
}

/// A text of one line, without the spaces around it.
fn text(field: &str, given: &str, most: usize) -> Result<String, Error> {
    let given = given.trim();
    let length = given.chars().count();
    if length == 0 || length > most || given.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "{field}: must have 1 to {most} characters on one line"
        )));
    }
    Ok(given.to_owned())
}

fn checked_scopes(scopes: Vec<String>) -> Result<Vec<String>, Error> {
    if !(1..=MAX_SCOPES).contains(&scopes.len()) {
        return Err(Error::invalid(format!(
            "scopes: give 1 to {MAX_SCOPES}, as leads:write"
        )));
    }
    if let Some(bad) = scopes.iter().position(|scope| !is_scope(scope)) {
        return Err(Error::invalid(format!(
            "scopes[{bad}]: must have 1 to {MAX_SCOPE} lower-case letters, digits, - and _, with at most one : between, as leads:write"
        )));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = scopes.iter().find(|scope| !seen.insert(scope.as_str())) {
        return Err(Error::invalid(format!(
            "scopes: {twice} stands there twice"
        )));
    }
    Ok(scopes)
}

fn is_scope(text: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase())
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    let (area, action) = text
        .split_once(':')
        .map_or((text, None), |(area, action)| (area, Some(action)));
    text.len() <= MAX_SCOPE && is_part(area) && action.is_none_or(is_part)
}

fn checked_rate(rate: u32) -> Result<i32, Error> {
    match i32::try_from(rate) {
        Ok(checked) if (1..=MAX_RATE).contains(&rate) => Ok(checked),
        _ => Err(Error::invalid(format!(
            "ratePerMin: must be a whole number from 1 to {MAX_RATE}"
        ))),
    }
}

/// In whole seconds.
fn checked_life(ms: u64) -> Result<i64, Error> {
    match (1_000..=MAX_LIFE_MS).contains(&ms) {
        true => Ok((ms / 1_000).cast_signed()),
        false => Err(Error::invalid(format!(
            "expiresInMs: must be a whole number from 1000 to {MAX_LIFE_MS} (10 years)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_an_area_and_perhaps_an_action() {
        for good in ["leads", "leads:write", "crm-2:read_all"] {
            assert!(is_scope(good), "{good}");
        }
        let long = "a".repeat(65);
        for bad in [
            "", ":", "a:", ":a", "a:b:c", "Leads", "a b", "1a", "a:-", &long,
        ] {
            assert!(!is_scope(bad), "{bad}");
        }
        let twice = vec!["a".to_owned(), "a".to_owned()];
        assert!(checked_scopes(twice).is_err() && checked_scopes(Vec::new()).is_err());
    }

    #[test]
    fn names_are_one_line_without_spaces_around() {
        assert_eq!(text("name", " Acme ", 100).expect("a name"), "Acme");
        for bad in ["", "  ", "a\nb", "a\0", &"é".repeat(101)] {
            assert!(text("name", bad, 100).is_err(), "{bad:?}");
        }
    }
}

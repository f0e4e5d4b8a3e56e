//! Observations about operators: new owners, changes by the shared login, tokens and keys that
//! expire.

use std::time::Duration;

use chrono::{DateTime, Utc};
use patchbay_model::shell::arguments;
use patchbay_model::words::counted;
use patchbay_store::{ExpiringRow, NewOwnerRow, SharedLoginRow, Store, StoreError};

use super::observation::{Observation, RuleObservations, everything};

/// A new owner is news for this time.
const NEW_OWNERS: Duration = Duration::from_secs(600);
const SHARED_LOGIN: Duration = Duration::from_secs(3_600);
/// Shorter ones are meant to end.
const MADE_FOR: Duration = Duration::from_secs(30 * DAY);
/// The rule's threshold is looked at among these; no operator sets a longer one.
const WITHIN: Duration = Duration::from_secs(90 * DAY);
const DAY: u64 = 86_400;

pub(super) async fn in_postgres(store: &Store) -> Result<[RuleObservations; 3], StoreError> {
    let now = Utc::now();
    let owners = store.new_owners(NEW_OWNERS).await?;
    let shared = store.shared_login_changes(SHARED_LOGIN).await?;
    let expiring = store.expiring(MADE_FOR, WITHIN).await?;
    Ok([
        everything("operator-new-owner", owners.iter().map(new_owner)),
        everything("shared-login-used", shared.iter().map(shared_login)),
        everything(
            "token-expiring",
            expiring.iter().map(|row| expires(row, now)),
        ),
    ])
}

fn new_owner(row: &NewOwnerRow) -> Observation {
    let (name, at) = (&row.name, row.owner_since.format("%H:%M:%S UTC"));
    let next = format!(
        "if nobody knows why: patchbay operator disable {0}; who did it: patchbay activity --target {0}",
        arguments(&[name])
    );
    Observation::new(
        name,
        None,
        format!("{name} has become an owner at {at}"),
        next,
    )
    .was(format!("{name} had become an owner at {at}"))
}

fn shared_login(row: &SharedLoginRow) -> Observation {
    let actor = &row.actor;
    let changes = counted(row.changes.unsigned_abs(), "change");
    let last = row.last_at.format("%H:%M:%S UTC");
    let next = format!(
        "patchbay activity --actor {}; to close the shared login: patchbay operator basic board",
        arguments(&[actor])
    );
    let reason = format!(
        "The shared login {actor} has made {changes} in the last hour, the last at {last}. The record does not say which person it was"
    );
    Observation::new(actor, None, reason, next).was(format!(
        "the shared login {actor} had made {changes} within an hour"
    ))
}

fn expires(row: &ExpiringRow, now: DateTime<Utc>) -> Observation {
    let days = (row.expires_at - now).num_seconds() as f64 / DAY as f64;
    let (subject, what, next) = match &row.operator {
        Some(operator) => (
            format!("{operator} {}", row.name),
            format!("Token {} of {operator}", row.name),
            format!(
                "{operator} makes another one: patchbay token create NAME; then patchbay token revoke {}",
                arguments(&[&row.name])
            ),
        ),
        None => (
            format!("vendor {}", row.name),
            format!("Vendor key {}", row.name),
            format!("patchbay vendor-key rotate {}", arguments(&[&row.name])),
        ),
    };
    let (date, length) = (
        row.expires_at.date_naive(),
        counted(days.abs().round() as u64, "day"),
    );
    let when = match days < 0.0 {
        true => format!("expired on {date}, {length} ago"),
        false => format!("expires on {date}, in {length}"),
    };
    let was = format!(
        "{} was to expire on {date}",
        what.replacen('T', "t", 1).replacen('V', "v", 1)
    );
    Observation::new(subject, days, format!("{what} {when}"), next).was(was)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(operator: Option<&str>, in_days: i64, now: DateTime<Utc>) -> ExpiringRow {
        ExpiringRow {
            operator: operator.map(str::to_owned),
            name: "deploys".to_owned(),
            expires_at: now + chrono::Duration::days(in_days),
        }
    }

    #[test]
    fn what_expires_says_when_and_what_to_run_and_less_than_nothing_is_left_afterwards() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let token = expires(&row(Some("ada"), 3, now), now);
        assert_eq!(
            (token.subject.as_str(), token.value),
            ("ada deploys", Some(3.0))
        );
        assert_eq!(
            token.reason,
            "Token deploys of ada expires on 2023-11-17, in 3 days"
        );
        let key = expires(&row(None, -1, now), now);
        assert_eq!(key.value, Some(-1.0));
        assert_eq!(
            key.reason,
            "Vendor key deploys expired on 2023-11-13, 1 day ago"
        );
        assert_eq!(key.next, "patchbay vendor-key rotate deploys");
        assert_eq!(
            key.was.as_deref(),
            Some("vendor key deploys was to expire on 2023-11-13")
        );
    }
}

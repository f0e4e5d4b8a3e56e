//! Use cases of audit trails: operators define them, read them, and verify that they are whole.
//!
//! | module | owns |
//! |---|---|
//! | `definitions` | trails and packs: what entries look like, who reads them, which table gets a copy |
//! | `trails` | entries of plugins: each fits its trail's schema, or is not written |
//! | `reading` | entries for accounts |
//! | `chain` | the next batch, and its MAC |
//! | `sealer` | sealing what waits, in one process of the fleet |
//! | `anchors` | what is noted outside of Postgres |
//! | `verify` | whether trails are whole |
//! | `nightly` | verifying each night |
//! | `gap` | going on after a restore |
//! | `export` | entries as CSV |
//! | `keeping` | retention, expiry, import |
//! | `protection` | who could change entries |

pub mod anchors;
mod chain;
mod definitions;
mod export;
mod gap;
mod keeping;
mod nightly;
pub mod protection;
mod reading;
mod sealer;
mod trails;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Datelike;
use patchbay_api::answer::Page;
use patchbay_api::audit::{AuditEntry, AuditReport, AuditVerify, EntriesQuery, Verdict, Verify};
use patchbay_model::TrailName;
use patchbay_model::audit::is_of_the_host;
use patchbay_model::audit_chain::Anchor;
use patchbay_model::shell::word;
use patchbay_queue::Broker;
use patchbay_store::{AuditFilter, AuditRow, Store};
use serde_json::json;

use self::anchors::Anchors;
pub use self::export::EntriesFile;
pub use self::nightly::nightly;
pub use self::sealer::{SealMeters, sealer};
pub use self::trails::Trails;
use self::verify::MacKeys;
use crate::actions::{Actions, Caller};
use crate::nearest::meant;
use crate::sealed_keys::SealedKeys;
use crate::vault::Vault;
use crate::{Error, Parts};

/// What operators configure of audit trails.
pub struct AuditConfig {
    /// File to which the newest batches are written.
    pub anchor_file: Option<PathBuf>,
    /// Between two rounds of the sealer.
    pub seal_every: Duration,
}

/// What sealing and verifying are made of.
pub struct Ledger {
    pub(crate) anchors: Anchors,
    pub(crate) keys: SealedKeys,
    pub(crate) meters: Arc<SealMeters>,
    pub(crate) seal_every: Duration,
    vault: Arc<Vault>,
}

impl Ledger {
    pub(crate) fn new(
        config: AuditConfig,
        store: &Store,
        queues: &Broker,
        vault: Arc<Vault>,
    ) -> Self {
        Self {
            anchors: Anchors::new(queues.clone(), config.anchor_file),
            keys: SealedKeys::new(store.clone(), Arc::clone(&vault)),
            meters: Arc::default(),
            seal_every: config.seal_every,
            vault,
        }
    }

    /// All batches that were noted outside of Postgres, as far as this host can read them, and those
    /// with which a trail was found not to be whole: a host that can read fewer must not take that
    /// back.
    pub(crate) async fn known_anchors(&self, store: &Store) -> Result<Vec<Anchor>, Error> {
        let mut known = self.anchors.known().await?;
        for found in store.audit_finding_anchors().await? {
            known.extend(serde_json::from_value::<Vec<Anchor>>(found).unwrap_or_default());
        }
        Ok(known)
    }
}

/// Default number of entries of a page.
const DEFAULT_LIMIT: u16 = 50;
/// An entry has up to 64 KiB.
const MAX_LIMIT: u16 = 200;
/// Trails that hosts write themselves.
const OWN_TRAILS: [&str; 2] = ["operators", "plugins"];
/// Of a request to verify.
const MAX_ANCHORS: usize = 1_000;

#[derive(Clone)]
pub struct Audit {
    store: Store,
    actions: Actions,
    ledger: Arc<Ledger>,
    /// The table of accounts, where this host serves some.
    accounts: Option<Arc<str>>,
}

impl Audit {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            store: parts.store.clone(),
            actions: parts.actions.clone(),
            ledger: Arc::clone(&parts.audit),
            accounts: parts.people.as_ref().map(|people| people.table_name()),
        }
    }

    /// Lists entries, newest first.
    pub async fn entries(&self, asked: EntriesQuery) -> Result<Page<AuditEntry>, Error> {
        let filter = AuditFilter {
            trail: asked.trail.map(|name| name.parse()).transpose()?,
            plugin: asked.plugin.map(|name| name.parse()).transpose()?,
            queue: asked.queue,
            job: asked.job,
            actor: asked.actor,
            account: None,
            action: asked.action,
            entity: asked.entity,
            since: year_checked("since", asked.since)?,
            until: year_checked("until", asked.until)?,
            before: cursor(asked.cursor)?,
        };
        let page = self.page(&filter, limit(asked.limit)?).await?;
        if page.items.is_empty() && filter.before.is_none() {
            self.check_names(&filter).await?;
        }
        Ok(page)
    }

    /// Refuses a trail that the host does not have, nobody has defined and no entry is of.
    async fn known(&self, trail: &TrailName) -> Result<(), Error> {
        let defined = self.store.audit_trails(None).await?;
        let sealed = self.store.audit_heads(None).await?;
        let mut known: Vec<&str> = OWN_TRAILS.to_vec();
        known.extend(defined.iter().map(|row| row.name.as_str()));
        known.extend(sealed.iter().map(|head| head.trail.as_str()));
        if known.contains(&trail.as_str()) || is_of_the_host(trail.as_str()) {
            return Ok(());
        }
        let suggestion = meant(trail.as_str(), known.into_iter());
        Err(Error::invalid(format!(
            "trail: There is no audit trail {trail}.{suggestion} To list trails: patchbay audit trail list"
        )))
    }

    /// Fails when a filter that has matched nothing has a name that nobody knows, or that may be
    /// mistyped.
    async fn check_names(&self, filter: &AuditFilter) -> Result<(), Error> {
        if let Some(trail) = &filter.trail {
            self.known(trail).await?;
        }
        if let Some(actor) = &filter.actor {
            let (actors, _) = self.store.recent_actors_and_targets().await?;
            let suggestion = meant(actor, actors.iter().map(String::as_str));
            if !actors.contains(actor) && !suggestion.is_empty() {
                return Err(Error::invalid(format!(
                    "actor: No entry is by {}.{suggestion}",
                    word(actor)
                )));
            }
        }
        Ok(())
    }

    async fn page(&self, filter: &AuditFilter, limit: u16) -> Result<Page<AuditEntry>, Error> {
        // One more row shows whether there is another page.
        let mut rows = self
            .store
            .audit_entries(filter, i64::from(limit) + 1)
            .await?;
        let is_more = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = rows
            .last()
            .filter(|_| is_more)
            .map(|row| row.id.to_string());
        Ok(Page {
            items: rows.into_iter().map(entry).collect(),
            next_cursor,
            partial: false,
        })
    }

    /// Verifies one trail or all, and records who asked. Alerts follow the result, unless anchors
    /// came with the request: nobody vouches for those, so that result is for its asker only.
    pub async fn verify(&self, who: &Caller, asked: Verify) -> Result<AuditReport, Error> {
        if asked.anchors.len() > MAX_ANCHORS {
            return Err(Error::invalid(format!(
                "anchors: must be at most {MAX_ANCHORS}; the newest one of each trail and epoch is enough"
            )));
        }
        let is_bad = |anchor: &Anchor| {
            anchor.hash().is_none()
                || anchor.epoch < 1
                || anchor.n < 1
                || anchor.trail.parse::<TrailName>().is_err()
        };
        if let Some(bad) = asked.anchors.iter().position(is_bad) {
            return Err(Error::invalid(format!(
                "anchors: number {} is not an anchor: epoch and n must be 1 or more, and chain must have 64 hexadecimal digits",
                bad + 1
            )));
        }
        let trail: Option<TrailName> = asked.trail.map(|name| name.parse()).transpose()?;
        let name = trail.as_ref().map(TrailName::as_str);
        let details = json!({ "anchors": asked.anchors.len() });
        let act = async {
            let report = match asked.anchors.is_empty() {
                true => Self::verify_all(&self.store, &self.ledger, name).await?,
                false => {
                    Self::compare(&self.store, &self.ledger, name, asked.anchors)
                        .await?
                        .0
                }
            };
            match name {
                Some(trail) if report.trails.is_empty() => Err(Error::not_found(format!(
                    "Audit trail {trail} has no entries. See: patchbay audit list"
                ))),
                _ => Ok(report),
            }
        };
        let told = |report: &AuditReport| json!({ "result": report.result });
        self.actions
            .record_as::<AuditVerify, _>(who, name.unwrap_or("all"), details, act, told)
            .await
    }

    /// Compares trails with what is noted of them, here and by the caller. Gives the noted batches
    /// with the report.
    async fn compare(
        store: &Store,
        ledger: &Ledger,
        trail: Option<&str>,
        mut noted: Vec<Anchor>,
    ) -> Result<(AuditReport, Vec<Anchor>), Error> {
        // Read before the database is, which may only be ahead of it then.
        noted.extend(ledger.known_anchors(store).await?);
        let macs = MacKeys::read(store, ledger.vault.keys()).await?;
        let report = verify::verify(store, &macs, trail, noted.clone()).await?;
        Ok((report, noted))
    }

    /// Verifies one trail or all against what this host knows, and notes the result, which alerts
    /// follow.
    pub(crate) async fn verify_all(
        store: &Store,
        ledger: &Ledger,
        trail: Option<&str>,
    ) -> Result<AuditReport, Error> {
        let (report, noted) = Self::compare(store, ledger, trail, Vec::new()).await?;
        let noted = Anchor::newest(noted);
        for trail in &report.trails {
            let result = match trail.result {
                Verdict::Whole => "whole",
                Verdict::Shorter => "shorter",
                Verdict::Broken => "broken",
            };
            let problem = trail.problems.first().map(|problem| &problem.message);
            let problem = problem.or(trail.missing.as_ref().map(|missing| &missing.message));
            let counts = (
                i64::try_from(trail.entries).unwrap_or(i64::MAX),
                i64::try_from(trail.batches).unwrap_or(i64::MAX),
            );
            let of_trail: Vec<&Anchor> = noted
                .iter()
                .filter(|anchor| anchor.trail == trail.trail)
                .collect();
            store
                .note_audit_verification(
                    &trail.trail,
                    result,
                    problem.map(String::as_str),
                    &json!(of_trail),
                    counts,
                )
                .await?;
        }
        Ok(report)
    }

    /// The newest batch of each trail.
    pub async fn anchors(&self) -> Result<Vec<Anchor>, Error> {
        let heads = self.store.audit_heads(None).await?;
        Ok(heads.iter().map(anchors::of).collect())
    }
}

fn limit(asked: Option<u16>) -> Result<u16, Error> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Error::invalid(format!(
            "limit: must be from 1 to {MAX_LIMIT}"
        ))),
    }
}

fn cursor(asked: Option<String>) -> Result<Option<i64>, Error> {
    let read = asked.map(|cursor| cursor.parse()).transpose();
    read.map_err(|_| {
        Error::invalid(
            "cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page",
        )
    })
}

/// Postgres and JSON agree about these years.
fn year_checked(
    name: &str,
    at: Option<chrono::DateTime<chrono::Utc>>,
) -> Result<Option<chrono::DateTime<chrono::Utc>>, Error> {
    match at {
        Some(at) if !(0..=9_999).contains(&at.year()) => Err(Error::invalid(format!(
            "{name}: the year must be from 0000 to 9999, for example 2026-11-30T00:00:00Z"
        ))),
        at => Ok(at),
    }
}

fn entry(row: AuditRow) -> AuditEntry {
    AuditEntry {
        id: row.id,
        trail: row.trail,
        entry_key: row.entry_key,
        plugin: row.plugin,
        revision: row.revision,
        queue: row.queue,
        job_id: row.job_id,
        correlation_id: row.correlation_id,
        at: row.at,
        entry: row.entry,
        actor_kind: row.actor_kind,
        actor_id: row.actor_id,
        actor_name: row.actor_name,
        action: row.action,
        entity: row.entity,
        address: row.address,
        platform: row.platform,
        origin: row.origin,
    }
}

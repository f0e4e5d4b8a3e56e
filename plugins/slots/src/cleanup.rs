//! One run: deletes expired slots that nobody has booked, then refunds meetings that were not held.
//!
//! Runs may overlap, in one host or several: a batch takes only rows that nobody has locked, and
//! looks at each once more when it has the lock. So a slot that is just being booked is left to the
//! booking, and no row is counted twice.

use std::time::{Instant, SystemTime};

use patchbay_plugin::{Failure, Value, json};

use crate::batches::{self, Done, Place, Series, Work};
use crate::database::{self, Failed};
use crate::kinds::{Parameters, Terms};
use crate::refund::{self, Refunded};
use crate::settings::Settings;
use crate::time;

/// What a run has done so far.
#[derive(Debug, Default)]
pub struct Progress {
    pub deleted: i64,
    pub refunded: Refunded,
}

/// A finished run.
pub struct Outcome {
    pub progress: Progress,
    pub series: Series,
    expired_before: time::Millis,
    took_ms: u128,
    refunds: bool,
}

impl Outcome {
    /// As clients get it: the count, and the details.
    pub fn json(&self, continued_by: Option<&str>) -> Value {
        let mut refunds = json!({ "enabled": self.refunds });
        if self.refunds {
            let refunded = &self.progress.refunded;
            refunds = json!({
                "enabled": true, "meetings": refunded.meetings, "tokens": refunded.tokens, "nothingOwed": refunded.nothing_owed,
                "withoutWallet": refunded.without_wallet, "walletLocked": refunded.wallet_locked,
            });
        }
        let mut details = json!({
            "expiredBefore": time::iso(self.expired_before), "complete": self.series.is_complete,
            "leftLocked": self.series.left_locked, "batches": self.series.batches,
            "longestBatchMs": self.series.longest.as_millis() as u64, "durationMs": self.took_ms as u64, "refunds": refunds,
        });
        if let Some(job) = continued_by {
            details["continuedBy"] = json!(job);
        }
        json!({ "deletedCount": self.progress.deleted, "details": details })
    }
}

/// Runs until nothing is left or the time is over. `tell` gets the progress after each batch.
pub fn run(
    settings: &Settings,
    until: SystemTime,
    tell: impl FnMut(&Progress),
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let terms = Terms {
        settings,
        now: database::now()?,
    };
    let mut deleting = Deleting {
        terms,
        progress: Progress::default(),
        tell,
    };
    let (mut series, mut result) = batches::run(settings.batch_size, until, &mut deleting);
    let Deleting { progress, tell, .. } = deleting;
    let mut refunding = Refunding {
        terms,
        progress,
        tell,
    };
    if result.is_ok() && settings.refund.enabled {
        let (refunds, refunded) = batches::run(refund::LARGEST, until, &mut refunding);
        series = series.and(refunds);
        result = refunded;
    }
    let progress = refunding.progress;
    let counts = format!(
        "{} slots deleted, {} meetings refunded",
        progress.deleted, progress.refunded.meetings
    );
    if let Err(failed) = result {
        let mut failure = Failure::from(failed);
        failure.message = format!("after {counts}: {}", failure.message);
        return Err(failure);
    }
    patchbay_plugin::info!("{counts}");
    if series.left_locked > 0 {
        patchbay_plugin::warn!(
            "{} slots were left: other sessions hold locks on what refers to them",
            series.left_locked
        );
    }
    Ok(Outcome {
        progress,
        series,
        expired_before: terms.expired_before(),
        took_ms: started.elapsed().as_millis(),
        refunds: settings.refund.enabled,
    })
}

struct Deleting<'a, T> {
    terms: Terms<'a>,
    progress: Progress,
    tell: T,
}

impl<T: FnMut(&Progress)> Work for Deleting<'_, T> {
    /// Everything is asked again of the rows that are deleted: should one have changed between the
    /// two steps after all, it stays.
    fn batch(&mut self, size: u32, place: Option<&Place>) -> Result<Done, Failed> {
        let terms = self.terms;
        let mut parameters = Parameters::default();
        let statement = format!(
            "with due as materialized ({}), gone as ( \
               delete from public.slots s using due where s.id = due.id and {} and {} returning 1 \
             ), last as (select at, id from due order by at desc, id desc limit 1) \
             select (select count(*) from due), (select count(*) from gone), (select at::text from last), (select id::text from last)",
            due(terms, size, place, &mut parameters),
            terms.is_expired(&mut parameters),
            terms.is_unbooked(&mut parameters),
        );
        let rows = database::transaction([(statement, parameters.0)])?;
        let row = rows.into_iter().next().unwrap_or_default();
        self.progress.deleted += database::int(&row, 1);
        (self.tell)(&self.progress);
        Ok(Done {
            found: u32::try_from(database::int(&row, 0)).unwrap_or_default(),
            last: Place::of(&row, 2, 3),
        })
    }

    fn first(&mut self, place: Option<&Place>) -> Result<Option<Place>, Failed> {
        let mut parameters = Parameters::default();
        let due = due(self.terms, 1, place, &mut parameters);
        let statement = format!("with due as ({due}) select at::text, id::text from due");
        let rows = database::query(&statement, parameters.0)?;
        Ok(rows.first().and_then(|row| Place::of(row, 0, 1)))
    }
}

/// Locks slots that are to be deleted: those that nobody else has locked.
fn due(terms: Terms<'_>, size: u32, place: Option<&Place>, parameters: &mut Parameters) -> String {
    let column = terms.settings.expired_by.column();
    format!(
        "select id, {column} as at from public.slots where {} and {} and {} order by {column}, id limit {size} for update skip locked",
        terms.is_expired(parameters),
        terms.is_unbooked(parameters),
        Place::is_behind(place, column, parameters),
    )
}

struct Refunding<'a, T> {
    terms: Terms<'a>,
    progress: Progress,
    tell: T,
}

impl<T: FnMut(&Progress)> Work for Refunding<'_, T> {
    fn batch(&mut self, size: u32, place: Option<&Place>) -> Result<Done, Failed> {
        let (done, refunded) = refund::batch(self.terms, size, place)?;
        self.progress.refunded.add(&refunded);
        (self.tell)(&self.progress);
        Ok(done)
    }

    fn first(&mut self, place: Option<&Place>) -> Result<Option<Place>, Failed> {
        let due = refund::due(self.terms, 1, place)?;
        Ok(due.into_iter().next())
    }
}

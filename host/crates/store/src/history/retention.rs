//! How long attempts are kept: the configuration, and overrides per queue and outcome.

use chrono::{DateTime, Utc};
use patchbay_model::QueueName;
use patchbay_model::outcome::OutcomeKind;

use crate::{Store, StoreError};

/// The default, where no operator has set a retention.
#[derive(Debug, Clone, Copy)]
pub struct KeepAttempts {
    /// Days for attempts that completed.
    pub completed_days: i32,
    /// Days for all other attempts.
    pub other_days: i32,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RetentionRow {
    pub queue: String,
    /// Absent: every outcome that has no row of its own.
    pub outcome: Option<String>,
    pub days: i32,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
}

#[derive(Debug, Clone)]
pub struct Retention {
    pub default: KeepAttempts,
    pub queues: Vec<RetentionRow>,
}

impl Retention {
    /// The most specific value wins: queue and outcome, queue, default.
    pub(super) fn days(&self, queue: &str, outcome: OutcomeKind) -> i32 {
        let of_queue = |wanted: Option<&str>| {
            self.queues
                .iter()
                .find(|row| row.queue == queue && row.outcome.as_deref() == wanted)
                .map(|row| row.days)
        };
        let default = match outcome {
            OutcomeKind::Completed => self.default.completed_days,
            _ => self.default.other_days,
        };
        of_queue(Some(outcome.as_str()))
            .or_else(|| of_queue(None))
            .unwrap_or(default)
    }

    fn all(&self) -> impl Iterator<Item = i32> {
        let default = [self.default.completed_days, self.default.other_days];
        self.queues.iter().map(|row| row.days).chain(default)
    }

    /// After this many days nothing is left of any queue.
    pub(super) fn longest(&self) -> i32 {
        self.all().max().unwrap_or(i32::MAX)
    }

    /// Before this many days nothing is deleted.
    pub(super) fn shortest(&self) -> i32 {
        self.all().min().unwrap_or(i32::MAX)
    }
}

impl Store {
    /// The overrides, with this default.
    pub async fn retention(&self, default: KeepAttempts) -> Result<Retention, StoreError> {
        let query = sqlx::query_as(
            "select queue, nullif(outcome, '') as outcome, days, changed_at, changed_by from history_retention order by queue, outcome",
        );
        Ok(Retention {
            default,
            queues: query.fetch_all(&self.pool).await?,
        })
    }

    /// Sets how many days a queue's attempts are kept, for all outcomes or for one.
    pub async fn set_retention(
        &self,
        queue: &QueueName,
        outcome: Option<OutcomeKind>,
        days: i32,
        actor: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into history_retention (queue, outcome, days, changed_by) values ($1, $2, $3, $4) on conflict (queue, outcome) \
             do update set days = excluded.days, changed_by = excluded.changed_by, changed_at = now()",
        );
        let outcome = outcome.map_or("", OutcomeKind::as_str);
        query
            .bind(queue.as_str())
            .bind(outcome)
            .bind(days)
            .bind(actor)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Restores the configuration's value for one outcome, or for the whole queue.
    pub async fn reset_retention(
        &self,
        queue: &QueueName,
        outcome: Option<OutcomeKind>,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "delete from history_retention where queue = $1 and ($2::text is null or outcome = $2)",
        );
        let outcome = outcome.map(OutcomeKind::as_str);
        let done = query
            .bind(queue.as_str())
            .bind(outcome)
            .execute(&self.pool)
            .await?;
        if done.rows_affected() > 0 {
            return Ok(());
        }
        let what = outcome
            .map(|outcome| format!("{outcome} attempts of "))
            .unwrap_or_default();
        Err(StoreError::NotFound(format!(
            "No retention is set for {what}{queue}. See: patchbay history retention list"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_word_counts() {
        let row = |queue: &str, outcome: Option<&str>, days| RetentionRow {
            queue: queue.into(),
            outcome: outcome.map(str::to_owned),
            days,
            changed_at: Utc::now(),
            changed_by: "tests".into(),
        };
        let retention = Retention {
            default: KeepAttempts {
                completed_days: 90,
                other_days: 365,
            },
            queues: vec![
                row("a", None, 10),
                row("a", Some("failed"), 400),
                row("b", Some("completed"), 1),
            ],
        };
        for (queue, outcome, days) in [
            ("a", OutcomeKind::Completed, 10),
            ("a", OutcomeKind::Failed, 400),
            ("a", OutcomeKind::Trapped, 10),
            ("b", OutcomeKind::Completed, 1),
            ("b", OutcomeKind::Failed, 365),
            ("c", OutcomeKind::Completed, 90),
        ] {
            assert_eq!(retention.days(queue, outcome), days, "{queue} {outcome:?}");
        }
        assert_eq!((retention.longest(), retention.shortest()), (400, 1));
    }
}

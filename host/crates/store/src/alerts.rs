//! Alerts: changed rules, open alerts, events, silences, and each process's observations.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{Leadership, Store, StoreError};

/// Nobody looks back over events for longer than weeks.
const EVENTS_DAYS: i32 = 90;
/// How long deliveries that were given up are shown.
const GIVEN_UP_DAYS: i32 = 7;
/// A process that has reported nothing for this long is gone for good.
const SIGHTINGS_KEPT_S: i32 = 3_600;

/// An operator's change to a rule. An absent field keeps its built-in value.
#[derive(Debug, Clone, Default, PartialEq, sqlx::FromRow)]
pub struct AlertRuleRow {
    pub rule: String,
    /// Empty: all subjects. May end in `*`.
    pub subject: String,
    pub enabled: Option<bool>,
    pub threshold: Option<f64>,
    pub hold_s: Option<i32>,
    pub at_least: Option<i32>,
    pub severity: Option<String>,
    pub runbook: Option<String>,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct AlertRow {
    pub rule: String,
    pub subject: String,
    pub severity: String,
    pub firing: bool,
    pub held_ms: i64,
    /// If firing: since the last message. If pending: since its subject was last seen.
    pub quiet_ms: i64,
    pub announced: bool,
    pub began_at: DateTime<Utc>,
    pub fired_at: Option<DateTime<Utc>>,
    pub notice: Value,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AlertEventRow {
    pub at: DateTime<Utc>,
    pub rule: String,
    pub subject: String,
    /// `firing`, `still-firing` or `recovered`.
    pub event: String,
    pub severity: String,
    pub reason: String,
    /// Nobody was notified, because of a silence.
    pub silenced: bool,
    /// How long the alert lasted, if it has recovered.
    pub lasted_ms: Option<i64>,
}

/// An event with its place in the history.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredAlertEvent {
    pub id: i64,
    #[sqlx(flatten)]
    pub event: AlertEventRow,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SilenceRow {
    pub id: i64,
    /// A rule's name, or `all`.
    pub rule: String,
    /// Empty: all subjects. May end in `*`.
    pub subject: String,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub ends_at: DateTime<Utc>,
}

/// A change of one alert, saved completely or not at all.
#[derive(Debug, Clone)]
pub struct AlertChange {
    pub rule: String,
    pub subject: String,
    /// The alert's new state; absent: it has recovered.
    pub now: Option<AlertRow>,
    /// An event to record.
    pub event: Option<AlertEventRow>,
    /// A message to send, and the channels to send it by.
    pub tell: Option<(Value, Vec<String>)>,
    /// The alert begins to fire. Only the process that saves this first sends the message.
    pub begins: bool,
}

impl AlertRow {
    async fn save(&self, connection: &mut PgConnection, begins: bool) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "insert into alerts (rule, subject, severity, firing, held_ms, quiet_ms, announced, began_at, fired_at, notice) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (rule, subject) do update set severity = $3, firing = $4, \
             held_ms = $5, quiet_ms = $6, announced = $7, began_at = $8, fired_at = $9, notice = $10 \
             where not ($11 and alerts.firing)",
        );
        let query = query
            .bind(&self.rule)
            .bind(&self.subject)
            .bind(&self.severity)
            .bind(self.firing)
            .bind(self.held_ms)
            .bind(self.quiet_ms)
            .bind(self.announced)
            .bind(self.began_at)
            .bind(self.fired_at)
            .bind(&self.notice)
            .bind(begins);
        Ok(query.execute(connection).await?.rows_affected() > 0)
    }
}

async fn save(connection: &mut PgConnection, changes: &[AlertChange]) -> Result<(), StoreError> {
    let mut tx = connection.begin().await?;
    for change in changes {
        match &change.now {
            Some(row) if !row.save(&mut tx, change.begins).await? => continue,
            Some(_) => {}
            None => {
                let query = sqlx::query("delete from alerts where rule = $1 and subject = $2");
                query
                    .bind(&change.rule)
                    .bind(&change.subject)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        if let Some(event) = &change.event {
            let query = sqlx::query(
                "insert into alert_events (at, rule, subject, event, severity, reason, silenced, lasted_ms) \
                 values ($1, $2, $3, $4, $5, $6, $7, $8)",
            );
            let query = query
                .bind(event.at)
                .bind(&event.rule)
                .bind(&event.subject)
                .bind(&event.event);
            query
                .bind(&event.severity)
                .bind(&event.reason)
                .bind(event.silenced)
                .bind(event.lasted_ms)
                .execute(&mut *tx)
                .await?;
        }
        if let Some((body, channels)) = &change.tell {
            // The newest message replaces one that was not sent yet, and follows one that is being
            // sent.
            let query = sqlx::query(
                "insert into alert_deliveries as d (rule, subject, channel, body) select $1, $2, unnest($3::text[]), $4 \
                 on conflict (rule, subject, channel) do update set body = $4, version = d.version + 1, created_at = now(), \
                 next_at = now(), tries = 0, last_error = null, given_up_at = null",
            );
            query
                .bind(&change.rule)
                .bind(&change.subject)
                .bind(channels)
                .bind(body)
                .execute(&mut *tx)
                .await?;
        }
    }
    Ok(tx.commit().await?)
}

impl Leadership<'_> {
    /// Saves all changes or none. Fails when this process is no longer the leader.
    pub async fn save_alerts(&mut self, changes: &[AlertChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            Ok(())
        } else {
            save(self.0, changes).await
        }
    }

    /// Deletes old events, deliveries that were given up, and observations of lost processes.
    pub async fn prune_alerts(&mut self) -> Result<(), StoreError> {
        for (text, age) in [
            (
                "delete from alert_events where at < now() - make_interval(days => $1)",
                EVENTS_DAYS,
            ),
            // This includes deliveries of a channel that no host has any more.
            (
                "delete from alert_deliveries where coalesce(given_up_at, created_at) < now() - make_interval(days => $1)",
                GIVEN_UP_DAYS,
            ),
            (
                "delete from alert_silences where ends_at < now() - make_interval(days => $1)",
                EVENTS_DAYS,
            ),
            (
                "delete from alert_sightings where seen_at < now() - make_interval(secs => $1)",
                SIGHTINGS_KEPT_S,
            ),
        ] {
            sqlx::query(text).bind(age).execute(&mut *self.0).await?;
        }
        Ok(())
    }
}

impl Store {
    /// As [`Leadership::save_alerts`], for what only this process observes.
    pub async fn save_alerts(&self, changes: &[AlertChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut connection = self.pool.acquire().await?;
        save(&mut connection, changes).await
    }

    pub async fn alerts(&self) -> Result<Vec<AlertRow>, StoreError> {
        Ok(
            sqlx::query_as("select * from alerts order by rule, subject")
                .fetch_all(&self.pool)
                .await?,
        )
    }

    /// Newest first; only those that are older than the event with the id `before`.
    pub async fn alert_events(
        &self,
        rule: Option<&str>,
        before: Option<i64>,
        most: i64,
    ) -> Result<Vec<StoredAlertEvent>, StoreError> {
        let query = sqlx::query_as(
            "select id, at, rule, subject, event, severity, reason, silenced, lasted_ms from alert_events \
             where ($1::text is null or rule = $1) and ($2::bigint is null or id < $2) order by id desc limit $3",
        );
        let query = query.bind(rule).bind(before).bind(most);
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Operators' changes only; rules that nobody changed have no row.
    pub async fn alert_rules(&self) -> Result<Vec<AlertRuleRow>, StoreError> {
        let text = "select rule, subject, enabled, threshold, hold_s, at_least, severity, runbook from alert_rules order by rule, subject";
        Ok(sqlx::query_as(text).fetch_all(&self.pool).await?)
    }

    /// Absent fields of the row keep their present values.
    pub async fn set_alert_rule(&self, row: &AlertRuleRow, actor: &str) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into alert_rules as r (rule, subject, enabled, threshold, hold_s, at_least, severity, runbook, changed_by) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (rule, subject) do update set \
             enabled = coalesce($3, r.enabled), threshold = coalesce($4, r.threshold), hold_s = coalesce($5, r.hold_s), \
             at_least = coalesce($6, r.at_least), severity = coalesce($7, r.severity), runbook = coalesce($8, r.runbook), \
             changed_at = now(), changed_by = $9",
        );
        let query = query
            .bind(&row.rule)
            .bind(&row.subject)
            .bind(row.enabled)
            .bind(row.threshold)
            .bind(row.hold_s);
        let query = query
            .bind(row.at_least)
            .bind(&row.severity)
            .bind(&row.runbook)
            .bind(actor);
        query.execute(&self.pool).await?;
        Ok(())
    }

    /// Restores the built-in values.
    pub async fn reset_alert_rule(&self, rule: &str, subject: &str) -> Result<(), StoreError> {
        let query = sqlx::query("delete from alert_rules where rule = $1 and subject = $2")
            .bind(rule)
            .bind(subject);
        if query.execute(&self.pool).await?.rows_affected() == 0 {
            let scope = if subject.is_empty() {
                String::new()
            } else {
                format!(" for {subject}")
            };
            let text = format!("Rule {rule} has no changes{scope}. See: patchbay alert rules");
            return Err(StoreError::NotFound(text));
        }
        Ok(())
    }

    /// Silences that have not ended.
    pub async fn alert_silences(&self) -> Result<Vec<SilenceRow>, StoreError> {
        Ok(
            sqlx::query_as("select * from alert_silences where ends_at > now() order by id")
                .fetch_all(&self.pool)
                .await?,
        )
    }

    pub async fn silence_alert(
        &self,
        rule: &str,
        subject: &str,
        length: Duration,
        reason: &str,
        actor: &str,
    ) -> Result<SilenceRow, StoreError> {
        let query = sqlx::query_as(
            "insert into alert_silences (rule, subject, reason, created_by, ends_at) \
             values ($1, $2, $3, $4, now() + make_interval(secs => $5)) returning *",
        );
        let query = query
            .bind(rule)
            .bind(subject)
            .bind(reason)
            .bind(actor)
            .bind(length.as_secs_f64());
        Ok(query.fetch_one(&self.pool).await?)
    }

    pub async fn end_silence(&self, id: i64) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update alert_silences set ends_at = now() where id = $1 and ends_at > now()",
        )
        .bind(id);
        if query.execute(&self.pool).await?.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!(
                "There is no active silence {id}. See: patchbay alert silences"
            )));
        }
        Ok(())
    }

    /// Saves the observations that only this process can make.
    pub async fn report_sightings(&self, host: &str, sightings: &Value) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into alert_sightings (host, sightings) values ($1, $2) \
             on conflict (host) do update set sightings = $2, seen_at = now()",
        );
        query.bind(host).bind(sightings).execute(&self.pool).await?;
        Ok(())
    }

    /// Called when this process ends.
    pub async fn forget_sightings(&self, host: &str) -> Result<(), StoreError> {
        sqlx::query("delete from alert_sightings where host = $1")
            .bind(host)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Observations of the processes that reported within this time.
    pub async fn sightings(&self, within: Duration) -> Result<Vec<(String, Value)>, StoreError> {
        let query = sqlx::query_as(
            "select host, sightings from alert_sightings where seen_at > now() - make_interval(secs => $1)",
        );
        Ok(query
            .bind(within.as_secs_f64())
            .fetch_all(&self.pool)
            .await?)
    }
}

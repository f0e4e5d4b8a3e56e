//! Alert messages that still have to be sent. Any process that has the channel may try one; only
//! one process tries it at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{Store, StoreError};

/// Longer than a try may take. After it, another process tries, since the first was killed.
const CLAIM_S: i32 = 15;
/// After this time a delivery is given up, and shown as given up.
const GIVE_UP_AFTER_H: i32 = 24;
/// No wait of the host is longer. A later time was written before the server's clock jumped back.
const LONGEST_WAIT_S: i32 = 600;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DueDelivery {
    pub id: i64,
    pub version: i32,
    pub body: Value,
    pub tries: i32,
}

/// A delivery that was not sent yet, or was given up.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UndeliveredRow {
    pub rule: String,
    pub subject: String,
    pub channel: String,
    pub event: Option<String>,
    pub since: DateTime<Utc>,
    pub tries: i32,
    pub last_error: Option<String>,
    pub given_up_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Adds a delivery, unless the alert already has one for this channel (that one is newer).
    pub async fn enqueue_delivery(
        &self,
        rule: &str,
        subject: &str,
        channel: &str,
        body: &Value,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "insert into alert_deliveries (rule, subject, channel, body) values ($1, $2, $3, $4) on conflict do nothing",
        );
        query
            .bind(rule)
            .bind(subject)
            .bind(channel)
            .bind(body)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Claims the due deliveries of a channel, so that no other process tries them meanwhile.
    pub async fn claim_deliveries(
        &self,
        channel: &str,
        most: i64,
    ) -> Result<Vec<DueDelivery>, StoreError> {
        let query = sqlx::query_as(
            "update alert_deliveries set claimed_until = now() + make_interval(secs => $3), tries = tries + 1 \
             where id in (select id from alert_deliveries where channel = $1 and given_up_at is null \
             and (next_at <= now() or next_at > now() + make_interval(secs => $4)) \
             and (claimed_until is null or claimed_until <= now() or claimed_until > now() + make_interval(secs => $4)) \
             order by created_at limit $2 for update skip locked) returning id, version, body, tries",
        );
        let query = query
            .bind(channel)
            .bind(most)
            .bind(CLAIM_S)
            .bind(LONGEST_WAIT_S);
        Ok(query.fetch_all(&self.pool).await?)
    }

    /// Deletes the delivery, unless a newer one has replaced it; the newer one is then due.
    pub async fn delivered(&self, delivery: &DueDelivery) -> Result<(), StoreError> {
        let query = sqlx::query("delete from alert_deliveries where id = $1 and version = $2");
        if query
            .bind(delivery.id)
            .bind(delivery.version)
            .execute(&self.pool)
            .await?
            .rows_affected()
            == 0
        {
            self.give_back(delivery.id).await?;
        }
        Ok(())
    }

    /// Schedules another try after `wait`. Returns true if the delivery was given up instead.
    pub async fn not_delivered(
        &self,
        delivery: &DueDelivery,
        wait: Duration,
        error: &str,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(
            "update alert_deliveries set claimed_until = null, last_error = $3, next_at = now() + make_interval(secs => $4), \
             given_up_at = case when created_at < now() - make_interval(hours => $5) then now() end \
             where id = $1 and version = $2 returning given_up_at is not null",
        );
        let query = query
            .bind(delivery.id)
            .bind(delivery.version)
            .bind(error)
            .bind(wait.as_secs_f64());
        match query
            .bind(GIVE_UP_AFTER_H)
            .fetch_optional(&self.pool)
            .await?
        {
            Some(given_up) => Ok(given_up),
            None => {
                self.give_back(delivery.id).await?;
                Ok(false)
            }
        }
    }

    async fn give_back(&self, id: i64) -> Result<(), StoreError> {
        sqlx::query("update alert_deliveries set claimed_until = null where id = $1")
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Time until the next delivery of a channel is due; `None` when there is none.
    pub async fn next_delivery_in(&self, channel: &str) -> Result<Option<Duration>, StoreError> {
        let query = sqlx::query_scalar(
            "select extract(epoch from min(greatest(next_at, claimed_until)) - now())::float8 from alert_deliveries \
             where channel = $1 and given_up_at is null",
        );
        let seconds: Option<f64> = query.bind(channel).fetch_one(&self.pool).await?;
        Ok(seconds
            .map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, f64::from(LONGEST_WAIT_S)))))
    }

    /// Every delivery that was not sent yet, or was given up.
    pub async fn undelivered(&self) -> Result<Vec<UndeliveredRow>, StoreError> {
        let query = sqlx::query_as(
            "select rule, subject, channel, body ->> 'event' as event, created_at as since, tries, last_error, given_up_at \
             from alert_deliveries order by created_at",
        );
        Ok(query.fetch_all(&self.pool).await?)
    }
}

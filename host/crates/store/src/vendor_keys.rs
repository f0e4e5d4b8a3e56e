//! Keys of vendors, and how much they are used. This crate sees only their hashes.

use chrono::{DateTime, NaiveDate, Utc};

use crate::identity_changes::notify;
use crate::{Store, StoreError};

/// A key for administrators.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VendorKeyRow {
    pub prefix: String,
    pub name: String,
    pub scopes: Vec<String>,
    pub assigned_to: Option<String>,
    pub rate_per_min: i32,
    /// `active`, `disabled` or `revoked`.
    pub state: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
    pub expires_at: Option<DateTime<Utc>>,
    pub replaced_by: Option<String>,
    pub ends_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    /// `expires_at` or `ends_at` has passed.
    pub has_ended: bool,
}

/// A key for whoever compares what a vendor has sent.
#[derive(sqlx::FromRow)]
pub struct VendorKeyCheck {
    /// Its first key, of which this one is by rotations: it names the vendor.
    pub first_prefix: String,
    pub secret_hash: Vec<u8>,
    pub name: String,
    pub scopes: Vec<String>,
    pub rate_per_min: i32,
    pub is_active: bool,
    pub valid_until: Option<DateTime<Utc>>,
    /// Until then, by Postgres's clock; not positive once it is over. Absent: for ever.
    pub seconds_left: Option<f64>,
}

pub struct NewVendorKey<'a> {
    pub prefix: &'a str,
    pub secret_hash: [u8; 32],
    pub name: &'a str,
    pub scopes: &'a [String],
    pub assigned_to: Option<&'a str>,
    pub rate_per_min: i32,
    /// From now; absent: for ever.
    pub lasts_s: Option<i64>,
    pub by: &'a str,
}

/// What of a key is changed. Absent: it stays.
#[derive(Debug, Default)]
pub struct VendorKeyChange<'a> {
    pub name: Option<&'a str>,
    pub scopes: Option<&'a [String]>,
    /// `Some(None)` takes it away.
    pub assigned_to: Option<Option<&'a str>>,
    pub rate_per_min: Option<i32>,
}

/// Which keys to list. An absent field does not restrict them.
#[derive(Debug, Default)]
pub struct VendorKeyListing {
    /// Only keys that can never be used again, or only others.
    pub is_over: Option<bool>,
    /// Part of the name or of `assigned_to`, in any case.
    pub text: Option<String>,
    /// A cursor: the prefix of the key before.
    pub after: Option<String>,
}

/// Requests of a day to one route.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VendorKeyUse {
    pub day: NaiveDate,
    pub route: String,
    pub calls: i64,
    pub refused: i64,
}

/// Requests that a process has served lately.
#[derive(Debug)]
pub struct VendorCalls {
    pub prefix: String,
    pub route: String,
    pub calls: i64,
    pub refused: i64,
}

/// How long the numbers of a day are kept: a year and a month, so that a month can be compared with
/// the same one of the year before.
const USES_DAYS: i32 = 400;
/// Of the days that are shown.
const SHOWN_DAYS: i32 = 30;
const MOST_SHOWN: i64 = 1_000;

const COLUMNS: &str = "prefix, name, scopes, assigned_to, rate_per_min, state, created_at, created_by, changed_at, changed_by, \
     expires_at, replaced_by, ends_at, last_used_at, coalesce(least(expires_at, ends_at) <= now(), false) as has_ended";

impl Store {
    pub async fn vendor_key_check(
        &self,
        prefix: &str,
    ) -> Result<Option<VendorKeyCheck>, StoreError> {
        let query = sqlx::query_as(
            "with recursive before (prefix, steps) as (select $1::text, 0 union all \
             select key.prefix, before.steps + 1 from vendor_keys key join before on key.replaced_by = before.prefix where before.steps < 10000) \
             select secret_hash, name, scopes, rate_per_min, state = 'active' as is_active, \
             least(expires_at, ends_at) as valid_until, \
             extract(epoch from least(expires_at, ends_at) - now())::float8 as seconds_left, \
             (select before.prefix from before order by before.steps desc limit 1) as first_prefix \
             from vendor_keys where prefix = $1",
        );
        Ok(query.bind(prefix).fetch_optional(&self.pool).await?)
    }

    pub async fn vendor_key(&self, prefix: &str) -> Result<Option<VendorKeyRow>, StoreError> {
        let text = format!("select {COLUMNS} from vendor_keys where prefix = $1");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(prefix)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// The newest first. After a key that is not there, there is none.
    pub async fn vendor_keys(
        &self,
        listing: &VendorKeyListing,
        most: i64,
    ) -> Result<Vec<VendorKeyRow>, StoreError> {
        let text = format!(
            "select {COLUMNS} from vendor_keys where \
             ($1::bool is null or (state = 'revoked' or coalesce(least(expires_at, ends_at) <= now(), false)) = $1) \
             and ($2::text is null or strpos(lower(name), lower($2)) > 0 or strpos(lower(coalesce(assigned_to, '')), lower($2)) > 0) \
             and ($3::text is null or (created_at, prefix) < (select created_at, prefix from vendor_keys where prefix = $3)) \
             order by created_at desc, prefix desc limit $4"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(listing.is_over)
            .bind(&listing.text)
            .bind(&listing.after)
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    pub async fn add_vendor_key(&self, key: &NewVendorKey<'_>) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        insert(&mut tx, key).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Adds a key in the place of another one, which goes on for `overlap_s`. False if that one was
    /// replaced, switched off or over meanwhile.
    pub async fn rotate_vendor_key(
        &self,
        old: &str,
        key: &NewVendorKey<'_>,
        overlap_s: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        insert(&mut tx, key).await?;
        let query = sqlx::query(
            "update vendor_keys set replaced_by = $2, ends_at = now() + make_interval(secs => $3), changed_at = now(), changed_by = $4 \
             where prefix = $1 and state = 'active' and replaced_by is null and coalesce(expires_at > now(), true)",
        );
        let replaced = query
            .bind(old)
            .bind(key.prefix)
            .bind(overlap_s as f64)
            .bind(key.by)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if replaced == 0 {
            return Ok(false);
        }
        notify(&mut tx, 'v', old).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Moves a key from one of these states to another. False if it is in none of them.
    pub async fn set_vendor_key_state(
        &self,
        prefix: &str,
        from: &[&str],
        to: &str,
        by: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let query = sqlx::query(
            "update vendor_keys set state = $3, changed_at = now(), changed_by = $4 where prefix = $1 and state = any($2)",
        );
        let from: Vec<String> = from.iter().map(|state| (*state).to_owned()).collect();
        let changed = query
            .bind(prefix)
            .bind(&from)
            .bind(to)
            .bind(by)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        notify(&mut tx, 'v', prefix).await?;
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// False for a key that is not there, or is so already.
    pub async fn change_vendor_key(
        &self,
        prefix: &str,
        change: &VendorKeyChange<'_>,
        by: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let query = sqlx::query(
            "update vendor_keys set name = coalesce($2, name), scopes = coalesce($3, scopes), rate_per_min = coalesce($4, rate_per_min), \
             assigned_to = case when $5 then $6 else assigned_to end, changed_at = now(), changed_by = $7 where prefix = $1 \
             and (name, scopes, rate_per_min, assigned_to) is distinct from \
             (coalesce($2, name), coalesce($3, scopes), coalesce($4, rate_per_min), case when $5 then $6 else assigned_to end)",
        );
        let changed = query
            .bind(prefix)
            .bind(change.name)
            .bind(change.scopes)
            .bind(change.rate_per_min)
            .bind(change.assigned_to.is_some())
            .bind(change.assigned_to.flatten())
            .bind(by)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        notify(&mut tx, 'v', prefix).await?;
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// Of the last 30 days, the newest day first.
    pub async fn vendor_key_uses(&self, prefix: &str) -> Result<Vec<VendorKeyUse>, StoreError> {
        let query = sqlx::query_as(
            "select day, route, calls, refused from vendor_key_uses \
             where prefix = $1 and day > (now() at time zone 'UTC')::date - $2::int4 order by day desc, route limit $3",
        );
        Ok(query
            .bind(prefix)
            .bind(SHOWN_DAYS)
            .bind(MOST_SHOWN)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Calls and refusals of today (UTC), as far as hosts have added them up.
    pub async fn vendor_key_uses_today(&self, prefix: &str) -> Result<(i64, i64), StoreError> {
        let query = sqlx::query_as(
            "select coalesce(sum(calls), 0)::int8, coalesce(sum(refused), 0)::int8 from vendor_key_uses \
             where prefix = $1 and day = (now() at time zone 'UTC')::date",
        );
        Ok(query.bind(prefix).fetch_one(&self.pool).await?)
    }

    /// Adds up what a process has served; each pair of prefix and route once.
    pub async fn add_vendor_calls(&self, calls: &[VendorCalls]) -> Result<(), StoreError> {
        let prefixes: Vec<&str> = calls.iter().map(|call| call.prefix.as_str()).collect();
        let routes: Vec<&str> = calls.iter().map(|call| call.route.as_str()).collect();
        let served: Vec<i64> = calls.iter().map(|call| call.calls).collect();
        let refused: Vec<i64> = calls.iter().map(|call| call.refused).collect();
        let mut tx = self.pool.begin().await?;
        // Sorted: two hosts that add up the same keys at once must not wait for each other.
        let query = sqlx::query(
            "insert into vendor_key_uses (prefix, day, route, calls, refused) \
             select prefix, (now() at time zone 'UTC')::date, route, calls, refused \
             from unnest($1::text[], $2::text[], $3::int8[], $4::int8[]) as given (prefix, route, calls, refused) order by prefix, route \
             on conflict (prefix, day, route) do update set calls = vendor_key_uses.calls + excluded.calls, \
             refused = vendor_key_uses.refused + excluded.refused",
        );
        query
            .bind(&prefixes)
            .bind(&routes)
            .bind(&served)
            .bind(&refused)
            .execute(&mut *tx)
            .await?;
        let query = sqlx::query(
            "update vendor_keys set last_used_at = now() \
             where prefix in (select prefix from vendor_keys where prefix = any($1) order by prefix for update)",
        );
        query.bind(&prefixes).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Forgets numbers of days long ago.
    pub async fn sweep_vendor_key_uses(&self) -> Result<(), StoreError> {
        sqlx::query(
            "delete from vendor_key_uses where day < (now() at time zone 'UTC')::date - $1::int4",
        )
        .bind(USES_DAYS)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

async fn insert(
    connection: &mut sqlx::PgConnection,
    key: &NewVendorKey<'_>,
) -> Result<(), StoreError> {
    let query = sqlx::query(
        "insert into vendor_keys (prefix, secret_hash, name, scopes, assigned_to, rate_per_min, expires_at, created_by, changed_by) \
         values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8, $8)",
    );
    query
        .bind(key.prefix)
        .bind(key.secret_hash.as_slice())
        .bind(key.name)
        .bind(key.scopes)
        .bind(key.assigned_to)
        .bind(key.rate_per_min)
        .bind(key.lasts_s.map(|seconds| seconds as f64))
        .bind(key.by)
        .execute(&mut *connection)
        .await?;
    notify(connection, 'v', key.prefix).await
}

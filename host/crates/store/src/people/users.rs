//! Finding, making and changing accounts.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::UsersTable;
use crate::identity_changes::notify;
use crate::{Store, StoreError};

/// An account, with what the host keeps of it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct UserRow {
    pub id: String,
    pub email: String,
    /// The hash.
    pub password: Option<String>,
    /// As the old backend writes it.
    pub role: String,
    pub full_name: Option<String>,
    pub phone: Option<String>,
    pub profession: Option<String>,
    pub domain: Option<String>,
    pub profile_photo: Option<String>,
    pub is_verified: bool,
    pub is_profile_complete: bool,
    /// `1` to `3`, or the old backend's names.
    pub stage: Option<String>,
    pub epoch: i32,
    pub google_sub: Option<String>,
    pub blocked_at: Option<DateTime<Utc>>,
    pub blocked_by: Option<String>,
    pub block_reason: Option<String>,
    /// By the column that `people.blocked_column` names.
    pub is_blocked_elsewhere: bool,
}

impl UserRow {
    pub fn is_blocked(&self) -> bool {
        self.blocked_at.is_some() || self.is_blocked_elsewhere
    }
}

/// By what an account is looked for.
#[derive(Debug, Clone, Copy)]
pub enum UserKey<'a> {
    Id(&'a str),
    Email {
        typed: &'a str,
        norm: &'a str,
    },
    /// Google's `sub`.
    Google(&'a str),
}

/// Which accounts to list. An absent field does not restrict them.
#[derive(Debug, Clone, Default)]
pub struct UserListing {
    /// Part of the address or of the name, in any case.
    pub text: Option<String>,
    /// In any case.
    pub role: Option<String>,
    pub is_blocked: Option<bool>,
    /// A cursor: only accounts with greater ids.
    pub after: Option<String>,
}

impl Store {
    pub async fn find_user(
        &self,
        table: &UsersTable,
        key: UserKey<'_>,
    ) -> Result<Option<UserRow>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        find(&mut connection, table, key).await
    }

    /// Sorted by id.
    pub async fn list_users(
        &self,
        table: &UsersTable,
        listing: &UserListing,
        most: i64,
    ) -> Result<Vec<UserRow>, StoreError> {
        let mut query = sqlx::QueryBuilder::new(format!("{} where true", table.selection()));
        if let Some(text) = &listing.text {
            let pattern = format!("%{}%", escaped(text));
            query
                .push(" and (u.\"email\"::text ilike ")
                .push_bind(pattern.clone());
            if table.has("fullName") {
                query
                    .push(" or u.\"fullName\"::text ilike ")
                    .push_bind(pattern);
            }
            query.push(")");
        }
        if let Some(role) = &listing.role {
            query
                .push(" and lower(u.\"role\"::text) = ")
                .push_bind(role.to_ascii_lowercase());
        }
        if let Some(is_blocked) = listing.is_blocked {
            query
                .push(" and (p.blocked_at is not null) = ")
                .push_bind(is_blocked);
        }
        if let Some(after) = &listing.after {
            query.push(" and u.\"id\"::text > ").push_bind(after);
        }
        query
            .push(" order by u.\"id\"::text limit ")
            .push_bind(most);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Writes columns of an account, by the old backend's names; values are texts.
    pub async fn change_user(
        &self,
        table: &UsersTable,
        id: &str,
        values: &Map<String, Value>,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        change(&mut tx, table, id, values).await?;
        notify(&mut tx, 'u', id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Accounts with a hash of the old backend.
    pub async fn bcrypt_left(&self, table: &UsersTable) -> Result<i64, StoreError> {
        let query = format!(
            "select count(*) from {} where \"password\" like '$2_$%'",
            table.name()
        );
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&self.pool)
            .await?)
    }

    /// Notes the one spelling of the addresses of up to `most` accounts that have none yet. Returns
    /// the accounts that were looked at; fewer than `most` means that all have been.
    pub async fn accounts_without_norm(
        &self,
        table: &UsersTable,
        most: i64,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let query = format!(
            "select u.\"id\"::text, u.\"email\"::text from {} u where not exists (select from people p where p.user_id = u.\"id\"::text) limit $1",
            table.name()
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(most)
            .fetch_all(&self.pool)
            .await?)
    }

    /// The one spelling of each account's address; null where it has none or another account has
    /// the same.
    pub async fn note_norms(&self, norms: &[(String, Option<String>)]) -> Result<(), StoreError> {
        for (id, norm) in norms {
            sqlx::query(
                "insert into people (user_id, email_norm) \
                 select $1, (select $2::text where not exists (select from people where email_norm = $2)) on conflict do nothing",
            )
            .bind(id)
            .bind(norm.as_deref())
            .execute(&self.pool)
            .await?;
        }
        Ok(())
    }
}

/// The row in `people` that an account needs.
pub(super) async fn ensure(connection: &mut PgConnection, id: &str) -> Result<(), StoreError> {
    sqlx::query("insert into people (user_id) values ($1) on conflict (user_id) do nothing")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn find(
    connection: &mut PgConnection,
    table: &UsersTable,
    key: UserKey<'_>,
) -> Result<Option<UserRow>, StoreError> {
    let by_people = |condition: &str| {
        let id = format!("(select user_id from people where {condition})");
        format!("u.\"id\" = {}", table.id(&id))
    };
    let (condition, parameters) = match key {
        UserKey::Id(id) => (format!("u.\"id\" = {}", table.id("$1")), vec![id]),
        // The exact spelling wins over another account's normal form.
        UserKey::Email { typed, norm } => (
            format!(
                "u.\"email\" in ($1, $2) or {} order by u.\"email\"::text = $1 desc, u.\"email\"::text = $2 desc limit 1",
                by_people("email_norm = $2")
            ),
            vec![typed, norm],
        ),
        UserKey::Google(sub) => (by_people("google_sub = $1"), vec![sub]),
    };
    let found = one(&mut *connection, table, &condition, &parameters).await?;
    match key {
        // The old backend may have linked it.
        UserKey::Google(sub) if found.is_none() && table.has("googleId") => {
            one(connection, table, "u.\"googleId\" = $1 limit 1", &[sub]).await
        }
        _ => Ok(found),
    }
}

/// An id that is no value of the column, such as a text for a uuid, is no account's.
async fn one(
    connection: &mut PgConnection,
    table: &UsersTable,
    condition: &str,
    parameters: &[&str],
) -> Result<Option<UserRow>, StoreError> {
    let text = format!("{} where {condition}", table.selection());
    let mut query = sqlx::query_as(sqlx::AssertSqlSafe(text));
    for parameter in parameters {
        query = query.bind(*parameter);
    }
    match query.fetch_optional(connection).await {
        Ok(found) => Ok(found),
        Err(error) if is_no_value(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A text that cannot be cast to the column's type.
fn is_no_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "22P02" || code == "22003")
}

/// Writes columns; those that the table lacks go to `people.missing`.
pub(super) async fn change(
    connection: &mut PgConnection,
    table: &UsersTable,
    id: &str,
    values: &Map<String, Value>,
) -> Result<(), StoreError> {
    let columns: Vec<&'static str> = CHANGEABLE
        .into_iter()
        .filter(|column| values.contains_key(*column))
        .collect();
    let (set, missing) = table.assignments("$2", &columns);
    if !set.is_empty() {
        let text = format!(
            "update {} u set {set} where u.\"id\" = {}",
            table.name(),
            table.id("$1")
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(Value::Object(values.clone()))
            .execute(&mut *connection)
            .await?;
    }
    if !missing.is_empty() {
        ensure(&mut *connection, id).await?;
        let lacked: Map<String, Value> = missing
            .into_iter()
            .filter_map(|column| Some((column.to_owned(), values.get(column)?.clone())))
            .collect();
        sqlx::query("update people set missing = missing || $2 where user_id = $1")
            .bind(id)
            .bind(Value::Object(lacked))
            .execute(connection)
            .await?;
    }
    Ok(())
}

const CHANGEABLE: [&str; 13] = [
    "password",
    "role",
    "fullName",
    "phone",
    "profession",
    "domain",
    "profilePhoto",
    "googleId",
    "isVerified",
    "isProfileComplete",
    "stage",
    "ipAddress",
    "userAgent",
];

/// Makes an account; does nothing if its address is taken. Returns whether it was made.
pub(super) async fn create(
    connection: &mut PgConnection,
    table: &UsersTable,
    id: &str,
    email_norm: &str,
    values: &Map<String, Value>,
) -> Result<bool, StoreError> {
    let mut all = values.clone();
    all.insert("id".into(), id.into());
    all.insert("email".into(), email_norm.into());
    let columns: Vec<&'static str> = ["id", "email"]
        .into_iter()
        .chain(CHANGEABLE)
        .chain(["deviceInfo"])
        .filter(|column| all.contains_key(*column))
        .collect();
    let text = format!("{} on conflict do nothing", table.insertion("$1", &columns));
    let made = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(Value::Object(all.clone()))
        .execute(&mut *connection)
        .await?
        .rows_affected()
        > 0;
    if made {
        let lacked: Map<String, Value> = columns
            .into_iter()
            .filter(|column| !table.has(column))
            .filter_map(|column| Some((column.to_owned(), all.get(column)?.clone())))
            .collect();
        sqlx::query(
            "insert into people (user_id, email_norm, missing) values ($1, $2, $3) on conflict (user_id) do nothing",
        )
        .bind(id)
        .bind(email_norm)
        .bind(Value::Object(lacked))
        .execute(connection)
        .await?;
    }
    Ok(made)
}

/// For `like`.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}

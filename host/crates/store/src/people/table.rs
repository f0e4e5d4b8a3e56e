//! The table of accounts as the catalogue describes it. The old backend made it; columns may be
//! missing, and types differ.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use sqlx::{Executor, PgConnection};

use crate::{Store, StoreError};

/// Columns that the host reads or writes, by the old backend's names.
const KNOWN: [&str; 17] = [
    "id",
    "email",
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
    "deviceInfo",
    "ipAddress",
    "userAgent",
    "updatedAt",
];
/// Without these there are no accounts.
const NEEDED: [&str; 4] = ["id", "email", "password", "role"];

/// How the old backend made the table, with the roles that it ended with.
const CREATE: &str = r#"
create table NAME (
    "id" uuid primary key default gen_random_uuid(),
    "fullName" varchar(255),
    "email" varchar(255) not null unique,
    "password" varchar(255),
    "phone" varchar(20),
    "profession" varchar(255),
    "domain" varchar(255),
    "role" varchar(32) not null default 'user' check ("role" in ('user', 'admin', 'finance', 'expert', 'sales', 'sales_head',
        'external_hr', 'batch_lead', 'super_mentor', 'community_manager')),
    "profilePhoto" text,
    "googleId" varchar(255),
    "isVerified" boolean not null default false,
    "isProfileComplete" boolean not null default false,
    "stage" smallint not null default 1 check ("stage" between 1 and 3),
    "deviceInfo" text,
    "ipAddress" varchar(45),
    "userAgent" text,
    "createdAt" timestamptz not null default now(),
    "updatedAt" timestamptz not null default now()
)"#;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct UsersTable(Arc<Described>);

#[derive(Debug)]
struct Described {
    /// Quoted, with its schema.
    name: String,
    columns: BTreeMap<&'static str, Column>,
    /// A boolean column that blocks an account, quoted.
    blocked: Option<String>,
    /// What [`super::UserRow`] is made of.
    select: String,
}

#[derive(Debug)]
struct Column {
    /// As a cast takes it.
    kind: String,
    /// Of an enum.
    labels: Vec<String>,
}

impl Store {
    /// Reads the catalogue, and creates the table if it is absent. `name` is `schema.table`;
    /// `blocked` names a boolean column by which the old backend blocks accounts.
    pub async fn users_table(
        &self,
        name: &str,
        blocked: Option<&str>,
    ) -> Result<UsersTable, StoreError> {
        let full_name = name.split('.').map(quoted).collect::<Vec<_>>().join(".");
        let mut connection = self.pool.acquire().await?;
        if !exists(&mut connection, &full_name).await? {
            let create = CREATE.replace("NAME", &full_name);
            let created = connection.execute(sqlx::AssertSqlSafe(create)).await;
            // Another host may have been faster.
            if let Err(error) = created
                && !exists(&mut connection, &full_name).await?
            {
                return Err(error.into());
            }
        }
        let rows: Vec<(String, String, Vec<String>)> = sqlx::query_as(
            "select a.attname::text, format_type(a.atttypid, a.atttypmod), \
             array(select enumlabel::text from pg_enum e where e.enumtypid = a.atttypid order by enumsortorder) \
             from pg_attribute a where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped",
        )
        .bind(&full_name)
        .fetch_all(&mut *connection)
        .await?;
        let has_blocked = |name: &&str| rows.iter().any(|(column, ..)| column == name);
        let blocked = blocked.map(|name| Some(name).filter(has_blocked).ok_or(name));
        let blocked = match blocked.transpose() {
            Ok(found) => found.map(quoted),
            Err(absent) => {
                return Err(StoreError::Unfit(format!(
                    "people.blocked_column: the table {name} has no column {absent}"
                )));
            }
        };
        let columns: BTreeMap<&'static str, Column> = KNOWN
            .into_iter()
            .filter_map(|known| {
                let (_, kind, labels) = rows.iter().find(|(name, ..)| name == known)?;
                let (kind, labels) = (kind.clone(), labels.clone());
                Some((known, Column { kind, labels }))
            })
            .collect();
        let absent: Vec<&str> = NEEDED
            .into_iter()
            .filter(|name| !columns.contains_key(name))
            .collect();
        if !absent.is_empty() {
            return Err(StoreError::Unfit(format!(
                "people.table: the table {name} lacks columns that accounts need: {}",
                absent.join(", ")
            )));
        }
        let mut described = Described {
            name: full_name,
            columns,
            blocked,
            select: String::new(),
        };
        described.select = described.select();
        Ok(UsersTable(Arc::new(described)))
    }
}

async fn exists(connection: &mut PgConnection, quoted: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(quoted)
        .fetch_one(connection)
        .await
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Described {
    /// The columns of [`super::UserRow`], from `u` (the table) and `p` (`people`).
    fn select(&self) -> String {
        let text = |column: &str| match self.columns.contains_key(column) {
            true => format!("u.{}::text", quoted(column)),
            false => format!("p.missing ->> '{column}'"),
        };
        // An account of a table that does not know the column was never asked to verify itself.
        let flag = |column: &str, absent: bool| match self.columns.contains_key(column) {
            true => format!("coalesce(u.{}, false)", quoted(column)),
            false => format!("coalesce((p.missing ->> '{column}')::boolean, {absent})"),
        };
        let blocked = self.blocked.as_ref().map_or_else(
            || "false".to_owned(),
            |column| format!("coalesce(u.{column}, false)"),
        );
        format!(
            "{} as id, {} as email, {} as password, {} as role, {} as full_name, {} as phone, {} as profession, {} as domain, \
             {} as profile_photo, {} as is_verified, {} as is_profile_complete, {} as stage, \
             coalesce(p.epoch, 0) as epoch, coalesce(p.google_sub, {}) as google_sub, p.blocked_at, p.blocked_by, p.block_reason, {blocked} as is_blocked_elsewhere",
            text("id"),
            text("email"),
            text("password"),
            text("role"),
            text("fullName"),
            text("phone"),
            text("profession"),
            text("domain"),
            text("profilePhoto"),
            flag("isVerified", true),
            flag("isProfileComplete", true),
            text("stage"),
            text("googleId"),
        )
    }
}

impl UsersTable {
    /// `select … from the table with what is kept beside it`, up to its `where`.
    pub(super) fn selection(&self) -> String {
        format!("select {} {}", self.0.select, self.from())
    }

    /// The columns of [`super::UserRow`], from `u` and `p`.
    pub(super) fn columns(&self) -> &str {
        &self.0.select
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    fn from(&self) -> String {
        format!(
            "from {} u left join people p on p.user_id = u.\"id\"::text",
            self.0.name
        )
    }

    /// A parameter as a value of the column `id`, so that its index is used.
    pub(super) fn id(&self, parameter: &str) -> String {
        format!("cast({parameter} as {})", self.kind("id"))
    }

    pub(super) fn kind(&self, column: &str) -> &str {
        self.0
            .columns
            .get(column)
            .map_or("text", |column| &column.kind)
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.0.columns.contains_key(column)
    }

    /// The spelling of a value in an enum column that ignores case; the value itself elsewhere.
    pub fn spelling(&self, column: &str, value: &str) -> String {
        let labels = self.0.columns.get(column).map(|column| &column.labels);
        let label = labels.and_then(|labels| {
            labels
                .iter()
                .find(|label| label.eq_ignore_ascii_case(value))
        });
        label.cloned().unwrap_or_else(|| value.to_owned())
    }

    pub(super) fn is_label(&self, column: &str, value: &str) -> bool {
        let labels = self.0.columns.get(column).map(|column| &column.labels);
        labels.is_some_and(|labels| labels.iter().any(|label| label == value))
    }

    /// `set "a" = cast($1 ->> 'a' as type), …` from a JSON parameter, for the columns that the
    /// table has; and the object of those that it lacks.
    pub(super) fn assignments(
        &self,
        parameter: &str,
        columns: &[&'static str],
    ) -> (String, Vec<&'static str>) {
        let (there, missing): (Vec<&'static str>, Vec<&'static str>) =
            columns.iter().partition(|column| self.has(column));
        let mut text = String::new();
        for column in there {
            let separator = if text.is_empty() { "" } else { ", " };
            let kind = self.kind(column);
            write!(
                text,
                "{separator}{} = cast({parameter} ->> '{column}' as {kind})",
                quoted(column)
            )
            .ok();
        }
        if self.has("updatedAt") && !text.is_empty() {
            text.push_str(", \"updatedAt\" = now()");
        }
        (text, missing)
    }

    /// `insert into … ("a", …) select cast($1 ->> 'a' as type), …` from a JSON parameter.
    pub(super) fn insertion(&self, parameter: &str, columns: &[&'static str]) -> String {
        let there: Vec<&&str> = columns.iter().filter(|name| self.has(name)).collect();
        let names: Vec<String> = there.iter().map(|name| quoted(name)).collect();
        let values: Vec<String> = there
            .iter()
            .map(|name| format!("cast({parameter} ->> '{name}' as {})", self.kind(name)))
            .collect();
        format!(
            "insert into {} ({}) select {}",
            self.0.name,
            names.join(", "),
            values.join(", ")
        )
    }
}

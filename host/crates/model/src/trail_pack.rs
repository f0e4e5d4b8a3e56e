//! Trails of the old backend as data: who may read one, what its entries say about whom, and the
//! old table that gets a copy of each entry.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::audit::LOGIN_LOGS;
use crate::role::Role;
use crate::sql::{TableName, check_name};

/// Columns that a projection has at most.
const MAX_COLUMNS: usize = 64;
/// Longest text of an entry that becomes its actor, action or entity, in bytes. They are indexed.
pub const MAX_FIELD_BYTES: usize = 200;

/// What a pack says of a trail. A pack is a JSON file of this form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrailPack {
    /// Name of the trail.
    pub name: String,
    /// Description in one line.
    pub description: String,
    /// JSON Schema (draft 2020-12) of its entries.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// Roles of accounts that may read it; empty or absent: operators only.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub readers: Vec<Role>,
    /// How long its entries are kept, in days; absent: the present retention stays, which is for ever
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 90, maximum = 36500)]
    pub keep_days: Option<i32>,
    /// Where its entries have what every entry has.
    #[serde(default)]
    pub fields: EntryFields,
    /// The old table that gets a copy of each entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Projection>,
}

/// Properties of an entry that are its actor, action and entity, by which entries are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EntryFields {
    /// Property with the id of the account that did it. Absent: the plugin that wrote the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Property that says what was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Property that says what it was done to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Properties that together may be there once per entity, for example a version. Needs `entity`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<String>,
}

/// A table that gets a copy of each entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Projection {
    /// As `schema.table`.
    #[schema(value_type = String)]
    pub table: TableName,
    /// Only entries with one of these actions are copied; empty or absent: every entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Its columns. One that the table lacks is left out.
    pub columns: BTreeMap<String, ProjectedColumn>,
}

/// A column of such a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectedColumn {
    /// Where its value comes from: `id`, `at`, `actorId`, `actorName`, `action`, `entity`, `address`,
    /// `platform`, `plugin`, `job`, `correlationId`, or `entry.` and a property of the entry.
    #[schema(value_type = String)]
    pub from: Source,
    /// Its type, if the host makes the table.
    #[serde(rename = "type")]
    pub kind: ColumnType,
}

/// A type of a column.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Text,
    Uuid,
    Integer,
    Bigint,
    Numeric,
    Boolean,
    Jsonb,
    Timestamptz,
}

impl ColumnType {
    /// As Postgres writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Numeric => "numeric",
            Self::Boolean => "boolean",
            Self::Jsonb => "jsonb",
            Self::Timestamptz => "timestamptz",
        }
    }
}

/// Where the value of a column comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// A UUID that follows from the entry. A table that counts its ids itself goes on doing so.
    Id,
    At,
    ActorId,
    ActorName,
    Action,
    Entity,
    Address,
    Platform,
    Plugin,
    Job,
    CorrelationId,
    /// A property of the entry.
    Entry(String),
}

static SOURCES: [(&str, Source); 11] = [
    ("id", Source::Id),
    ("at", Source::At),
    ("actorId", Source::ActorId),
    ("actorName", Source::ActorName),
    ("action", Source::Action),
    ("entity", Source::Entity),
    ("address", Source::Address),
    ("platform", Source::Platform),
    ("plugin", Source::Plugin),
    ("job", Source::Job),
    ("correlationId", Source::CorrelationId),
];

impl FromStr for Source {
    type Err = InvalidPack;

    fn from_str(text: &str) -> Result<Self, InvalidPack> {
        if let Some(property) = text.strip_prefix("entry.").filter(|name| !name.is_empty()) {
            return Ok(Self::Entry(property.to_owned()));
        }
        let known = SOURCES.iter().find(|(name, _)| *name == text);
        known.map(|(_, source)| source.clone()).ok_or_else(|| {
            let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            InvalidPack(format!(
                "from: {text:?} is none of {names}, nor entry. and a property of the entry"
            ))
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(property) => write!(f, "entry.{property}"),
            named => {
                let name = SOURCES.iter().find(|(_, source)| source == named);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

text_form!(Source);

/// Why a pack cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPack(String);

impl TrailPack {
    /// Checks what its form alone does not say.
    pub fn check(&self) -> Result<(), InvalidPack> {
        let bad = |why: String| Err(InvalidPack(why));
        let fields = &self.fields;
        let named = [&fields.actor, &fields.action, &fields.entity];
        let properties = named.into_iter().flatten().chain(&fields.unique);
        for property in properties {
            if property.is_empty() || property.len() > MAX_FIELD_BYTES || property.contains('\0') {
                return bad(format!(
                    "fields: a property must have 1 to {MAX_FIELD_BYTES} bytes, and no NUL character"
                ));
            }
        }
        if !fields.unique.is_empty() && fields.entity.is_none() {
            return bad("fields.unique: needs fields.entity, within which it holds".into());
        }
        let Some(projection) = &self.projection else {
            return Ok(());
        };
        let columns = &projection.columns;
        if columns.is_empty() || columns.len() > MAX_COLUMNS {
            return bad(format!(
                "projection.columns: must be 1 to {MAX_COLUMNS} columns"
            ));
        }
        let mut ids = columns
            .iter()
            .filter(|(_, column)| column.from == Source::Id);
        let is_key = |kind| matches!(kind, ColumnType::Uuid | ColumnType::Text);
        let first = ids.next();
        if ids.next().is_some() || first.is_some_and(|(_, column)| !is_key(column.kind)) {
            return bad(
                "projection.columns: one column at most may come from id, of type uuid or text"
                    .into(),
            );
        }
        match columns.keys().find_map(|name| check_name(name).err()) {
            Some(why) => bad(format!("projection.columns: {why}")),
            None => Ok(()),
        }
    }
}

impl Projection {
    /// The old backend's record of logins, which the host writes itself.
    pub fn of_logins() -> Self {
        let column = |from, kind| ProjectedColumn { from, kind };
        let columns = [
            ("id", column(Source::Id, ColumnType::Uuid)),
            ("userId", column(Source::ActorId, ColumnType::Uuid)),
            ("action", column(Source::Action, ColumnType::Text)),
            ("ipAddress", column(Source::Address, ColumnType::Text)),
            (
                "userAgent",
                column(Source::Entry("userAgent".into()), ColumnType::Text),
            ),
            ("timestamp", column(Source::At, ColumnType::Timestamptz)),
        ];
        Self {
            table: format!("public.{LOGIN_LOGS}")
                .parse()
                .expect("a name of a table"),
            // The old backend knows no others.
            actions: ["login", "logout", "master_login"]
                .map(str::to_owned)
                .to_vec(),
            columns: columns
                .into_iter()
                .map(|(name, column)| (name.to_owned(), column))
                .collect(),
        }
    }

    /// Whether entries with this action are copied.
    pub fn takes(&self, action: Option<&str>) -> bool {
        let is_named = |action| self.actions.iter().any(|known| known == action);
        self.actions.is_empty() || action.is_some_and(is_named)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pack() -> Value {
        json!({
            "name": "gst_audit_log", "description": "", "schema": {}, "readers": ["admin", "finance"],
            "fields": { "actor": "changedBy", "action": "action", "entity": "paymentId" },
            "projection": { "table": "superadmin.gst_audit_log", "columns": {
                "id": { "from": "id", "type": "uuid" },
                "old_value": { "from": "entry.oldValue", "type": "text" },
            } },
        })
    }

    #[test]
    fn a_pack_is_read_and_written_as_it_was() {
        let read: TrailPack = serde_json::from_value(pack()).expect("a pack");
        assert!(read.check().is_ok());
        let written = serde_json::to_value(&read).expect("JSON");
        assert_eq!(written, pack());
    }

    #[test]
    fn what_is_no_pack_is_refused_with_its_place() {
        let read = |pointer: &str, value: Value| {
            let mut pack = pack();
            *pack.pointer_mut(pointer).expect("a place") = value;
            let read: Result<TrailPack, _> = serde_json::from_value(pack);
            match read {
                Ok(pack) => pack.check().map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        for (pointer, value, words) in [
            ("/readers/0", json!("boss"), "boss"),
            ("/projection/table", json!("login_logs"), "its schema"),
            ("/projection/table", json!("patchbay.secrets"), "the schema"),
            (
                "/projection/table",
                json!("pg_catalog.pg_authid"),
                "the schema",
            ),
            ("/projection/table", json!("a.b.c"), "valid name"),
            ("/projection/columns/id/from", json!("x"), "correlationId"),
            ("/projection/columns/id/type", json!("money"), "money"),
            (
                "/projection/columns/id/type",
                json!("integer"),
                "uuid or text",
            ),
            (
                "/projection/columns/old_value/from",
                json!("id"),
                "one column at most",
            ),
            ("/projection/columns", json!({}), "1 to 64"),
            ("/fields/entity", json!(""), "1 to 200"),
            ("/fields", json!({ "unique": ["version"] }), "fields.entity"),
        ] {
            let refused = read(pointer, value).expect_err(pointer);
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn the_record_of_logins_takes_what_the_old_backend_knows() {
        let logins = Projection::of_logins();
        assert!(logins.takes(Some("logout")) && !logins.takes(Some("master_login_failed")));
        assert!(!logins.takes(None));
        assert_eq!(logins.table.quoted(), "\"public\".\"login_logs\"");
    }
}

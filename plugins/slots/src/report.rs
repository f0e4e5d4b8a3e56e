//! Statistics and lists.

use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Failure, Value, json};

use crate::database::{self, Row};
use crate::kinds::{Kind, Parameters, Terms};
use crate::settings::Settings;

pub const DEFAULT_LIMIT: u32 = 100;
/// What fits into an answer (1 MiB) with room to spare.
pub const MAX_LIMIT: u32 = 1_000;

const COLUMNS: [(&str, Column); 12] = [
    ("id", Column::Plain),
    ("startDateTime", Column::Time),
    ("endDateTime", Column::Time),
    ("mentorId", Column::Plain),
    ("studentId", Column::Plain),
    ("isAvailable", Column::Plain),
    ("status", Column::Plain),
    ("actualStartTime", Column::Time),
    ("actualEndTime", Column::Time),
    ("durationMinutes", Column::Plain),
    ("earningsCredited", Column::Plain),
    ("earningsCreditedAt", Column::Time),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Plain,
    Time,
}

/// How many slots there are of each kind: all, or those of one mentor.
pub fn statistics(settings: &Settings, mentor: Option<&str>) -> Result<Value, Failure> {
    if let Some(mentor) = mentor {
        check_mentor(mentor)?;
    }
    let terms = Terms {
        settings,
        now: database::now()?,
    };
    let mut parameters = Parameters::default();
    let counts = Kind::ALL.map(|(_, kind)| {
        let condition = kind.condition(terms, &mut parameters);
        format!("count(*) filter (where {condition})")
    });
    let mut statement = format!("select {} from public.slots", counts.join(", "));
    if let Some(mentor) = mentor {
        let mentor = parameters.add(database::text(mentor));
        statement.push_str(&format!(" where \"mentorId\" = {mentor}"));
    }
    let rows = database::query(&statement, parameters.0)?;
    let row = rows.into_iter().next().unwrap_or_default();
    let counted = Kind::ALL.iter().enumerate();
    let counted = counted.map(|(place, (name, _))| {
        let count = database::int(&row, place);
        ((*name).to_owned(), json!(count))
    });
    Ok(Value::Object(counted.collect()))
}

/// Ids may be UUIDs or numbers; what the column cannot hold is nobody's id.
fn check_mentor(mentor: &str) -> Result<(), Failure> {
    let statement = "select 1 from public.slots where \"mentorId\" = $1 limit 0";
    match database::query(statement, vec![database::text(mentor)]) {
        Err(failed) if failed.is_unreadable() => Err(Failure::invalid_input(
            "path.mentorId",
            "is not an id of a mentor",
        )),
        other => Ok(other.map(drop)?),
    }
}

/// Slots of one kind, the earliest first.
pub fn list(settings: &Settings, kind: Kind, limit: u32) -> Result<Vec<Value>, Failure> {
    let terms = Terms {
        settings,
        now: database::now()?,
    };
    let mut parameters = Parameters::default();
    let columns = COLUMNS.map(|(name, _)| format!("\"{name}\"")).join(", ");
    let statement = format!(
        "select {columns} from public.slots where {} order by {}, id limit {limit}",
        kind.condition(terms, &mut parameters),
        settings.expired_by.column(),
    );
    let rows = database::query(&statement, parameters.0)?;
    Ok(rows.iter().map(|row| slot(settings, row)).collect())
}

fn slot(settings: &Settings, row: &Row) -> Value {
    let members = COLUMNS.iter().zip(row).map(|((name, column), cell)| {
        let value = match (column, cell) {
            (Column::Time, Cell::Text(text)) => json!(settings.utc_offset.iso(text)),
            (_, cell) => database::value(cell),
        };
        ((*name).to_owned(), value)
    });
    Value::Object(members.collect())
}

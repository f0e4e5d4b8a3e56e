//! `GET …/timeline`: calls and messages of a lead, the newest first.

use patchbay_plugin::sql::{self, Value as Sql};
use patchbay_plugin::{Answer, Failure, Request, Value, json};
use serde::Deserialize;

use crate::access;
use crate::event::is_uuid;
use crate::settings::Settings;
use crate::store;
use crate::vendor_time::from_rfc3339;

#[derive(Deserialize)]
struct Input {
    path: Path,
    #[serde(default)]
    query: Query,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    lead_id: String,
}

#[derive(Deserialize, Default)]
struct Query {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Both tables with the same columns. Text, so that ids and times of either read alike.
const ENTRIES: &str = "select id::text as id, 'call' as kind, created_at, called_by::text as by, status::text as status, error_code, \
     call_source::text as source, coalesce(conversation_s, duration_s) as seconds, (recording_url is not null) as recorded, \
     null::text as body from mas_crm.lead_call_logs where lead_id = $1 \
     union all \
     select id::text, 'sms', created_at, sent_by::text, status::text, error_code, 'exotel', null::int, false, body \
     from mas_crm.lead_sms_logs where lead_id = $1";

pub fn page(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let settings = Settings::load()?;
    let person = access::person(&request.caller)?;
    let lead = access::lead(&person, &input.path.lead_id, &settings)?;
    let limit = input.query.limit.unwrap_or(50).clamp(1, 200);
    let (before, before_id) = match input.query.cursor.as_deref().map(cursor) {
        None => (Sql::Null, Sql::Null),
        Some(Some((at, id))) => (store::text(at), store::text(id)),
        Some(None) => {
            return Err(Failure::invalid_input(
                "query.cursor",
                "is not the nextCursor of a page",
            ));
        }
    };
    let statement = format!(
        "select id, kind, created_at, by, status, error_code, source, seconds, recorded, body from ({ENTRIES}) as entries \
         where $2::timestamptz is null or (created_at, id) < ($2::timestamptz, $3::text) order by created_at desc, id desc limit $4"
    );
    let values = [
        store::text(&lead.id),
        before,
        before_id,
        Sql::Int(limit + 1),
    ];
    let mut rows = sql::query(&statement, &values).map_err(store::failed)?.rows;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let entries: Vec<Value> = rows.iter().map(|row| entry(&lead.id, row)).collect();
    let next = rows.last().filter(|_| has_more).and_then(|row| {
        let (Sql::Text(id), Sql::Text(at)) = (&row[0], &row[2]) else {
            return None;
        };
        Some(format!("{at},{id}"))
    });
    Ok(Answer::json(
        &json!({ "entries": entries, "nextCursor": next }),
    ))
}

fn cursor(text: &str) -> Option<(&str, &str)> {
    let (at, id) = text.split_once(',')?;
    (from_rfc3339(at).is_some() && is_uuid(id)).then_some((at, id))
}

fn entry(lead_id: &str, row: &[Sql]) -> Value {
    let text = |place: usize| match row.get(place) {
        Some(Sql::Text(text)) => json!(text),
        _ => Value::Null,
    };
    let mut entry = json!({
        "id": text(0), "kind": text(1), "at": text(2), "by": text(3), "status": text(4), "error": text(5),
    });
    if entry["kind"] == "call" {
        entry["source"] = text(6);
        entry["durationSeconds"] = match row.get(7) {
            Some(Sql::Int(seconds)) => json!(seconds),
            _ => Value::Null,
        };
        let recorded = matches!(row.get(8), Some(Sql::Boolean(true)));
        entry["recording"] = match (recorded, entry["id"].as_str()) {
            (true, Some(id)) => {
                json!(format!(
                    "/api/sales/crm/leads/{lead_id}/calls/{id}/recording"
                ))
            }
            _ => Value::Null,
        };
    } else {
        entry["body"] = text(9);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_time_and_an_id_and_nothing_else() {
        let id = "0d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d";
        assert!(cursor(&format!("2026-01-01T10:00:00.123456Z,{id}")).is_some());
        for text in [
            "",
            ",",
            "now,1",
            "2026-01-01T10:00:00Z,1",
            &format!("infinity,{id}"),
        ] {
            assert_eq!(cursor(text), None, "{text}");
        }
    }
}

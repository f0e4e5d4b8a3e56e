//! Callbacks whose row is not there.
//!
//! The column `sid` has the row that the callback's URL names and, after a slash, the vendor's id:
//! `call-…/…`. So what one URL proves is kept beside, and never in place of, what another one does.

use patchbay_plugin::Failure;
use patchbay_plugin::sql::{self, Value as Sql};

use super::{Cells, failed, text};
use crate::event::{Event, Kind};

pub fn keep_event(event: &Event, data: &str) -> Result<(), Failure> {
    sql::execute(
        "insert into mas_crm.exotel_events (kind, sid, event, data, received_at) values ($1, $2, $3, $4, now()) \
         on conflict (kind, sid, event) do nothing",
        &[
            text(event.kind.as_str()),
            text(&format!("{}/{}", event.reference, event.sid)),
            text(&event.event),
            Sql::Json(data.to_owned()),
        ],
    )
    .map_err(failed)?;
    Ok(())
}

/// The data of those that wait for this row.
pub fn kept_events(kind: Kind, reference: &str) -> Result<Vec<String>, Failure> {
    let rows = sql::query(
        "select data from mas_crm.exotel_events where kind = $1 and starts_with(sid, $2) order by received_at limit 100",
        &[text(kind.as_str()), text(&format!("{reference}/"))],
    )
    .map_err(failed)?;
    let data = rows.rows.into_iter().filter_map(|row| match row.first() {
        Some(Sql::Json(text) | Sql::Text(text)) => Some(text.clone()),
        _ => None,
    });
    Ok(data.collect())
}

pub fn forget_events(kind: Kind, reference: &str) -> Result<(), Failure> {
    sql::execute(
        "delete from mas_crm.exotel_events where kind = $1 and starts_with(sid, $2)",
        &[text(kind.as_str()), text(&format!("{reference}/"))],
    )
    .map_err(failed)?;
    Ok(())
}

/// References for which a callback waits although their row is there, and how many callbacks were
/// too old to keep.
pub fn events_to_apply(keep_days: u32) -> Result<(Vec<(Kind, String)>, u64), Failure> {
    let old = sql::execute(
        "delete from mas_crm.exotel_events where received_at < now() - make_interval(days => $1)",
        &[Sql::Int(i64::from(keep_days))],
    )
    .map_err(failed)?;
    let rows = sql::query(
        "select distinct e.kind, split_part(e.sid, '/', 1) from mas_crm.exotel_events e where \
         (e.kind = 'call' and exists (select 1 from mas_crm.lead_call_logs c where 'call-' || c.id::text = split_part(e.sid, '/', 1))) or \
         (e.kind = 'sms' and exists (select 1 from mas_crm.lead_sms_logs s where 'sms-' || s.id::text = split_part(e.sid, '/', 1))) \
         limit 200",
        &[],
    )
    .map_err(failed)?;
    let found = rows.rows.into_iter().filter_map(|row| {
        let mut cells = Cells(row.into_iter());
        let kind = match cells.text()?.as_str() {
            "sms" => Kind::Sms,
            _ => Kind::Call,
        };
        Some((kind, cells.text()?))
    });
    Ok((found.collect(), old))
}

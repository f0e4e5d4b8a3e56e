//! Callbacks whose call or message nobody knows yet.

use patchbay_plugin::Failure;
use patchbay_plugin::sql::{self, Value as Sql};

use super::{Cells, failed, text};

/// Keeps a callback whose call or message nobody knows yet.
pub fn keep_event(kind: &str, sid: &str, event: &str, data: &str) -> Result<(), Failure> {
    sql::execute(
        "insert into mas_crm.exotel_events (kind, sid, event, data, received_at) values ($1, $2, $3, $4, now()) \
         on conflict (kind, sid, event) do nothing",
        &[text(kind), text(sid), text(event), Sql::Json(data.to_owned())],
    )
    .map_err(failed)?;
    Ok(())
}

/// The data of those that wait for this call or message.
pub fn kept_events(kind: &str, sid: &str) -> Result<Vec<String>, Failure> {
    let rows = sql::query(
        "select data from mas_crm.exotel_events where kind = $1 and sid = $2 order by received_at limit 100",
        &[text(kind), text(sid)],
    )
    .map_err(failed)?;
    let data = rows.rows.into_iter().filter_map(|row| match row.first() {
        Some(Sql::Json(text) | Sql::Text(text)) => Some(text.clone()),
        _ => None,
    });
    Ok(data.collect())
}

pub fn forget_events(kind: &str, sid: &str) -> Result<(), Failure> {
    sql::execute(
        "delete from mas_crm.exotel_events where kind = $1 and sid = $2",
        &[text(kind), text(sid)],
    )
    .map_err(failed)?;
    Ok(())
}

/// Ids for which a callback waits although their row is there, and how many were too old to keep.
pub fn events_to_apply(keep_days: u32) -> Result<(Vec<(String, String)>, u64), Failure> {
    let old = sql::execute(
        "delete from mas_crm.exotel_events where received_at < now() - make_interval(days => $1)",
        &[Sql::Int(i64::from(keep_days))],
    )
    .map_err(failed)?;
    let rows = sql::query(
        "select distinct e.kind, e.sid from mas_crm.exotel_events e where \
         (e.kind = 'call' and exists (select 1 from mas_crm.lead_call_logs c where c.call_sid = e.sid)) or \
         (e.kind = 'sms' and exists (select 1 from mas_crm.lead_sms_logs s where s.sms_sid = e.sid)) limit 200",
        &[],
    )
    .map_err(failed)?;
    let found = rows.rows.into_iter().filter_map(|row| {
        let mut cells = Cells(row.into_iter());
        Some((cells.text()?, cells.text()?))
    });
    Ok((found.collect(), old))
}

//! Rows of calls.

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::{self, Statement, Transaction, Value as Sql};
use patchbay_plugin::{Failure, Retry, json};

use super::{
    Cells, Key, MAX_RECONCILED, MAX_TRIES, OTHER_ROWS, UNIQUE_VIOLATION, contended, failed, number,
    optional, text, time, trail,
};
use crate::progress::{CallNews, CallState, CallStatus};

const CALL: &str = "id, lead_id, called_by, from_number, to_number, status, vendor_status, call_sid, duration_s, \
                    conversation_s, recording_url, answered_by, answered_at, ended_at, placed_at, xmin::text";

#[derive(Debug, Clone)]
pub struct Call {
    pub id: String,
    pub lead_id: String,
    pub called_by: Option<String>,
    pub from: String,
    pub to: String,
    /// Milliseconds since 1970.
    pub placed_at: i64,
    pub state: CallState,
    /// Which version of the row this is.
    version: String,
}

impl Call {
    pub fn reference(&self) -> String {
        format!("call-{}", self.id)
    }
}

fn call(row: Vec<Sql>) -> Call {
    let mut cells = Cells(row.into_iter());
    let id = cells.text().unwrap_or_default();
    let lead_id = cells.text().unwrap_or_default();
    let called_by = cells.text();
    let from = cells.text().unwrap_or_default();
    let to = cells.text().unwrap_or_default();
    let status = cells.text().unwrap_or_default();
    let vendor_status = cells.text();
    let sid = cells.text();
    let state = CallState {
        sid,
        // A row of another program may have a word of its own.
        status: CallStatus::parse(&status).unwrap_or(CallStatus::Ended),
        vendor_status,
        duration_s: cells.int(),
        conversation_s: cells.int(),
        recording_url: cells.text(),
        answered_by: cells.text(),
        answered_at: cells.time(),
        ended_at: cells.time(),
    };
    Call {
        id,
        lead_id,
        called_by,
        from,
        to,
        placed_at: cells.time().unwrap_or(0),
        state,
        version: cells.text().unwrap_or_default(),
    }
}

/// A call that somebody asked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub lead_id: &'a str,
    pub by: &'a str,
    pub request_key: &'a str,
    pub platform: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub caller_id: &'a str,
    /// Seconds in which somebody cannot begin a second call.
    pub guard_s: u32,
}

#[derive(Debug)]
pub enum Begun {
    /// The row is new, or its call was certainly not placed before: place it now.
    Place(Call),
    /// The same request came before.
    Before(Call),
    /// The same person has another call that has just begun.
    Busy,
}

/// The row before the call is placed. Of any number of simultaneous requests with one key, exactly
/// one gets [`Begun::Place`].
pub fn begin_call(wanted: &Wanted<'_>) -> Result<Begun, Failure> {
    let transaction = sql::begin().map_err(failed)?;
    // One person's requests one after the other.
    transaction
        .query(
            "select pg_advisory_xact_lock(hashtextextended('exotel call of ' || $1, 0))",
            &[text(wanted.by)],
        )
        .map_err(failed)?;
    let before = transaction
        .query(
            &format!("select {CALL} from mas_crm.lead_call_logs where request_key = $1 for update"),
            &[text(wanted.request_key)],
        )
        .map_err(failed)?;
    if let Some(row) = before.rows.into_iter().next() {
        let before = call(row);
        if before.state.status != CallStatus::Refused || before.lead_id != wanted.lead_id {
            return Ok(Begun::Before(before));
        }
        let again = transaction
            .query(
                &format!(
                    "update mas_crm.lead_call_logs set status = 'placing', error_code = null, from_number = $2, to_number = $3, \
                     caller_id = $4, placed_at = now(), updated_at = now() where id = $1 returning {CALL}"
                ),
                &[text(&before.id), text(wanted.from), text(wanted.to), text(wanted.caller_id)],
            )
            .map_err(failed)?;
        return committed(&transaction, again.rows);
    }
    let busy = transaction
        .query(
            "select 1 from mas_crm.lead_call_logs where called_by = $1 and call_source = 'exotel' \
             and status in ('placing', 'unknown', 'queued', 'ringing', 'in-progress') \
             and placed_at > now() - make_interval(secs => $2) limit 1",
            &[text(wanted.by), Sql::Float(f64::from(wanted.guard_s))],
        )
        .map_err(failed)?;
    if !busy.rows.is_empty() {
        return Ok(Begun::Busy);
    }
    let new = transaction
        .query(
            &format!(
                "insert into mas_crm.lead_call_logs (lead_id, call_source, request_key, called_by, from_number, to_number, caller_id, \
                 status, platform, placed_at) values ($1, 'exotel', $2, $3, $4, $5, $6, 'placing', $7, now()) returning {CALL}"
            ),
            &[
                text(wanted.lead_id),
                text(wanted.request_key),
                text(wanted.by),
                text(wanted.from),
                text(wanted.to),
                text(wanted.caller_id),
                text(wanted.platform),
            ],
        )
        .map_err(failed)?;
    committed(&transaction, new.rows)
}

fn committed(transaction: &Transaction, rows: Vec<Vec<Sql>>) -> Result<Begun, Failure> {
    let placed = rows
        .into_iter()
        .next()
        .map(call)
        .ok_or_else(|| Failure::new("database", "no row came back", Retry::Never))?;
    transaction.commit().map_err(failed)?;
    Ok(Begun::Place(placed))
}

/// The vendor has certainly not placed it: a repeat of the request may place it.
pub fn refuse_call(call: &Call, error_code: &str) -> Result<(), Failure> {
    let refuse = Statement {
        text: "update mas_crm.lead_call_logs set status = 'refused', error_code = $2, updated_at = now() \
               where id = $1 and status = 'placing'"
            .into(),
        parameters: vec![text(&call.id), text(error_code)],
        expect_rows: Some(1),
    };
    let new = json!({ "callId": call.id, "status": "refused", "error": error_code });
    let told = trail(
        &call.lead_id,
        "call_refused",
        call.called_by.as_deref(),
        &new,
    );
    match sql::batch(&[refuse], &[told]) {
        // News of the vendor was faster: it has the call after all.
        Err(error) if error.code == OTHER_ROWS => Ok(()),
        done => done.map(|_| ()).map_err(failed),
    }
}

pub fn find_call(key: Key<'_>) -> Result<Option<Call>, Failure> {
    let (condition, value) = key.condition("call_sid");
    let rows = sql::query(
        &format!("select {CALL} from mas_crm.lead_call_logs where {condition}"),
        &[value],
    )
    .map_err(failed)?;
    Ok(rows.rows.into_iter().next().map(call))
}

/// Applies news. `None` when there is no such row. News of another call than the row's, and of one
/// that another row has, changes nothing: the row that comes back then has not the id of the news.
pub fn apply_to_call(key: Key<'_>, news: &CallNews) -> Result<Option<Call>, Failure> {
    for _ in 0..MAX_TRIES {
        let Some(mut found) = find_call(key)? else {
            return Ok(None);
        };
        let after = found.state.after(news);
        if after == found.state {
            return Ok(Some(found));
        }
        let update = Statement {
            text: "update mas_crm.lead_call_logs set status = $2, vendor_status = $3, call_sid = $4, duration_s = $5, \
                   conversation_s = $6, recording_url = $7, answered_by = $8, answered_at = $9, ended_at = $10, \
                   error_code = case when $2 in ('placing', 'refused', 'unknown') then error_code end, updated_at = now() \
                   where id = $1 and xmin::text = $11"
                .into(),
            parameters: vec![
                text(&found.id),
                text(after.status.as_str()),
                optional(after.vendor_status.as_deref()),
                optional(after.sid.as_deref()),
                number(after.duration_s),
                number(after.conversation_s),
                optional(after.recording_url.as_deref()),
                optional(after.answered_by.as_deref()),
                time(after.answered_at),
                time(after.ended_at),
                text(&found.version),
            ],
            expect_rows: Some(1),
        };
        let told = activity(found.state.status, after.status).map(|activity| {
            let new = json!({
                "callId": found.id, "status": after.status.as_str(), "durationSeconds": after.duration_s,
            });
            trail(&found.lead_id, activity, found.called_by.as_deref(), &new)
        });
        let told: Vec<NewJob> = told.into_iter().collect();
        match sql::batch(&[update], &told) {
            Ok(_) => {
                found.state = after;
                return Ok(Some(found));
            }
            Err(error) if error.code == OTHER_ROWS => {}
            Err(error) if error.code == UNIQUE_VIOLATION => return Ok(Some(found)),
            Err(error) => return Err(failed(error)),
        }
    }
    Err(contended())
}

/// What the trail says of such a change. Each is said once in the life of a call, unless a better
/// end becomes known.
fn activity(before: CallStatus, after: CallStatus) -> Option<&'static str> {
    let placed = |status: CallStatus| status >= CallStatus::Queued;
    match (before, after) {
        _ if before == after => None,
        (_, after) if after.is_end() => Some("call_ended"),
        (before, after) if !placed(before) && placed(after) => Some("call_placed"),
        (_, CallStatus::Unknown) => Some("call_unknown"),
        _ => None,
    }
}

/// Calls whose end was not told, those first that were never asked for. Also calls that have ended
/// whose recording was not told, which are asked for once, and those of which the vendor did not yet
/// know how long they were, since it computes that some minutes after the end.
pub fn unsettled_calls(after_minutes: f64, give_up_hours: u32) -> Result<Vec<Call>, Failure> {
    let rows = sql::query(
        &format!(
            "select {CALL} from mas_crm.lead_call_logs where call_source = 'exotel' and placed_at < now() - make_interval(secs => $1) \
             and placed_at > now() - make_interval(hours => $2) \
             and (status in ('placing', 'unknown', 'queued', 'ringing', 'in-progress') \
                  or (status = 'completed' and recording_url is null and conversation_s > 0 and checked_at is null) \
                  or (status in ('failed', 'canceled', 'no-answer', 'busy', 'ended', 'completed') and ended_at is null \
                      and coalesce(checked_at, placed_at) < placed_at + interval '1 hour')) \
             order by checked_at nulls first, placed_at limit $3"
        ),
        &[
            Sql::Float(after_minutes * 60.0),
            Sql::Int(i64::from(give_up_hours)),
            Sql::Int(MAX_RECONCILED),
        ],
    )
    .map_err(failed)?;
    Ok(rows.rows.into_iter().map(call).collect())
}

/// Whether another row has this call of the vendor.
pub fn is_known(call_sid: &str) -> Result<bool, Failure> {
    Ok(find_call(Key::Sid(call_sid))?.is_some())
}

//! Rows of text messages.

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::{self, Statement, Value as Sql};
use patchbay_plugin::{Failure, Retry, json};

use super::{
    Cells, Key, MAX_RECONCILED, MAX_TRIES, OTHER_ROWS, QUEUE, UNIQUE_VIOLATION, contended, failed,
    optional, text, trail,
};
use crate::progress::{SmsNews, SmsState, SmsStatus};

const SMS: &str = "id, lead_id, sent_by, to_number, body, dlt_template_id, status, sms_sid, detailed_code, \
                   detailed_status, xmin::text";

#[derive(Debug, Clone)]
pub struct Sms {
    pub id: String,
    pub lead_id: String,
    pub sent_by: Option<String>,
    pub to: String,
    pub body: String,
    pub dlt_template_id: Option<String>,
    pub state: SmsState,
    version: String,
}

impl Sms {
    pub fn reference(&self) -> String {
        format!("sms-{}", self.id)
    }
}

fn sms(row: Vec<Sql>) -> Sms {
    let mut cells = Cells(row.into_iter());
    let id = cells.text().unwrap_or_default();
    let lead_id = cells.text().unwrap_or_default();
    let sent_by = cells.text();
    let to = cells.text().unwrap_or_default();
    let body = cells.text().unwrap_or_default();
    let dlt_template_id = cells.text();
    let status = cells.text().unwrap_or_default();
    let sid = cells.text();
    let state = SmsState {
        sid,
        status: SmsStatus::parse(&status).unwrap_or(SmsStatus::Unknown),
        detailed_code: cells.text(),
        detailed_status: cells.text(),
    };
    Sms {
        id,
        lead_id,
        sent_by,
        to,
        body,
        dlt_template_id,
        state,
        version: cells.text().unwrap_or_default(),
    }
}

pub fn unsettled_sms(after_minutes: f64, give_up_hours: u32) -> Result<Vec<Sms>, Failure> {
    let rows = sql::query(
        &format!(
            "select {SMS} from mas_crm.lead_sms_logs where sms_sid is not null and status in ('unknown', 'submitted', 'sent') \
             and created_at < now() - make_interval(secs => $1) and created_at > now() - make_interval(hours => $2) \
             order by checked_at nulls first, created_at limit $3"
        ),
        &[
            Sql::Float(after_minutes * 60.0),
            Sql::Int(i64::from(give_up_hours)),
            Sql::Int(MAX_RECONCILED),
        ],
    )
    .map_err(failed)?;
    Ok(rows.rows.into_iter().map(sms).collect())
}

#[derive(Debug)]
pub struct WantedSms<'a> {
    pub lead_id: &'a str,
    pub by: &'a str,
    pub request_key: &'a str,
    pub platform: &'a str,
    pub to: &'a str,
    pub sender: &'a str,
    pub body: &'a str,
    pub dlt_template_id: Option<&'a str>,
}

/// The row and its job, or the row of the same request before.
pub fn begin_sms(wanted: &WantedSms<'_>) -> Result<Sms, Failure> {
    let transaction = sql::begin().map_err(failed)?;
    let new = transaction
        .query(
            &format!(
                "insert into mas_crm.lead_sms_logs (lead_id, request_key, sent_by, to_number, sender_id, body, dlt_template_id, \
                 status, platform) values ($1, $2, $3, $4, $5, $6, $7, 'queued', $8) on conflict (request_key) do nothing \
                 returning {SMS}"
            ),
            &[
                text(wanted.lead_id),
                text(wanted.request_key),
                text(wanted.by),
                text(wanted.to),
                text(wanted.sender),
                text(wanted.body),
                optional(wanted.dlt_template_id),
                text(wanted.platform),
            ],
        )
        .map_err(failed)?;
    if let Some(row) = new.rows.into_iter().next() {
        let new = sms(row);
        let data = json!({ "smsId": new.id, "leadId": new.lead_id });
        let told = json!({ "smsId": new.id, "status": "queued" });
        let jobs = [
            NewJob::new(QUEUE, "send-sms", &data),
            trail(&new.lead_id, "sms_requested", Some(wanted.by), &told),
        ];
        transaction.enqueue(&jobs).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        return Ok(new);
    }
    let before = transaction
        .query(
            &format!("select {SMS} from mas_crm.lead_sms_logs where request_key = $1"),
            &[text(wanted.request_key)],
        )
        .map_err(failed)?;
    before
        .rows
        .into_iter()
        .next()
        .map(sms)
        .ok_or_else(|| Failure::new("unavailable", "the message is gone", Retry::Backoff))
}

pub fn find_sms(key: Key<'_>) -> Result<Option<Sms>, Failure> {
    let (condition, value) = key.condition("sms_sid");
    let rows = sql::query(
        &format!("select {SMS} from mas_crm.lead_sms_logs where {condition}"),
        &[value],
    )
    .map_err(failed)?;
    Ok(rows.rows.into_iter().next().map(sms))
}

/// From one status to another, if it still has the first.
pub fn move_sms(
    id: &str,
    from: SmsStatus,
    to: SmsStatus,
    error_code: Option<&str>,
) -> Result<bool, Failure> {
    let changed = sql::execute(
        "update mas_crm.lead_sms_logs set status = $3, error_code = $4, updated_at = now() where id = $1 and status = $2",
        &[text(id), text(from.as_str()), text(to.as_str()), optional(error_code)],
    )
    .map_err(failed)?;
    Ok(changed == 1)
}

/// Applies news. `None` when there is no such row.
pub fn apply_to_sms(key: Key<'_>, news: &SmsNews) -> Result<Option<Sms>, Failure> {
    for _ in 0..MAX_TRIES {
        let Some(mut found) = find_sms(key)? else {
            return Ok(None);
        };
        let after = found.state.after(news);
        if after == found.state {
            return Ok(Some(found));
        }
        let update = Statement {
            text: "update mas_crm.lead_sms_logs set status = $2, sms_sid = $3, detailed_code = $4, detailed_status = $5, \
                   error_code = case when $2 in ('submitted', 'sent', 'delivered') then null else error_code end, \
                   updated_at = now() where id = $1 and xmin::text = $6"
                .into(),
            parameters: vec![
                text(&found.id),
                text(after.status.as_str()),
                optional(after.sid.as_deref()),
                optional(after.detailed_code.as_deref()),
                optional(after.detailed_status.as_deref()),
                text(&found.version),
            ],
            expect_rows: Some(1),
        };
        let activity = match after.status {
            status if status == found.state.status => None,
            SmsStatus::Failed | SmsStatus::Delivered => Some("sms_ended"),
            SmsStatus::Submitted => Some("sms_sent"),
            _ => None,
        };
        let told = activity.map(|activity| {
            let new = json!({ "smsId": found.id, "status": after.status.as_str() });
            trail(&found.lead_id, activity, found.sent_by.as_deref(), &new)
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

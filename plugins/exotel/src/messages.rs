//! Text messages. The request makes the row and, with the same commit, the job that sends it: a
//! vendor that is away or busy costs time, not the message.

use patchbay_plugin::{Answer, Failure, Job, Request, Retry, Value, json};
use serde::Deserialize;

use crate::progress::{SmsNews, SmsStatus};
use crate::settings::Settings;
use crate::store::{self, Key, Sms, WantedSms};
use crate::vendor::{Retryable, Trouble, Vendor};
use crate::{access, calls, event, jobs};

#[derive(Deserialize)]
struct Input {
    path: Path,
    body: Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    lead_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    body: String,
    dlt_template_id: Option<String>,
}

pub fn accept(request: &Request) -> Result<Answer, Failure> {
    begin(request).map_err(calls::passing)
}

fn begin(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let settings = Settings::load()?;
    let sender = settings.sms_sender()?;
    let person = access::person(&request.caller)?;
    if input.body.body.trim().is_empty() {
        return Err(Failure::invalid_input("body.body", "must not be blank"));
    }
    if input
        .body
        .body
        .chars()
        .any(|c| c.is_control() && !"\n\r\t".contains(c))
    {
        return Err(Failure::invalid_input(
            "body.body",
            "must not have control characters",
        ));
    }
    let lead = access::lead(&person, &input.path.lead_id, &settings)?;
    let to = lead.number(&settings)?;
    let sms = store::begin_sms(&WantedSms {
        lead_id: &lead.id,
        by: person.id,
        request_key: &calls::request_key(&request.caller, "sms"),
        platform: &request.caller.platform,
        to: &to,
        sender,
        body: &input.body.body,
        dlt_template_id: input.body.dlt_template_id.as_deref(),
    })?;
    if sms.lead_id != lead.id || sms.body != input.body.body {
        return Err(Failure::invalid_input(
            "idempotency-key",
            "was used for another message",
        ));
    }
    Ok(Answer::json(&json!({
        "smsId": sms.id, "leadId": sms.lead_id, "status": sms.state.status.as_str(),
    })))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToSend {
    sms_id: String,
}

/// Sends the message of a row, once. The row is `sending` while the vendor is asked: whoever finds
/// it so, after the host was killed, does not send again.
pub fn send(job: &Job) -> Result<Value, Failure> {
    let data: ToSend = job.parse()?;
    if !event::is_uuid(&data.sms_id) {
        return Err(Failure::invalid_input("smsId", "is not the id of a row"));
    }
    let settings = Settings::load()?;
    let vendor = Vendor::new(&settings, job.deadline)?;
    let sender = settings.sms_sender()?;
    let sms = store::find_sms(Key::Row(&data.sms_id))?
        .ok_or_else(|| Failure::new("not-found", "there is no such message", Retry::Never))?;
    if !store::move_sms(&sms.id, SmsStatus::Queued, SmsStatus::Sending, None)? {
        // Its state has gone on, or an attempt before this one ended half-way.
        store::move_sms(
            &sms.id,
            SmsStatus::Sending,
            SmsStatus::Unknown,
            Some("interrupted"),
        )?;
        let now = store::find_sms(Key::Row(&sms.id))?.map(|sms| sms.state.status);
        return Ok(json!({ "status": now.map(SmsStatus::as_str) }));
    }
    match vendor.send_sms(&sms, sender) {
        Ok(news) => sent(&sms, &news),
        Err(Trouble::Refused(reason)) => {
            // Certainly not sent. Where trying again may help, also after an operator has mended
            // something, the row waits for that.
            let waits = reason.retry != Retryable::No || reason.code != "upstream";
            let to = if waits {
                SmsStatus::Queued
            } else {
                SmsStatus::Failed
            };
            store::move_sms(&sms.id, SmsStatus::Sending, to, Some(reason.code))?;
            Err(reason.failure())
        }
        Err(Trouble::Unknown(what)) => {
            patchbay_plugin::warn!(
                "it is unknown whether a message was sent, so it is not sent again: {what}"
            );
            store::move_sms(
                &sms.id,
                SmsStatus::Sending,
                SmsStatus::Unknown,
                Some("no-answer"),
            )?;
            Ok(json!({ "status": "unknown" }))
        }
    }
}

fn sent(sms: &Sms, news: &SmsNews) -> Result<Value, Failure> {
    let after = store::apply_to_sms(Key::Row(&sms.id), news)?;
    if news.sid.is_some() {
        jobs::apply_kept(event::Kind::Sms, &sms.reference())?;
    }
    let status = after.map_or(SmsStatus::Submitted, |after| after.state.status);
    Ok(json!({ "status": status.as_str() }))
}

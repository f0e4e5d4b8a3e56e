//! Jobs that callbacks and changes of rows become.

use patchbay_plugin::{Failure, Job, Retry, Value, audit, json};

use crate::event::{Event, Kind, is_reference};
use crate::progress::{CallNews, SmsNews};
use crate::settings::Settings;
use crate::store::{self, Call, Key};

/// A callback of the vendor. One for a call that nobody knows is kept.
pub fn event(job: &Job) -> Result<Value, Failure> {
    let event: Event = job.parse()?;
    let settings = Settings::load()?;
    if let Some(status) = apply(&event, &settings)? {
        return Ok(json!({ "status": status }));
    }
    // Kept first and looked for again: whoever writes the id into a row does it the other way
    // round, so one of the two sees the other.
    store::keep_event(kind(event.kind), &event.sid, &event.event, &job.data)?;
    if let Some(status) = apply(&event, &settings)? {
        store::forget_events(kind(event.kind), &event.sid)?;
        return Ok(json!({ "status": status }));
    }
    patchbay_plugin::warn!("a callback for a call or message that nobody knows is kept");
    Ok(json!({ "kept": true }))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Call => "call",
        Kind::Sms => "sms",
    }
}

/// The row's status afterwards; `None` when no row is this call's or message's.
fn apply(event: &Event, settings: &Settings) -> Result<Option<&'static str>, Failure> {
    let row = event.reference.as_deref().filter(|text| is_reference(text));
    match event.kind {
        Kind::Call => {
            let news = CallNews::of_event(event, &settings.utc_offset);
            let by_row = row.and_then(|row| row.strip_prefix("call-"));
            for key in keys(by_row, &event.sid) {
                if let Some(call) = store::apply_to_call(key, &news)?
                    && call.state.sid.as_deref() == Some(&event.sid)
                {
                    return Ok(Some(call.state.status.as_str()));
                }
            }
        }
        Kind::Sms => {
            let news = SmsNews::of_event(event);
            let by_row = row.and_then(|row| row.strip_prefix("sms-"));
            for key in keys(by_row, &event.sid) {
                if let Some(sms) = store::apply_to_sms(key, &news)?
                    && sms.state.sid.as_deref() == Some(&event.sid)
                {
                    return Ok(Some(sms.state.status.as_str()));
                }
            }
        }
    }
    Ok(None)
}

/// The vendor's id is surer than the row that a URL or `CustomField` names.
fn keys<'a>(row: Option<&'a str>, sid: &'a str) -> impl Iterator<Item = Key<'a>> {
    std::iter::once(Key::Sid(sid)).chain(row.map(Key::Row))
}

/// What callbacks said before the call was known. The row afterwards, if there was something.
pub fn apply_kept(of: Kind, sid: &str) -> Result<Option<Call>, Failure> {
    let kept = store::kept_events(kind(of), sid)?;
    if kept.is_empty() {
        return Ok(None);
    }
    let settings = Settings::load()?;
    let mut after = None;
    for data in &kept {
        let event: Event = patchbay_plugin::parse(data)?;
        match of {
            Kind::Call => {
                let news = CallNews::of_event(&event, &settings.utc_offset);
                after = store::apply_to_call(Key::Sid(sid), &news)?.or(after);
            }
            Kind::Sms => {
                store::apply_to_sms(Key::Sid(sid), &SmsNews::of_event(&event))?;
            }
        }
    }
    store::forget_events(kind(of), sid)?;
    Ok(after)
}

/// One entry of the trail. A transaction has added the job, so each change is told once.
pub fn trail(job: &Job) -> Result<Value, Failure> {
    audit::append("lead_activity_log", "entry", &job.data).map_err(|error| {
        let retry = if error.retryable {
            Retry::Backoff
        } else {
            Retry::Never
        };
        Failure::new(&error.code, error.message, retry)
    })?;
    Ok(json!({ "written": true }))
}

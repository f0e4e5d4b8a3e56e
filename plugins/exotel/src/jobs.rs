//! Jobs that callbacks and changes of rows become.

use patchbay_plugin::{Failure, Job, Retry, Value, audit, json};

use crate::event::{Event, Kind};
use crate::progress::{CallNews, SmsNews};
use crate::settings::Settings;
use crate::store::{self, Call, Key};

/// A callback of the vendor. One for a row that is not there is kept.
///
/// It changes only the row of its reference, which alone is proven. The vendor's id is what the body
/// says: a row that has none takes it, and a row that has another one stays as it is.
pub fn event(job: &Job) -> Result<Value, Failure> {
    let event: Event = job.parse()?;
    if event.row().is_none() {
        return Err(Failure::invalid_input(
            "reference",
            "is not a row of this kind",
        ));
    }
    let settings = Settings::load()?;
    if let Some(applied) = apply(&event, &settings)? {
        return Ok(applied.told());
    }
    // Kept first and looked for again: whoever writes the row does it the other way round, so one
    // of the two sees the other.
    store::keep_event(&event, &job.data)?;
    if let Some(applied) = apply(&event, &settings)? {
        store::forget_events(event.kind, &event.reference)?;
        return Ok(applied.told());
    }
    patchbay_plugin::warn!("a callback for a call or message that nobody knows is kept");
    Ok(json!({ "kept": true }))
}

enum Applied {
    /// The row's status afterwards.
    Status(&'static str),
    /// The vendor's id is not the row's.
    OtherId,
}

impl Applied {
    fn told(&self) -> Value {
        match self {
            Self::Status(status) => json!({ "status": status }),
            Self::OtherId => {
                patchbay_plugin::warn!(
                    "a callback whose id of the vendor is not that of its row changes nothing"
                );
                json!({ "ignored": true })
            }
        }
    }
}

/// `None` when the row is not there.
fn apply(event: &Event, settings: &Settings) -> Result<Option<Applied>, Failure> {
    let Some(row) = event.row().map(Key::Row) else {
        return Ok(None);
    };
    let (sid, status) = match event.kind {
        Kind::Call => {
            let news = CallNews::of_event(event, &settings.utc_offset);
            let Some(call) = store::apply_to_call(row, &news)? else {
                return Ok(None);
            };
            (call.state.sid, call.state.status.as_str())
        }
        Kind::Sms => {
            let Some(sms) = store::apply_to_sms(row, &SmsNews::of_event(event))? else {
                return Ok(None);
            };
            (sms.state.sid, sms.state.status.as_str())
        }
    };
    Ok(Some(if sid.as_ref() == Some(&event.sid) {
        Applied::Status(status)
    } else {
        Applied::OtherId
    }))
}

/// What callbacks said before the row was there. The row of a call afterwards, if there was something.
pub fn apply_kept(of: Kind, reference: &str) -> Result<Option<Call>, Failure> {
    let kept = store::kept_events(of, reference)?;
    if kept.is_empty() {
        return Ok(None);
    }
    let settings = Settings::load()?;
    let mut after = None;
    for data in &kept {
        let event: Event = patchbay_plugin::parse(data)?;
        let Some(row) = event.row().map(Key::Row) else {
            continue;
        };
        match event.kind {
            Kind::Call => {
                let news = CallNews::of_event(&event, &settings.utc_offset);
                after = store::apply_to_call(row, &news)?.or(after);
            }
            Kind::Sms => {
                store::apply_to_sms(row, &SmsNews::of_event(&event))?;
            }
        }
    }
    store::forget_events(of, reference)?;
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

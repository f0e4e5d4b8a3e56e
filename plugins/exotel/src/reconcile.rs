//! Asks the vendor for calls and messages whose end was not told: callbacks can be lost for good.

use patchbay_plugin::{Failure, Job, Value, json};

use crate::progress::{CallNews, CallStatus};
use crate::settings::Settings;
use crate::store::{self, Call, Key};
use crate::vendor::{Reason, Trouble, Vendor};
use crate::{calls, jobs, vendor_time};

/// What is left of the call's time when no further question is begun.
const RESERVE_MS: i64 = 20_000;

#[derive(Default)]
struct Outcome {
    asked: u32,
    settled: u32,
    open: u32,
}

pub fn run(job: &Job) -> Result<Value, Failure> {
    let settings = Settings::load()?;
    if settings.account().is_err() {
        return Ok(json!({ "enabled": false }));
    }
    let vendor = Vendor::new(&settings, job.deadline)?;
    let (waiting, dropped) = store::events_to_apply(settings.keep_unknown_days)?;
    for (kind, reference) in &waiting {
        jobs::apply_kept(*kind, reference)?;
    }
    let (minutes, hours) = (settings.reconcile_after_minutes, settings.give_up_hours);
    let until = i64::try_from(job.deadline).unwrap_or(i64::MAX) - RESERVE_MS;
    let in_time = || vendor_time::now() < until;
    let mut outcome = Outcome::default();
    for call in store::unsettled_calls(minutes, hours)? {
        if !in_time() {
            break;
        }
        let before = call.state.status;
        let asked = ask(&call, &vendor);
        // Also after an error: otherwise a call that the vendor stumbles over would come first for ever.
        store::checked("lead_call_logs", &call.id)?;
        match asked {
            Ok(after) => outcome.count(after > before, after.is_end()),
            Err(trouble) => tolerated(trouble, &mut outcome)?,
        }
    }
    for sms in store::unsettled_sms(minutes, hours)? {
        if !in_time() {
            break;
        }
        let Some(sid) = &sms.state.sid else { continue };
        let asked = vendor.sms(sid);
        store::checked("lead_sms_logs", &sms.id)?;
        match asked {
            Ok(news) => {
                let after = store::apply_to_sms(Key::Row(&sms.id), &news)?;
                let ended = after.is_some_and(|after| after.state.status > sms.state.status);
                outcome.count(ended, ended);
            }
            Err(trouble) => tolerated(trouble, &mut outcome)?,
        }
    }
    Ok(json!({
        "asked": outcome.asked, "settled": outcome.settled, "open": outcome.open,
        "callbacksApplied": waiting.len(), "callbacksDropped": dropped,
    }))
}

impl Outcome {
    fn count(&mut self, changed: bool, ended: bool) {
        self.asked += 1;
        self.settled += u32::from(changed && ended);
        self.open += u32::from(!ended);
    }
}

fn ask(call: &Call, vendor: &Vendor<'_>) -> Result<CallStatus, Trouble> {
    let stored = |failure: Failure| Trouble::Unknown(failure.message);
    let after = match &call.state.sid {
        Some(sid) => calls::settle(call, &vendor.call(sid)?).map_err(stored)?,
        None => {
            let found = calls::find(call, vendor)?;
            if found.state.sid.is_none() && found.state.status == CallStatus::Placing {
                // Of a host that was killed. Whether the vendor has it is not known.
                let news = CallNews {
                    status: Some(CallStatus::Unknown),
                    ..CallNews::default()
                };
                store::apply_to_call(Key::Row(&call.id), &news).map_err(stored)?;
            }
            found
        }
    };
    Ok(after.state.status)
}

/// What concerns one call does not stop the others; what concerns the account does, and is tried
/// again by the queue's backoff.
fn tolerated(trouble: Trouble, outcome: &mut Outcome) -> Result<(), Failure> {
    match &trouble {
        Trouble::Refused(Reason {
            code: "upstream", ..
        }) => {
            outcome.count(false, false);
            Ok(())
        }
        _ => Err(trouble.failure()),
    }
}

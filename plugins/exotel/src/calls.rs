//! Click-to-call.
//!
//! The vendor is asked within the request, since somebody waits at a telephone: a job that runs a
//! minute later would ring when nobody expects it. The vendor has no idempotency keys, so the row
//! with its unique key comes first. Whoever finds the row later, by a repeat of the request or after
//! the host was killed, does not place the call again; it looks whether the vendor has it.

use patchbay_plugin::operations::Caller;
use patchbay_plugin::{Answer, Failure, Request, Retry, json};
use serde::Deserialize;

use crate::access::{self, conflict};
use crate::event::Kind;
use crate::progress::{CallNews, CallStatus};
use crate::settings::Settings;
use crate::store::{self, Begun, Call, Key, Wanted};
use crate::vendor::{Trouble, Vendor};
use crate::{jobs, vendor_time};

/// A row that is older and still says `placing` is of a host that was killed.
const PLACING_MS: i64 = 35_000;
/// Between two look-ups: the vendor lists a call a moment after it has taken it.
const PAUSE_MS: u64 = 1_500;

#[derive(Deserialize)]
struct Input {
    path: Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    lead_id: String,
}

/// A key is worth something only for the account that sent it.
pub fn request_key(caller: &Caller, what: &str) -> String {
    let user = caller.user_id.as_deref().unwrap_or_default();
    format!("{what}:{user}:{}", caller.idempotency_key)
}

pub fn connect(request: &Request) -> Result<Answer, Failure> {
    begin(request).map_err(passing)
}

fn begin(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let settings = Settings::load()?;
    let vendor = Vendor::new(&settings, request.deadline)?;
    let account = settings.account()?;
    let person = access::person(&request.caller)?;
    let lead = access::lead(&person, &input.path.lead_id, &settings)?;
    let to = lead.number(&settings)?;
    let from = access::own_number(&person, &settings)?;
    let wanted = Wanted {
        lead_id: &lead.id,
        by: person.id,
        request_key: &request_key(&request.caller, "call"),
        platform: &request.caller.platform,
        from: &from,
        to: &to,
        caller_id: account.caller_id,
        guard_s: settings.repeat_guard_seconds,
    };
    match store::begin_call(&wanted)? {
        Begun::Busy => Err(conflict(
            "a call of yours has just begun; wait until it is over",
        )),
        Begun::Before(call) if call.lead_id != lead.id => Err(Failure::invalid_input(
            "idempotency-key",
            "was used for another lead",
        )),
        Begun::Before(call) => before(call, &vendor),
        Begun::Place(call) => place(&call, &vendor),
    }
}

/// The host answers a request that comes again with the answer that it has kept, and it keeps failures
/// that are final. So only those are final that are about the request itself: what ends by itself or can
/// be mended (a setting, credentials, a telephone number, the vendor) is asked anew.
pub fn passing(mut failure: Failure) -> Failure {
    let is_of_request =
        ["invalid-input", "forbidden", "not-found"].contains(&failure.code.as_str());
    if matches!(failure.retry, Retry::Never) && !is_of_request {
        failure.retry = Retry::Backoff;
    }
    failure
}

/// The same request again.
fn before(call: Call, vendor: &Vendor<'_>) -> Result<Answer, Failure> {
    let age = vendor_time::now() - call.placed_at;
    match call.state.status {
        CallStatus::Placing if age < PLACING_MS => {
            Err(conflict("the call is being placed; ask again in a moment"))
        }
        CallStatus::Placing | CallStatus::Unknown => match find(&call, vendor) {
            // Of a host that was killed, and the vendor's list does not have it.
            Ok(found) if found.state.status == CallStatus::Placing => answer(&unknown(&found)?),
            Ok(found) => answer(&found),
            Err(trouble) => {
                patchbay_plugin::warn!(
                    "a call could not be looked up: {}",
                    trouble.failure().message
                );
                answer(&unknown(&call)?)
            }
        },
        _ => answer(&call),
    }
}

fn place(call: &Call, vendor: &Vendor<'_>) -> Result<Answer, Failure> {
    match vendor.connect(call) {
        Ok(news) => match settle(call, &news) {
            Ok(settled) => answer(&settled),
            Err(failure) => {
                // It rings, whatever became of the row: the reconcile job finds it.
                patchbay_plugin::warn!(
                    "a call was placed, but its row was not written: {}",
                    failure.message
                );
                answer(&as_unknown(call))
            }
        },
        Err(Trouble::Refused(reason)) => {
            if let Err(failure) = store::refuse_call(call, reason.code) {
                patchbay_plugin::warn!(
                    "a call was refused, but its row was not written: {}",
                    failure.message
                );
            }
            // Nothing was placed, so the same request may place it once the reason is mended.
            Err(reason.failure())
        }
        Err(Trouble::Unknown(what)) => {
            patchbay_plugin::warn!(
                "it is unknown whether a call was placed, so it is looked up: {what}"
            );
            let call = unknown(call).unwrap_or_else(|_| as_unknown(call));
            for pause in [0, PAUSE_MS] {
                std::thread::sleep(std::time::Duration::from_millis(pause));
                match find(&call, vendor) {
                    Ok(found) if found.state.sid.is_some() => return answer(&found),
                    Ok(_) => {}
                    Err(trouble) => {
                        let message = trouble.failure().message;
                        patchbay_plugin::warn!("a call could not be looked up: {message}");
                    }
                }
            }
            answer(&call)
        }
    }
}

fn as_unknown(call: &Call) -> Call {
    let mut call = call.clone();
    call.state.status = CallStatus::Unknown;
    call
}

fn unknown(call: &Call) -> Result<Call, Failure> {
    let news = CallNews {
        status: Some(CallStatus::Unknown),
        ..CallNews::default()
    };
    let after = store::apply_to_call(Key::Row(&call.id), &news)?;
    Ok(after.unwrap_or_else(|| call.clone()))
}

/// The row with what the vendor's list has of it.
pub fn find(call: &Call, vendor: &Vendor<'_>) -> Result<Call, Trouble> {
    let Some(news) = vendor.look_up(call, store::is_known)? else {
        return Ok(call.clone());
    };
    settle(call, &news).map_err(|failure| Trouble::Unknown(failure.message))
}

/// The vendor has the call: its id goes into the row, and what callbacks said before.
pub fn settle(call: &Call, news: &CallNews) -> Result<Call, Failure> {
    let mut settled = store::apply_to_call(Key::Row(&call.id), news)?;
    if news.sid.is_some()
        && let Some(after) = jobs::apply_kept(Kind::Call, &call.reference())?
    {
        settled = Some(after);
    }
    Ok(settled.unwrap_or_else(|| call.clone()))
}

fn answer(call: &Call) -> Result<Answer, Failure> {
    let mut data =
        json!({ "callId": call.id, "leadId": call.lead_id, "status": call.state.status.as_str() });
    if call.state.status == CallStatus::Unknown {
        data["message"] = json!(
            "It is not known whether the call was placed. It is being looked for; it is not placed again"
        );
        return Ok(Answer::json(&data).with_status(202));
    }
    Ok(Answer::json(&data))
}

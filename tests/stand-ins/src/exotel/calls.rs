//! Calls: placed, told in detail, and listed.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::form::{Pairs, at_most, callback_of, required};
use super::state::{self, Call, Shared, national};

const MAX_TIME_LIMIT: u32 = 14_400;
const MAX_TIME_OUT: u32 = 60;
const MAX_CUSTOM_FIELD: usize = 128;
const MAX_PAGE: usize = 100;

pub(super) fn connect(shared: &Arc<Shared>, form: Pairs) -> Result<Value, String> {
    let from = required(&form, "From")?;
    let caller_id = required(&form, "CallerId")?;
    let is_flow = form.contains_key("Url");
    let to = match is_flow {
        true => caller_id,
        false => required(&form, "To")?,
    };
    let known = shared.lock().account.exophones.clone();
    if !known.iter().any(|one| national(one) == national(caller_id)) {
        return Err("Bad or missing parameters: CallerId is not an ExoPhone of the account".into());
    }
    at_most(&form, "TimeLimit", MAX_TIME_LIMIT)?;
    at_most(&form, "TimeOut", MAX_TIME_OUT)?;
    let custom_field = form.get("CustomField").cloned();
    if custom_field
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_CUSTOM_FIELD)
    {
        return Err("Bad or missing parameters: CustomField".into());
    }
    let mut callback = callback_of(&form);
    if let Some(callback) = callback.as_mut().filter(|_| is_flow) {
        // Events need two numbers.
        callback.events.clear();
    }
    let call = Call {
        sid: state::new_sid(),
        from: national(from),
        to: national(to),
        caller_id: caller_id.to_owned(),
        status: "in-progress".into(),
        custom_field,
        recorded: form.get("Record").is_some_and(|record| record == "true"),
        created: Utc::now(),
        answered: None,
        ended: None,
        conversation_s: 0,
        callback,
        form,
    };
    let value = json!({ "Call": call_value(shared, &call, false) });
    shared.add_call(call);
    Ok(value)
}

/// Whether the vendor has computed what is known only some time after the end.
fn is_settled(call: &Call, after_ms: u64) -> bool {
    call.ended.is_some_and(|ended| {
        let after = TimeDelta::milliseconds(i64::try_from(after_ms).unwrap_or(i64::MAX));
        Utc::now() - ended >= after
    })
}

fn call_value(shared: &Shared, call: &Call, details: bool) -> Value {
    let recording = shared.recording_url(call);
    let state = shared.lock();
    let settled = is_settled(call, state.behaviour.settle_after_ms);
    let when_settled = |value: Value| if settled { value } else { Value::Null };
    let updated = call.ended.or(call.answered).unwrap_or(call.created);
    let mut value = json!({
        "Sid": call.sid, "ParentCallSid": null, "DateCreated": state.written(call.created), "DateUpdated": state.written(updated),
        "AccountSid": state.account.sid, "To": call.to, "From": call.from, "PhoneNumberSid": call.caller_id, "Status": call.status,
        "StartTime": state.written(call.created),
        "EndTime": when_settled(call.ended.map_or(Value::Null, |ended| json!(state.written(ended)))),
        // Text here, and null in the answer to the request that placed the call.
        "Duration": when_settled(json!((call.conversation_s + 15).to_string())),
        "Price": when_settled(json!("1.500")),
        "Direction": "outbound-api", "AnsweredBy": call.answered.map(|_| "human"), "ForwardedFrom": null, "CallerName": null,
        "Uri": format!("/v1/Accounts/{}/Calls.json/{}", state.account.sid, call.sid),
        "RecordingUrl": recording,
    });
    if details {
        let second = match call.answered {
            Some(_) => "completed",
            None => call.status.as_str(),
        };
        value["Details"] = json!({
            "ConversationDuration": call.conversation_s, "Leg1Status": "completed", "Leg2Status": second,
            "Legs": [
                { "Leg": { "Id": 1, "OnCallDuration": call.conversation_s + 15 } },
                { "Leg": { "Id": 2, "OnCallDuration": call.conversation_s } },
            ],
        });
    }
    value
}

pub(super) fn call(shared: &Shared, sid: &str, query: &Pairs) -> Option<Value> {
    let call = {
        let state = shared.lock();
        state.calls.iter().find(|call| call.sid == sid).cloned()?
    };
    let details = query.get("details").is_some_and(|text| text == "true");
    Some(json!({ "Call": call_value(shared, &call, details) }))
}

/// `gte:…;lte:…`, either part alone, or an exact value.
fn range(text: &str) -> (Option<&str>, Option<&str>) {
    let part = |name: &str| {
        text.split(';')
            .find_map(|part| part.trim().strip_prefix(name))
    };
    match (part("gte:"), part("lte:")) {
        (None, None) => (Some(text), Some(text)),
        both => both,
    }
}

/// The list with its filters, the newest first.
pub(super) fn calls(shared: &Shared, account: &str, query: &Pairs) -> Result<Value, String> {
    let get = |name: &str| query.get(name).map(String::as_str);
    let size = match get("PageSize").map(str::parse::<usize>) {
        None => 50,
        Some(Ok(size)) if (1..=MAX_PAGE).contains(&size) => size,
        Some(_) => return Err("Bad or missing parameters: PageSize".into()),
    };
    let state = shared.lock();
    let mut from: Option<DateTime<Utc>> = None;
    let mut to: Option<DateTime<Utc>> = None;
    if let Some(text) = get("DateCreated") {
        let (low, high) = range(text);
        let time = |text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => state
                .read(text)
                .map(Some)
                .ok_or("Bad or missing parameters: DateCreated"),
        };
        (from, to) = (time(low)?, time(high)?);
        if let (Some(from), Some(to)) = (from, to)
            && to - from > TimeDelta::days(31)
        {
            return Err("Bad or missing parameters: at most one month".into());
        }
    }
    let number = |name: &str, value: f64| {
        let Some(text) = get(name) else { return true };
        let (low, high) = range(text);
        let fits = |bound: Option<&str>, holds: fn(f64, f64) -> bool| {
            bound.is_none_or(|bound| bound.parse().is_ok_and(|bound| holds(value, bound)))
        };
        fits(low, |value, bound| value >= bound) && fits(high, |value, bound| value <= bound)
    };
    let sids: Option<Vec<&str>> = get("Sid").map(|text| text.split(',').collect());
    if sids.as_ref().is_some_and(|sids| sids.len() > MAX_PAGE) {
        return Err("Bad or missing parameters: Sid".into());
    }
    // Times have whole seconds.
    let created = |call: &Call| {
        state
            .read(&state.written(call.created))
            .unwrap_or(call.created)
    };
    let mut found: Vec<Call> = state
        .calls
        .iter()
        .filter(|call| {
            sids.as_ref()
                .is_none_or(|sids| sids.contains(&call.sid.as_str()))
                && from.is_none_or(|from| created(call) >= from)
                && to.is_none_or(|to| created(call) <= to)
                && get("To").is_none_or(|to| call.to == to)
                && get("From").is_none_or(|from| call.from == from)
                && get("PhoneNumber").is_none_or(|number| call.caller_id == number)
                && get("Status")
                    .is_none_or(|status| status.split(',').any(|one| one == call.status))
                && get("Direction").is_none_or(|direction| direction == "outbound-api")
                && number("Duration", f64::from(call.conversation_s + 15))
                && number("Price", 1.5)
        })
        .cloned()
        .collect();
    drop(state);
    if get("SortBy") != Some("DateCreated:asc") {
        found.reverse();
    }
    let total = found.len();
    let place =
        |name: &str| get(name).and_then(|sid| found.iter().position(|call| call.sid == sid));
    let start = match (place("After"), place("Before")) {
        (Some(after), _) => after + 1,
        (None, Some(before)) => before.saturating_sub(size),
        (None, None) => 0,
    };
    let page: Vec<Call> = found.iter().skip(start).take(size).cloned().collect();
    let uri = |cursor: Option<(&str, &str)>| {
        let kept = query
            .iter()
            .filter(|(name, _)| !["Before", "After"].contains(&name.as_str()));
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(kept);
        if let Some((name, sid)) = cursor {
            text.append_pair(name, sid);
        }
        format!("/v1/Accounts/{account}/Calls.json?{}", text.finish())
    };
    let next = page
        .last()
        .filter(|_| start + page.len() < total)
        .map(|last| uri(Some(("After", &last.sid))));
    let previous = page
        .first()
        .filter(|_| start > 0)
        .map(|first| uri(Some(("Before", &first.sid))));
    let listed: Vec<Value> = page
        .iter()
        .map(|call| call_value(shared, call, false))
        .collect();
    Ok(json!({
        "Metadata": { "Total": total, "PageSize": size, "FirstPageUri": uri(None), "PrevPageUri": previous, "NextPageUri": next },
        "Calls": listed,
    }))
}

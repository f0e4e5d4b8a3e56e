//! The vendor's API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::answer::{Format, answer, refused};
use super::state::{
    self, Call, Callback, Encoding, Fault, Message, Misdeed, Operation, Shared, national,
};
use crate::breakable::Breaker;

const MAX_TIME_LIMIT: u32 = 14_400;
const MAX_TIME_OUT: u32 = 60;
const MAX_CUSTOM_FIELD: usize = 128;
const MAX_BODY: usize = 2_000;
const MAX_PAGE: usize = 100;

type Pairs = BTreeMap<String, String>;

/// What a path asks for.
struct Asked {
    operation: Operation,
    format: Format,
    account: String,
    /// Id of a call or message, or a number.
    what: String,
}

fn asked(method: &Method, path: &str) -> Option<Asked> {
    let (path, format) = match path.strip_suffix(".json") {
        Some(path) => (path, Format::Json),
        None => (path, Format::Xml),
    };
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let ["v1", "Accounts", account, rest @ ..] = segments.as_slice() else {
        return None;
    };
    let is_post = method == Method::POST;
    let (operation, what) = match rest {
        [] if !is_post => (Operation::Account, ""),
        ["Balance"] if !is_post => (Operation::Balance, ""),
        ["Calls"] if !is_post => (Operation::Calls, ""),
        ["Calls", "connect"] if is_post => (Operation::Connect, ""),
        ["Calls", sid] if !is_post => (Operation::Call, *sid),
        ["Sms", "send"] if is_post => (Operation::SendSms, ""),
        // Documented as `SMS`, and asked for as `Sms` by clients.
        ["SMS" | "Sms", "Messages", sid] if !is_post => (Operation::Sms, *sid),
        ["Numbers", number] if !is_post => (Operation::Number, *number),
        _ => (Operation::Other, ""),
    };
    Some(Asked {
        operation,
        format,
        account: (*account).to_owned(),
        what: what.to_owned(),
    })
}

pub(super) async fn vendor(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(asked) = asked(&method, uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let query = pairs(uri.query().unwrap_or_default().as_bytes());
    let fault = fault(&shared, asked.operation);
    if let Some(fault) = &fault
        && !fault.done
        && let Some(response) = misdeed(fault, asked.format, &breaker).await
    {
        return response;
    }
    let response = answered(&shared, &asked, &query, &headers, &body);
    match &fault {
        Some(fault) if fault.done => match misdeed(fault, asked.format, &breaker).await {
            Some(misdeed) => misdeed,
            None => response,
        },
        _ => response,
    }
}

/// Counts the request, and takes the fault that is meant for it.
fn fault(shared: &Shared, operation: Operation) -> Option<Fault> {
    let mut state = shared.lock();
    *state.asked.entry(operation).or_default() += 1;
    let place = state
        .faults
        .iter()
        .position(|fault| fault.times > 0 && fault.on.is_none_or(|on| on == operation))?;
    let taken = state.faults[place].clone();
    state.faults[place].times -= 1;
    if state.faults[place].times == 0 {
        state.faults.remove(place);
    }
    Some(taken)
}

/// The answer instead; `None` after a delay.
async fn misdeed(fault: &Fault, format: Format, breaker: &Breaker) -> Option<Response> {
    match fault.misdeed {
        Misdeed::Slow(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            None
        }
        Misdeed::Reset => {
            breaker.break_off();
            Some(StatusCode::OK.into_response())
        }
        Misdeed::Status(status) => Some(refused(format, status, "As the stand-in was told")),
        Misdeed::Html(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
            Some((status, [(header::CONTENT_TYPE, "text/html")], page).into_response())
        }
    }
}

fn is_authentic(shared: &Shared, headers: &HeaderMap) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let account = &shared.lock().account;
    given == Some(format!("{}:{}", account.key, account.token).into_bytes())
}

fn answered(
    shared: &Arc<Shared>,
    asked: &Asked,
    query: &Pairs,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let refused = |status, message: &str| refused(asked.format, status, message);
    let wrong = shared.lock().behaviour.wrong_credentials;
    if !is_authentic(shared, headers) {
        return refused(wrong, "Authentication failed");
    }
    if asked.account != shared.lock().account.sid {
        return refused(404, "The requested account was not found");
    }
    if is_too_much(shared) {
        return refused(429, "Too many requests");
    }
    let form = || -> Result<Pairs, Response> {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        if !kind.starts_with("application/x-www-form-urlencoded") {
            return Err(refused(400, "Bad or missing parameters"));
        }
        Ok(pairs(body))
    };
    let value =
        match asked.operation {
            Operation::Account => Ok(account(shared)),
            Operation::Balance => Ok(balance(shared)),
            Operation::Number => Ok(number(&asked.what)),
            Operation::Connect => form()
                .and_then(|form| connect(shared, form).map_err(|message| refused(400, &message))),
            Operation::Call => call(shared, &asked.what, query)
                .ok_or_else(|| refused(404, "The requested call was not found")),
            Operation::Calls => {
                calls(shared, &asked.account, query).map_err(|message| refused(400, &message))
            }
            Operation::SendSms => form()
                .and_then(|form| send_sms(shared, form).map_err(|message| refused(400, &message))),
            Operation::Sms => {
                let state = shared.lock();
                let found = state.messages.iter().find(|one| one.sid == asked.what);
                found
                    .map(|one| json!({ "SMSMessage": message(&state, one) }))
                    .ok_or_else(|| refused(404, "The requested message was not found"))
            }
            Operation::Recording | Operation::Other => {
                Err(refused(404, "The requested resource was not found"))
            }
        };
    match value {
        Ok(value) => answer(asked.format, 200, &value),
        Err(response) => response,
    }
}

fn is_too_much(shared: &Shared) -> bool {
    let mut state = shared.lock();
    let now = Utc::now();
    state.recent.retain(|at| now - *at < TimeDelta::minutes(1));
    state.recent.push(now);
    let limit = state.behaviour.per_minute;
    limit.is_some_and(|limit| state.recent.len() > limit)
}

fn pairs(encoded: &[u8]) -> Pairs {
    url::form_urlencoded::parse(encoded).into_owned().collect()
}

/// The vendor repeats the token here.
fn account(shared: &Shared) -> Value {
    let state = shared.lock();
    let account = &state.account;
    json!({ "Account": {
        "Sid": account.sid, "FriendlyName": "Stand-in", "Type": "Full", "Status": "active", "AuthToken": account.token,
        "Uri": format!("/v1/Accounts/{}", account.sid), "DateCreated": "2020-01-01 10:00:00",
    } })
}

fn balance(shared: &Shared) -> Value {
    let state = shared.lock();
    json!({ "Account": { "AccountSid": state.account.sid, "BalanceData": {
        "Balance": "1543.75", "Currency": "INR", "PricingPlan": "Stand-in", "DateUpdated": state.written(Utc::now()),
    } } })
}

fn number(number: &str) -> Value {
    json!({ "Numbers": {
        "PhoneNumber": number, "Circle": "KA", "CircleName": "Karnataka", "Type": "Mobile", "Operator": "XX",
        "OperatorName": "Stand-in", "DND": "No",
    } })
}

fn required<'a>(form: &'a Pairs, name: &str) -> Result<&'a str, String> {
    let value = form.get(name).map(String::as_str).unwrap_or_default();
    if value.is_empty() {
        return Err(format!("Bad or missing parameters: {name}"));
    }
    Ok(value)
}

fn at_most(form: &Pairs, name: &str, limit: u32) -> Result<(), String> {
    match form.get(name).map(|text| text.parse::<u32>()) {
        None => Ok(()),
        Some(Ok(number)) if number <= limit => Ok(()),
        Some(_) => Err(format!("Bad or missing parameters: {name}")),
    }
}

fn callback_of(form: &Pairs) -> Option<Callback> {
    let url = form.get("StatusCallback").filter(|url| !url.is_empty())?;
    let mut events = Vec::new();
    for (name, value) in form {
        if name == "StatusCallbackEvents" || name.starts_with("StatusCallbackEvents[") {
            events.extend(value.split(',').map(|event| event.trim().to_owned()));
        }
    }
    let encoding = match form.get("StatusCallbackContentType").map(String::as_str) {
        Some("application/json") => Encoding::Json,
        _ => Encoding::Multipart,
    };
    Some(Callback {
        url: url.clone(),
        events,
        encoding,
    })
}

fn connect(shared: &Arc<Shared>, form: Pairs) -> Result<Value, String> {
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

fn call(shared: &Shared, sid: &str, query: &Pairs) -> Option<Value> {
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
fn calls(shared: &Shared, account: &str, query: &Pairs) -> Result<Value, String> {
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

fn send_sms(shared: &Arc<Shared>, form: Pairs) -> Result<Value, String> {
    let (from, to, body) = (
        required(&form, "From")?,
        required(&form, "To")?,
        required(&form, "Body")?,
    );
    if body.chars().count() > MAX_BODY {
        return Err("Bad or missing parameters: Body".into());
    }
    let senders = shared.lock().behaviour.senders.clone();
    if !senders.is_empty() && !senders.iter().any(|one| one == from) {
        return Err("Bad or missing parameters: From is not a sender of the account".into());
    }
    let new = Message {
        sid: state::new_sid(),
        from: from.to_owned(),
        to: national(to),
        body: body.to_owned(),
        status: "queued".into(),
        detailed: None,
        created: Utc::now(),
        callback: callback_of(&form),
        form,
    };
    let value = json!({ "SMSMessage": message(&shared.lock(), &new) });
    shared.add_message(new);
    Ok(value)
}

fn message(state: &state::State, message: &Message) -> Value {
    let sent = message.detailed.is_some();
    let mut value = json!({
        "Sid": message.sid, "AccountSid": state.account.sid, "From": message.from, "To": message.to, "Body": message.body,
        "Status": message.status, "DateCreated": state.written(message.created), "DateUpdated": state.written(message.created),
        "DateSent": if sent { json!(state.written(message.created)) } else { json!("1970-01-01 05:30:00") },
        "Price": null, "Uri": format!("/v1/Accounts/{}/SMS/Messages/{}.json", state.account.sid, message.sid),
        "Direction": null, "ApiVersion": null, "BodyIndex": null,
    });
    if let Some((code, detail)) = &message.detailed {
        value["DetailedStatusCode"] = json!(code);
        value["DetailedStatus"] = json!(detail);
    }
    value
}

/// The sound of a call, for whoever has the account's credentials; a range, if one is asked for.
pub(super) async fn recording(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    Path((account, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(fault) = fault(&shared, Operation::Recording)
        && let Some(response) = misdeed(&fault, Format::Xml, &breaker).await
    {
        return response;
    }
    if !is_authentic(&shared, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (size, is_there) = {
        let state = shared.lock();
        let sid = file.trim_end_matches(".mp3");
        let is_there = account == state.account.sid
            && state
                .calls
                .iter()
                .any(|call| call.sid == sid && call.recorded && call.answered.is_some());
        (state.behaviour.recording_bytes, is_there)
    };
    if !is_there {
        return StatusCode::NOT_FOUND.into_response();
    }
    let sound = sound(size);
    let kind = (header::CONTENT_TYPE, "audio/mpeg".to_owned());
    let ranges = (header::ACCEPT_RANGES, "bytes".to_owned());
    let asked = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let Some(asked) = asked else {
        return (StatusCode::OK, [kind, ranges], sound).into_response();
    };
    let bounds = asked.split_once('-').and_then(|(first, last)| {
        let last_byte = size.checked_sub(1)?;
        match (first.parse::<usize>().ok(), last.parse::<usize>().ok()) {
            (Some(first), last) => Some((first, last.unwrap_or(last_byte).min(last_byte))),
            (None, Some(suffix)) => Some((size.saturating_sub(suffix), last_byte)),
            (None, None) => None,
        }
    });
    match bounds {
        Some((first, last)) if first <= last => {
            let content = format!("bytes {first}-{last}/{size}");
            let part = sound[first..=last].to_vec();
            let headers = [kind, ranges, (header::CONTENT_RANGE, content)];
            (StatusCode::PARTIAL_CONTENT, headers, part).into_response()
        }
        _ => {
            let content = (header::CONTENT_RANGE, format!("bytes */{size}"));
            (StatusCode::RANGE_NOT_SATISFIABLE, [content]).into_response()
        }
    }
}

/// Begins as an MP3 file; what follows differs at every place, so that a wrong range is seen.
fn sound(size: usize) -> Vec<u8> {
    let mut sound: Vec<u8> = (0..size)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let head = b"ID3\x04";
    let shown = head.len().min(size);
    sound[..shown].copy_from_slice(&head[..shown]);
    sound
}

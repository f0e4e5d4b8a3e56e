//! The vendor's API.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::answer::{Format, answer, refused};
use super::calls::{call, calls, connect};
use super::form::{Pairs, callback_of, pairs, required};
use super::state::{self, Fault, Message, Misdeed, Operation, Shared, national};
use crate::breakable::Breaker;

const MAX_BODY: usize = 2_000;

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
pub(super) fn fault(shared: &Shared, operation: Operation) -> Option<Fault> {
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
pub(super) async fn misdeed(fault: &Fault, format: Format, breaker: &Breaker) -> Option<Response> {
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

pub(super) fn is_authentic(shared: &Shared, headers: &HeaderMap) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
        .and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let account = &shared.lock().account;
    given == Some(format!("{}:{}", account.key, account.token).into_bytes())
}

#[expect(
    clippy::result_large_err,
    reason = "a stand-in makes one answer at a time"
)]
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

//! Callbacks: what they say, and their three encodings.

use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;
use serde_json::{Map, Value, json};

use super::state::{Call, Delivery, Encoding, Message, Shared};

pub(super) struct Event {
    sid: String,
    name: String,
    url: String,
    encoding: Encoding,
    fields: Map<String, Value>,
}

/// `None`: nobody asked for it.
pub(super) fn of_call(shared: &Shared, call: &Call, event: &str) -> Option<Event> {
    let callback = call.callback.as_ref()?;
    let recording = shared.recording_url(call);
    let state = shared.lock();
    let written = |time: Option<chrono::DateTime<Utc>>| {
        time.map_or(Value::Null, |time| json!(state.written(time)))
    };
    let ends = event == "terminal";
    let status = if ends {
        call.status.as_str()
    } else {
        "in-progress"
    };
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    add("CallSid", json!(call.sid));
    add("DateUpdated", json!(state.written(Utc::now())));
    add("Status", json!(status));
    if ends {
        add("RecordingUrl", json!(recording));
    }
    let subscribed = callback.events.iter().any(|one| one == event);
    if callback.events.is_empty() {
        if !ends {
            return None;
        }
    } else if subscribed {
        add("EventType", json!(event));
        add("DateCreated", json!(state.written(call.created)));
        add("To", json!(call.to));
        add("From", json!(call.from));
        add("PhoneNumberSid", json!(call.caller_id));
        add("StartTime", json!(state.written(call.created)));
        add("Direction", json!("outbound-api"));
        if ends {
            add("EndTime", written(call.ended));
            add("ConversationDuration", json!(call.conversation_s));
            // The vendor sends it back at the end only.
            add("CustomField", json!(call.custom_field));
        }
        let leg = |seconds: u32, answered: bool| {
            let status = match (ends, answered) {
                (false, _) => "in-progress",
                (true, true) => "completed",
                (true, false) => call.status.as_str(),
            };
            let by = if answered { "Human" } else { "NA" };
            json!({ "OnCallDuration": seconds, "Status": status, "AnsweredBy": by })
        };
        let talked = call.answered.is_some();
        let first = if ends { call.conversation_s + 15 } else { 0 };
        add(
            "Legs",
            json!([leg(first, true), leg(call.conversation_s, talked)]),
        );
    } else {
        return None;
    }
    drop(state);
    Some(Event {
        sid: call.sid.clone(),
        name: event.to_owned(),
        url: callback.url.clone(),
        encoding: callback.encoding,
        fields,
    })
}

pub(super) fn of_message(shared: &Shared, message: &Message) -> Option<Event> {
    let callback = message.callback.as_ref()?;
    let (code, detail) = message.detailed.clone()?;
    let fields = json!({
        "SmsSid": message.sid, "To": message.to, "From": message.from, "Status": message.status,
        "DetailedStatusCode": code, "DetailedStatus": detail,
        "DateUpdated": shared.lock().written(Utc::now()),
    });
    let Value::Object(fields) = fields else {
        return None;
    };
    Some(Event {
        sid: message.sid.clone(),
        name: message.status.clone(),
        url: callback.url.clone(),
        encoding: callback.encoding,
        fields,
    })
}

/// Sends all copies; each is tried again as often as the vendor does.
pub(super) async fn deliver(shared: &Shared, event: Option<Event>) {
    let behaviour = shared.lock().behaviour.clone();
    let Some(event) = event.filter(|_| behaviour.callbacks) else {
        return;
    };
    let (kind, body) = encoded(behaviour.encoding.unwrap_or(event.encoding), &event.fields);
    let one = async || {
        for attempt in 0..=behaviour.callback_retries {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(behaviour.callback_retry_ms)).await;
            }
            let request = shared
                .client
                .post(&event.url)
                .timeout(Duration::from_millis(behaviour.callback_timeout_ms))
                .header("content-type", &kind)
                .body(body.clone());
            let status = match request.send().await {
                Ok(response) => Some(response.status().as_u16()),
                Err(_) => None,
            };
            shared.lock().deliveries.push(Delivery {
                sid: event.sid.clone(),
                event: event.name.clone(),
                status,
            });
            if status == Some(200) {
                break;
            }
        }
    };
    join_all((0..behaviour.copies).map(|_| one())).await;
}

/// Content type and body.
fn encoded(encoding: Encoding, fields: &Map<String, Value>) -> (String, Vec<u8>) {
    match encoding {
        Encoding::Json => (
            "application/json".into(),
            Value::Object(fields.clone()).to_string().into_bytes(),
        ),
        Encoding::Urlencoded => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(flat(fields));
            (
                "application/x-www-form-urlencoded".into(),
                form.finish().into_bytes(),
            )
        }
        Encoding::Multipart => {
            let boundary = format!("------------------------{}", super::state::new_sid());
            let mut body = String::new();
            for (name, value) in flat(fields) {
                body += &format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                );
            }
            body += &format!("--{boundary}--\r\n");
            (
                format!("multipart/form-data; boundary={boundary}"),
                body.into_bytes(),
            )
        }
    }
}

/// `Legs[0][Status]` and the like.
fn flat(fields: &Map<String, Value>) -> Vec<(String, String)> {
    fn add(name: String, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Object(members) => {
                for (member, value) in members {
                    add(format!("{name}[{member}]"), value, out);
                }
            }
            Value::Array(list) => {
                for (place, value) in list.iter().enumerate() {
                    add(format!("{name}[{place}]"), value, out);
                }
            }
            Value::Null => out.push((name, String::new())),
            Value::String(text) => out.push((name, text.clone())),
            other => out.push((name, other.to_string())),
        }
    }
    let mut out = Vec::new();
    for (name, value) in fields {
        add(name.clone(), value, &mut out);
    }
    out
}

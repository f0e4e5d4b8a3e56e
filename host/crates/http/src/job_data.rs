//! Keeps data, results and logs of jobs from whoever may not see them. The table of operations says
//! which answers hold some; here is the only place that takes it out.

use patchbay_api::operation::{JobData, Operation};
use patchbay_model::redaction::REDACTED;
use serde_json::Value;

/// Before the path of a value of job data, in filters.
const VALUE: &str = "data.";
/// Compares messages of failures, which may quote data.
const TEXT: &str = "text";
/// Compares ids of vendors' events, which may be telephone numbers or addresses.
const EVENT: &str = "eventId";
/// Compares a value of what vendors have sent.
const SENT: &str = "dataValue";
/// Parameters that ask for data when they are true.
const ASKING: [&str; 2] = ["reveal", "bodies"];

/// What a request asks of data; `None`: nothing.
pub(crate) fn asked_by(operation: &Operation, query: &str) -> Option<String> {
    match operation.data {
        JobData::None => None,
        JobData::Needed => Some("this request shows or replaces it".to_owned()),
        JobData::NeededUnless(parameter, values) => {
            let pairs = url::form_urlencoded::parse(query.as_bytes());
            let mut given = pairs.filter(|(name, _)| name == parameter);
            let is_plain = given
                .next()
                .is_some_and(|(_, value)| values.iter().any(|known| *known == value));
            // Nobody should have to know which of two values counts.
            let is_one = given.next().is_none();
            let names = values.join(" or ");
            (!is_plain || !is_one)
                .then(|| format!("this request shows some unless {parameter} is {names}"))
        }
        JobData::Shown(_) => {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find_map(|(name, value)| {
                match &*name {
                asking if ASKING.contains(&asking) && value != "false" => {
                    Some(format!("{asking}={value} asks for it"))
                }
                path if path.starts_with(VALUE) => Some(format!(
                    "{path} compares it: the answer would tell what it is"
                )),
                TEXT => Some(
                    "text compares messages of failures, which may quote it: filter by code instead"
                        .to_owned(),
                ),
                EVENT => Some(
                    "eventId compares ids of vendors' events, which may name a person".to_owned(),
                ),
                SENT => Some(
                    "dataValue compares values of requests: the answer would tell what they are"
                        .to_owned(),
                ),
                _ => None,
            }
            })
        }
    }
}

/// Hides these members of an answer at any depth, and the values of filters.
pub(crate) fn hide(answer: &mut Value, members: &[&str]) {
    match answer {
        Value::Object(object) => {
            for (name, value) in object {
                match members.contains(&name.as_str()) || name.starts_with(VALUE) {
                    true => blank(value),
                    false => hide(value, members),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, members)),
        _ => {}
    }
}

/// Keeps what is absent absent, and how many there are: clients read the answer as before.
fn blank(value: &mut Value) {
    match value {
        Value::Null => {}
        Value::Array(items) => items.iter_mut().for_each(blank),
        other => *other = REDACTED.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(id: &str) -> &'static Operation {
        patchbay_api::operations()
            .find(|operation| operation.id == id)
            .expect("an operation")
    }

    #[test]
    fn what_holds_data_is_hidden_and_the_rest_stays() {
        let mut answer = json!({
            "job": { "id": "1", "data": "{\"to\":\"a\"}", "returnValue": null, "attemptsMade": 2 },
            "logs": ["one", "two"], "filter": { "queue": "q", "data.to": "ada@example.com" },
        });
        hide(&mut answer, &["data", "logs", "returnValue"]);
        assert_eq!(
            answer,
            json!({
                "job": { "id": "1", "data": REDACTED, "returnValue": null, "attemptsMade": 2 },
                "logs": [REDACTED, REDACTED], "filter": { "queue": "q", "data.to": REDACTED },
            })
        );
    }

    #[test]
    fn a_request_that_asks_for_data_is_recognised() {
        let asks = |id: &str, query: &str| asked_by(operation(id), query).is_some();
        assert!(!asks("jobs.show", ""));
        assert!(!asks("jobs.show", "reveal=false"));
        assert!(asks("jobs.show", "reveal=true"));
        assert!(asks("jobs.show", "rev%65al=true"));
        assert!(asks("history.export", "bodies=true&format=csv"));
        assert!(asks("queues.live", "state=failed&data.to=ada"));
        assert!(asks("queues.live", "state=failed&text=refused"));
        assert!(asks("inbox.list", "dataPath=phone&dataValue=1"));
        assert!(!asks("inbox.list", "webhook=crm.status"));
        assert!(asks("history.count", "text=a"));
        assert!(!asks("queues.live", "state=failed&code=refused"));
        assert!(asks("history.bodies", ""));
        assert!(asks("audit.entries", ""));
        assert!(asks("audit.entries", "trail=lead_activity_log"));
        assert!(asks(
            "audit.entries",
            "trail=operators&trail=lead_activity_log"
        ));
        assert!(!asks("audit.entries", "limit=5&trail=operators"));
        assert!(!asks("queues.pause", "reveal=true"), "it has none");
    }
}

//! Callbacks of the vendor: what they say, read from flat pairs, and as the data of a job.

use serde::{Deserialize, Serialize};

use crate::pairs::Pairs;

const MAX_LEGS: usize = 8;
const MAX_TEXT: usize = 2_048;
/// A day: no call is longer.
const MAX_SECONDS: i64 = 86_400;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Call,
    Sms,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Sms => "sms",
        }
    }
}

/// The data of an `event` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub kind: Kind,
    /// The vendor's id of the call or message.
    pub sid: String,
    /// `answered`, `terminal`, or the state where the vendor names no event.
    pub event: String,
    /// Our row, `call-` or `sms-` and its id, as the token of the callback's URL proves it.
    pub reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detailed_status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detailed_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_updated: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub received_at: i64,
}

/// What a callback says whose URL proves this reference. The reason names no value.
pub fn read(pairs: &Pairs, reference: String, received_at: i64) -> Result<Event, String> {
    let text = |name: &str| {
        let value = pairs.get(name)?.trim();
        let is_none = value.is_empty() || value == "null";
        (!is_none).then(|| value.chars().take(MAX_TEXT).collect::<String>())
    };
    let sid_of = |name: &str| -> Result<Option<String>, String> {
        match text(name) {
            None => Ok(None),
            Some(sid) if is_sid(&sid) => Ok(Some(sid)),
            Some(_) => Err(format!("{name} is not an id of the vendor")),
        }
    };
    let (kind, sid) = match (sid_of("CallSid")?, sid_of("SmsSid")?) {
        (Some(sid), None) => (Kind::Call, sid),
        (None, Some(sid)) => (Kind::Sms, sid),
        (None, None) => return Err("neither CallSid nor SmsSid".into()),
        (Some(_), Some(_)) => return Err("both CallSid and SmsSid".into()),
    };
    if row_of(kind, &reference).is_none() {
        return Err("the reference in the URL is not of this kind".into());
    }
    let status = text("Status").or_else(|| text("SmsStatus"));
    let event = match text("EventType") {
        Some(event) => event,
        None => status.clone().ok_or("neither EventType nor Status")?,
    };
    if event.len() > 64 || event.chars().any(char::is_control) {
        return Err("EventType is not the name of an event".into());
    }
    let legs = || (0..MAX_LEGS).map(|place| format!("Legs[{place}]"));
    let seconds = |name: &str| text(name).as_deref().and_then(seconds);
    let on_call = legs()
        .filter_map(|leg| seconds(&format!("{leg}[OnCallDuration]")))
        .max();
    let answered_by = legs().find_map(|leg| {
        text(&format!("{leg}[AnsweredBy]")).filter(|by| !by.eq_ignore_ascii_case("NA"))
    });
    Ok(Event {
        kind,
        sid,
        event: event.to_ascii_lowercase(),
        reference,
        status: status.map(|status| status.to_ascii_lowercase()),
        from: text("From"),
        to: text("To"),
        recording_url: text("RecordingUrl").filter(|url| is_url(url)),
        answered_by,
        detailed_status: text("DetailedStatus"),
        detailed_code: text("DetailedStatusCode").or_else(|| text("StatusCode")),
        duration_s: on_call.or_else(|| seconds("Duration")),
        conversation_s: seconds("ConversationDuration"),
        start_time: text("StartTime"),
        end_time: text("EndTime"),
        date_updated: text("DateUpdated"),
        received_at,
    })
}

impl Event {
    /// The vendor has no ids of events: one event of one call is one event, however often it comes.
    /// The reference is part of it, so that nobody with the URL of one row can make the events of
    /// another one repeats.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.reference, self.sid, self.event)
    }

    /// The id of our row. `None` when the reference is none, or of another kind.
    pub fn row(&self) -> Option<&str> {
        row_of(self.kind, &self.reference)
    }

    /// For search in the inbox, such as `call.answered`.
    pub fn name(&self) -> String {
        let kind = self.kind.as_str();
        let event: String = self.event.chars().filter(char::is_ascii).take(50).collect();
        format!("{kind}.{event}")
    }
}

/// Whole seconds, which the vendor sends as numbers and as text.
pub fn seconds(text: &str) -> Option<i64> {
    let number: f64 = text.trim().parse().ok()?;
    (0.0..=MAX_SECONDS as f64)
        .contains(&number)
        .then_some(number as i64)
}

pub fn is_sid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A row of ours: `call-` or `sms-` and its id.
pub fn is_reference(text: &str) -> bool {
    [Kind::Call, Kind::Sms]
        .into_iter()
        .any(|kind| row_of(kind, text).is_some())
}

fn row_of(kind: Kind, reference: &str) -> Option<&str> {
    let id = reference.strip_prefix(kind.as_str())?.strip_prefix('-')?;
    is_uuid(id).then_some(id)
}

pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(place, c)| match place {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

pub fn is_url(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://"))
        && text.len() <= MAX_TEXT
        && text.chars().all(|c| c.is_ascii_graphic())
}

//! Requests of vendors to webhooks, what `verify` says of them, and what becomes of them.

use serde::{Deserialize, Serialize};

use crate::capability::Fields;
use crate::operation::check_json;

/// Longest event id, in bytes.
pub const MAX_EVENT_ID: usize = 512;
/// Longest kind, in bytes.
pub const MAX_KIND: usize = 64;
/// Jobs of one event.
pub const MAX_JOBS: usize = 100;
/// Data of all jobs of one event, in bytes.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Largest reply, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 10;
/// Longest name of a job, in bytes.
const MAX_JOB_NAME: usize = 256;
const MAX_CODE: usize = 64;
const MAX_MESSAGE_BYTES: usize = 1 << 10;
/// Media types of replies: a browser runs none of them.
const REPLY_TYPES: [&str; 4] = [
    "text/plain",
    "application/json",
    "application/xml",
    "text/xml",
];
/// What a plugin may answer to a request that it rejects.
const REJECTIONS: [u16; 6] = [400, 401, 403, 404, 410, 422];

/// What `verify` is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookRequest {
    /// The webhook's name in the manifest.
    pub name: String,
    pub method: String,
    pub path: String,
    /// Raw, without `?`.
    pub query: String,
    pub headers: Fields,
    /// The exact bytes that were received.
    pub body: Vec<u8>,
    pub ip: String,
    /// Unix milliseconds.
    pub received_at_ms: u64,
}

/// What `verify` says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(Accepted),
    Rejected(Rejected),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Repeats of one id within a webhook do nothing. Absent: a hash of name, query and body.
    pub event_id: Option<String>,
    /// For search, such as `payment.captured`.
    pub kind: String,
    /// In the webhook's queue. Empty: recorded only.
    pub jobs: Vec<EventJob>,
    /// Instead of the manifest's success answer.
    pub reply: Option<EventReply>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventJob {
    pub name: String,
    /// One JSON document.
    pub data: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub status: u16,
    /// For the operator: `bad-signature`, `stale`, `malformed`, ….
    pub code: String,
    /// For the operator.
    pub message: String,
}

/// What became of a request.
///
/// ```text
///           ┌ check or verify: no ─────▶ Rejected ─(verified again: yes)─┐
/// request ──┼ cannot be judged now ────▶ Deferred ─(verified: yes)───────┤──▶ Accepted ─(jobs in the queue)─▶ Enqueued
///           └ verify: yes ───────────────────────────────────────────────┘        └─(no jobs)─▶ Recorded
/// Deferred ─(verified: no, or tried too often)─▶ Rejected     Deferred, Rejected ─(its event is known)─▶ Repeat
/// any ─(erased)─▶ Erased
/// ```
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum InboxState {
    /// Its jobs are not in the queue yet.
    Accepted,
    /// Its jobs are in the queue.
    Enqueued,
    /// Accepted, and it has no jobs.
    Recorded,
    /// It could not be judged, and waits until it can.
    Deferred,
    Rejected,
    /// Another request has brought its event.
    Repeat,
    /// An operator has removed its content.
    Erased,
}

impl InboxState {
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Enqueued,
        Self::Recorded,
        Self::Deferred,
        Self::Rejected,
        Self::Repeat,
        Self::Erased,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Enqueued => "enqueued",
            Self::Recorded => "recorded",
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
            Self::Repeat => "repeat",
            Self::Erased => "erased",
        }
    }

    /// Whether the event was accepted, now or before.
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted | Self::Enqueued | Self::Recorded)
    }
}

impl std::fmt::Display for InboxState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state of a request in the inbox")]
pub struct UnknownState(String);

impl std::str::FromStr for InboxState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let mut all = Self::ALL.into_iter();
        all.find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl Verdict {
    /// Why the host cannot use the verdict. A rejection can always be used.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Accepted(accepted) => accepted.check(),
            Self::Rejected(_) => Ok(()),
        }
    }
}

impl Accepted {
    fn check(&self) -> Result<(), String> {
        if let Some(id) = &self.event_id
            && !(1..=MAX_EVENT_ID).contains(&id.len())
        {
            return Err(format!(
                "the event id has {} bytes; it must have 1 to {MAX_EVENT_ID}",
                id.len()
            ));
        }
        if self.kind.len() > MAX_KIND || self.kind.chars().any(char::is_control) {
            return Err(format!(
                "the kind must have at most {MAX_KIND} bytes, and no control characters"
            ));
        }
        if self.jobs.len() > MAX_JOBS {
            return Err(format!("{} jobs; the limit is {MAX_JOBS}", self.jobs.len()));
        }
        let bytes: usize = self.jobs.iter().map(|job| job.data.len()).sum();
        if bytes > MAX_DATA_BYTES {
            return Err(format!(
                "{bytes} bytes of data in all jobs; the limit is {MAX_DATA_BYTES}"
            ));
        }
        for (place, job) in self.jobs.iter().enumerate() {
            if !(1..=MAX_JOB_NAME).contains(&job.name.len()) || job.name.contains('\0') {
                return Err(format!(
                    "jobs[{place}]: the name must have 1 to {MAX_JOB_NAME} bytes"
                ));
            }
            check_json(&job.data, MAX_DATA_BYTES).map_err(|why| format!("jobs[{place}]: {why}"))?;
        }
        self.reply.as_ref().map_or(Ok(()), EventReply::check)
    }
}

impl EventReply {
    fn check(&self) -> Result<(), String> {
        if !(200..=299).contains(&self.status) {
            return Err(format!(
                "the status of a reply must be from 200 to 299, not {}",
                self.status
            ));
        }
        let kind = self
            .content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let printable = self
            .content_type
            .bytes()
            .all(|byte| (0x20..0x7f).contains(&byte));
        if !printable
            || self.content_type.len() > 128
            || !REPLY_TYPES
                .iter()
                .any(|known| kind.eq_ignore_ascii_case(known))
        {
            return Err(format!(
                "a reply is of one of these types: {}",
                REPLY_TYPES.join(", ")
            ));
        }
        if self.body.len() > MAX_REPLY_BYTES {
            return Err(format!(
                "a reply of {} bytes; the limit is {MAX_REPLY_BYTES}",
                self.body.len()
            ));
        }
        Ok(())
    }
}

impl Rejected {
    /// With a status that may be sent, and texts that can be stored.
    pub fn sanitized(self) -> Self {
        let Self {
            status,
            code,
            message,
        } = self;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_code = (1..=MAX_CODE).contains(&code.len()) && code.chars().all(plain);
        let mut message = message.replace('\0', "\u{fffd}");
        if message.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES)
                .rev()
                .find(|&at| message.is_char_boundary(at));
            message.truncate(end.unwrap_or_default());
        }
        Self {
            status: if REJECTIONS.contains(&status) {
                status
            } else {
                400
            },
            code: if is_code { code } else { "other".into() },
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(jobs: &[(&str, &str)]) -> Accepted {
        let job = |(name, data): &(&str, &str)| EventJob {
            name: (*name).into(),
            data: (*data).into(),
        };
        Accepted {
            event_id: Some("e-1".into()),
            kind: "call".into(),
            jobs: jobs.iter().map(job).collect(),
            reply: None,
        }
    }

    #[test]
    fn a_verdict_beyond_the_limits_cannot_be_used() {
        let check = |change: &dyn Fn(&mut Accepted)| {
            let mut verdict = accepted(&[("a", "{}")]);
            change(&mut verdict);
            Verdict::Accepted(verdict).check()
        };
        assert_eq!(check(&|_| {}), Ok(()));
        let reply = |status, content_type: &str, bytes| EventReply {
            status,
            content_type: content_type.into(),
            body: vec![b'x'; bytes],
        };
        assert_eq!(
            check(&|v| v.reply = Some(reply(200, "text/plain; charset=utf-8", 10))),
            Ok(())
        );
        type Change<'a> = dyn Fn(&mut Accepted) + 'a;
        let refused: [(&str, &Change<'_>); 9] = [
            ("event id", &|v| v.event_id = Some("x".repeat(513))),
            ("event id", &|v| v.event_id = Some(String::new())),
            ("kind", &|v| v.kind = "a\nb".into()),
            ("101 jobs", &|v| v.jobs = vec![v.jobs[0].clone(); 101]),
            ("not JSON", &|v| v.jobs[0].data = "{".into()),
            ("the name", &|v| v.jobs[0].name = String::new()),
            ("from 200 to 299", &|v| {
                v.reply = Some(reply(302, "text/plain", 1))
            }),
            ("one of these types", &|v| {
                v.reply = Some(reply(200, "text/html", 1))
            }),
            ("65537 bytes", &|v| {
                v.reply = Some(reply(200, "text/plain", 65_537))
            }),
        ];
        for (says, change) in refused {
            let reason = check(change).expect_err(says);
            assert!(reason.contains(says), "{says}: {reason}");
        }
    }

    #[test]
    fn a_rejection_always_has_a_status_and_texts_that_can_be_used() {
        let rejected = Rejected {
            status: 302,
            code: "Bad\r\nCode".into(),
            message: "é".repeat(1_000) + "\0",
        };
        let sanitized = rejected.sanitized();
        assert_eq!((sanitized.status, sanitized.code.as_str()), (400, "other"));
        assert_eq!(sanitized.message.len(), 1_024);
        for status in REJECTIONS {
            let rejected = Rejected {
                status,
                code: "stale".into(),
                message: "m\0".into(),
            }
            .sanitized();
            assert_eq!(
                (
                    rejected.status,
                    rejected.code.as_str(),
                    rejected.message.as_str()
                ),
                (status, "stale", "m\u{fffd}")
            );
        }
    }
}

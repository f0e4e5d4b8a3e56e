//! What news of the vendor does to a call or a message.
//!
//! News comes repeated, late and in any order. So every field only ever grows, by an order that does
//! not depend on which news came first: a state never goes backwards, and all orders of the same
//! news end in the same row.

use crate::event::{Event, Kind};
use crate::vendor_time;

/// Of a call, in the order in which a later one replaces an earlier one. Ends are ordered, too, in
/// case the vendor tells two: what says more about a conversation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallStatus {
    /// The row is there, the vendor is being asked.
    Placing,
    /// The vendor has certainly not placed it.
    Refused,
    /// Nobody knows whether it was placed. It is never placed again because of that.
    Unknown,
    Queued,
    Ringing,
    InProgress,
    Failed,
    Canceled,
    NoAnswer,
    Busy,
    /// With a word of the vendor that this plugin does not know; `vendor_status` has it.
    Ended,
    Completed,
}

impl CallStatus {
    pub const ALL: [Self; 12] = [
        Self::Placing,
        Self::Refused,
        Self::Unknown,
        Self::Queued,
        Self::Ringing,
        Self::InProgress,
        Self::Failed,
        Self::Canceled,
        Self::NoAnswer,
        Self::Busy,
        Self::Ended,
        Self::Completed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placing => "placing",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Queued => "queued",
            Self::Ringing => "ringing",
            Self::InProgress => "in-progress",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::NoAnswer => "no-answer",
            Self::Busy => "busy",
            Self::Ended => "ended",
            Self::Completed => "completed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    pub fn is_end(self) -> bool {
        self >= Self::Failed
    }

    /// A word of the vendor.
    fn of_vendor(text: &str) -> Option<Self> {
        Some(match text {
            "queued" => Self::Queued,
            "ringing" => Self::Ringing,
            "in-progress" => Self::InProgress,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "canceled" | "cancelled" => Self::Canceled,
            _ => return None,
        })
    }
}

/// What one piece of news says of a call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallNews {
    pub sid: Option<String>,
    pub status: Option<CallStatus>,
    pub vendor_status: Option<String>,
    pub duration_s: Option<i64>,
    pub conversation_s: Option<i64>,
    pub recording_url: Option<String>,
    pub answered_by: Option<String>,
    pub answered_at: Option<i64>,
    pub ended_at: Option<i64>,
}

/// The fields of a row that news changes.
#[derive(Debug, Clone, PartialEq)]
pub struct CallState {
    pub sid: Option<String>,
    pub status: CallStatus,
    pub vendor_status: Option<String>,
    pub duration_s: Option<i64>,
    pub conversation_s: Option<i64>,
    pub recording_url: Option<String>,
    pub answered_by: Option<String>,
    pub answered_at: Option<i64>,
    pub ended_at: Option<i64>,
}

impl CallState {
    #[cfg(test)]
    pub fn new(status: CallStatus) -> Self {
        Self {
            sid: None,
            status,
            vendor_status: None,
            duration_s: None,
            conversation_s: None,
            recording_url: None,
            answered_by: None,
            answered_at: None,
            ended_at: None,
        }
    }

    /// The row afterwards. News of another call changes nothing.
    pub fn after(&self, news: &CallNews) -> Self {
        if let (Some(own), Some(other)) = (&self.sid, &news.sid)
            && own != other
        {
            return self.clone();
        }
        let status = news
            .status
            .map_or(self.status, |status| status.max(self.status));
        // The vendor's word belongs to the status; of two words for one status, the greater stays.
        let vendor_status = match news.status.map(|new| new.cmp(&self.status)) {
            Some(std::cmp::Ordering::Greater) => news.vendor_status.clone(),
            Some(std::cmp::Ordering::Equal) => {
                self.vendor_status.clone().max(news.vendor_status.clone())
            }
            _ => self.vendor_status.clone(),
        };
        Self {
            sid: self.sid.clone().or_else(|| news.sid.clone()),
            status,
            vendor_status,
            duration_s: self.duration_s.max(news.duration_s),
            conversation_s: self.conversation_s.max(news.conversation_s),
            recording_url: self.recording_url.clone().max(news.recording_url.clone()),
            answered_by: self.answered_by.clone().max(news.answered_by.clone()),
            answered_at: earliest(self.answered_at, news.answered_at),
            ended_at: self.ended_at.max(news.ended_at),
        }
    }
}

fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl CallNews {
    pub fn of_event(event: &Event, utc_offset: &str) -> Self {
        debug_assert_eq!(event.kind, Kind::Call);
        let word = event.status.as_deref();
        let known = word.and_then(CallStatus::of_vendor);
        let status = match event.event.as_str() {
            "answered" => Some(CallStatus::InProgress),
            "terminal" => Some(
                known
                    .filter(|status| status.is_end())
                    .unwrap_or(CallStatus::Ended),
            ),
            _ => known,
        };
        let time = |text: &Option<String>| {
            text.as_deref()
                .and_then(|text| vendor_time::parse(text, utc_offset))
        };
        let told_at = time(&event.date_updated).or(Some(event.received_at).filter(|at| *at > 0));
        let ended = status.is_some_and(CallStatus::is_end);
        Self {
            sid: Some(event.sid.clone()),
            status,
            vendor_status: event.status.clone(),
            duration_s: event.duration_s,
            conversation_s: event.conversation_s,
            recording_url: event.recording_url.clone(),
            answered_by: event.answered_by.clone(),
            answered_at: told_at.filter(|_| event.event == "answered"),
            ended_at: time(&event.end_time).or(told_at).filter(|_| ended),
        }
    }

    /// A status that the vendor's API gives.
    pub fn of_status(sid: &str, word: &str) -> Self {
        let word = word.to_ascii_lowercase();
        Self {
            sid: Some(sid.to_owned()),
            status: CallStatus::of_vendor(&word),
            vendor_status: Some(word),
            ..Self::default()
        }
    }
}

/// Of a text message, in the order in which a later one replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SmsStatus {
    /// To be sent by its job.
    Queued,
    /// The vendor is being asked.
    Sending,
    /// Nobody knows whether it was sent. It is never sent again because of that.
    Unknown,
    /// The vendor has taken it.
    Submitted,
    Sent,
    Failed,
    Delivered,
}

impl SmsStatus {
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Sending,
        Self::Unknown,
        Self::Submitted,
        Self::Sent,
        Self::Failed,
        Self::Delivered,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Unknown => "unknown",
            Self::Submitted => "submitted",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// The vendor's word, and its code and text of detail, which are known only in part.
    pub fn of_vendor(status: &str, code: Option<&str>, detail: Option<&str>) -> Option<Self> {
        let detail = detail.unwrap_or_default();
        if code == Some("20005") || detail.contains("DELIVERED_TO_HANDSET") {
            return Some(Self::Delivered);
        }
        Some(match status {
            "queued" | "sending" | "submitted" => Self::Submitted,
            "sent" => Self::Sent,
            "delivered" => Self::Delivered,
            failed if failed.starts_with("failed") => Self::Failed,
            _ => return None,
        })
    }
}

/// What news changes in the row of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct SmsState {
    pub sid: Option<String>,
    pub status: SmsStatus,
    pub detailed_code: Option<String>,
    pub detailed_status: Option<String>,
}

impl SmsState {
    /// The row afterwards. News of another message changes nothing.
    pub fn after(&self, news: &SmsNews) -> Self {
        if let (Some(own), Some(other)) = (&self.sid, &news.sid)
            && own != other
        {
            return self.clone();
        }
        let status = news
            .status
            .map_or(self.status, |status| status.max(self.status));
        let detail = |state: &Self| (state.detailed_code.clone(), state.detailed_status.clone());
        let new = (news.detailed_code.clone(), news.detailed_status.clone());
        let (detailed_code, detailed_status) = match news.status.map(|new| new.cmp(&self.status)) {
            Some(std::cmp::Ordering::Greater) => new,
            Some(std::cmp::Ordering::Equal) => detail(self).max(new),
            _ => detail(self),
        };
        Self {
            sid: self.sid.clone().or_else(|| news.sid.clone()),
            status,
            detailed_code,
            detailed_status,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SmsNews {
    pub sid: Option<String>,
    pub status: Option<SmsStatus>,
    pub detailed_code: Option<String>,
    pub detailed_status: Option<String>,
}

impl SmsNews {
    pub fn new(sid: &str, status: &str, code: Option<&str>, detail: Option<&str>) -> Self {
        Self {
            sid: Some(sid.to_owned()),
            status: SmsStatus::of_vendor(status, code, detail),
            detailed_code: code.map(str::to_owned),
            detailed_status: detail.map(str::to_owned),
        }
    }

    pub fn of_event(event: &Event) -> Self {
        Self::new(
            &event.sid,
            event.status.as_deref().unwrap_or(&event.event),
            event.detailed_code.as_deref(),
            event.detailed_status.as_deref(),
        )
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;

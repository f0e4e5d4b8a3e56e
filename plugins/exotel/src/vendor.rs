//! What is asked of the vendor, and what its answers mean.
//!
//! A request that places a call or sends a message has three ends: the vendor took it, the vendor
//! certainly did not, or nobody knows. The last one is never repeated.

use patchbay_plugin::http::{self, Error, TimeoutPhase};
use patchbay_plugin::{Failure, Retry, Value};

use crate::event::{is_sid, is_url, seconds};
use crate::phone;
use crate::progress::{CallNews, CallStatus, SmsNews};
use crate::settings::{Account, Settings};
use crate::store::{Call, Sms};
use crate::vendor_time;
use crate::verify;

/// The path of the manifest's webhook.
const CALLBACK_PATH: &str = "/api/exotel/status";
const FORM: &str = "application/x-www-form-urlencoded";
/// How far the vendor's clock may be off when a call is looked up.
const SKEW_MS: i64 = 10 * 60_000;
const MAX_PAGES: usize = 5;
const HINT: &str = "check SID, key, token and cluster";

/// Why the vendor did not do what was asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// Certainly not done.
    Refused(Reason),
    /// It may have been done.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// `bad-credentials`, `rate-limited`, `unavailable`, `not-found` or `upstream`.
    pub code: &'static str,
    /// For operators: no credential, no number, no URL.
    pub message: String,
    pub retry: Retryable,
    /// Of the vendor's answer, if there was one.
    pub status: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Retryable {
    No,
    Backoff,
    AfterMs(u64),
}

impl Reason {
    fn new(code: &'static str, message: impl Into<String>, retry: Retryable) -> Self {
        Self {
            code,
            message: message.into(),
            retry,
            status: None,
        }
    }

    pub fn failure(&self) -> Failure {
        let retry = match self.retry {
            Retryable::No => Retry::Never,
            Retryable::Backoff => Retry::Backoff,
            Retryable::AfterMs(ms) => Retry::DeferMs(ms),
        };
        Failure::new(self.code, self.message.clone(), retry)
    }
}

impl Trouble {
    pub fn failure(&self) -> Failure {
        match self {
            Self::Refused(reason) => reason.failure(),
            Self::Unknown(what) => Failure::new("upstream", what.clone(), Retry::Backoff),
        }
    }
}

/// A request that never reached the vendor, or may have.
fn not_answered(error: Error) -> Trouble {
    let unavailable =
        |message: String| Trouble::Refused(Reason::new("unavailable", message, Retryable::Backoff));
    match error {
        Error::Timeout(TimeoutPhase::Connecting) => {
            unavailable("the vendor could not be reached in time".into())
        }
        Error::Timeout(_) => Trouble::Unknown("the vendor did not answer in time".into()),
        Error::Dns(text) => unavailable(format!("the vendor's name was not found: {text}")),
        Error::Connect(text) => unavailable(format!("no connection to the vendor: {text}")),
        Error::Tls(text) => unavailable(format!("no secure connection to the vendor: {text}")),
        Error::BreakerOpen(ms) => Trouble::Refused(Reason::new(
            "breaker-open",
            "calls to the vendor are stopped for a while, because many failed",
            Retryable::AfterMs(ms.max(1)),
        )),
        Error::Denied(text) => Trouble::Refused(Reason::new(
            "bad-settings",
            format!("the host does not allow the request: {text}"),
            Retryable::No,
        )),
        Error::Invalid(text) => Trouble::Refused(Reason::new(
            "bad-settings",
            format!("the request cannot be sent: {text}"),
            Retryable::No,
        )),
        Error::Interrupted(false) => unavailable("the connection to the vendor broke".into()),
        Error::Interrupted(true) => Trouble::Unknown("the connection to the vendor broke".into()),
        Error::TooLarge(_) => Trouble::Unknown("the vendor's answer is too large".into()),
        Error::Other(text) => Trouble::Unknown(format!("the vendor's answer is unusable: {text}")),
    }
}

/// What a status other than success means. The vendor's own words are for operators.
fn refusal(status: u16, body: &[u8]) -> Trouble {
    let said = said(body);
    let with = |text: &str| match &said {
        Some(said) => format!("the vendor answers {status}: {text} ({said})"),
        None => format!("the vendor answers {status}: {text}"),
    };
    let (code, message, retry) = match status {
        401 => ("bad-credentials", with(HINT), Retryable::No),
        404 => ("bad-credentials", with(HINT), Retryable::No),
        403 => (
            "upstream",
            with("the account may not do this; is its KYC complete?"),
            Retryable::No,
        ),
        402 => (
            "upstream",
            with("the account's plan or balance is used up"),
            Retryable::No,
        ),
        429 => (
            "rate-limited",
            with("too many requests of this account"),
            Retryable::Backoff,
        ),
        500.. => return Trouble::Unknown(with("a fault of the vendor")),
        _ => ("upstream", with("it refuses the request"), Retryable::No),
    };
    Trouble::Refused(Reason {
        status: Some(status),
        ..Reason::new(code, message, retry)
    })
}

/// `RestException.Message`. It may repeat what was sent, so digits are hidden.
fn said(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let message = body["RestException"]["Message"].as_str()?;
    let hidden = message
        .chars()
        .filter(|c| !c.is_control())
        .map(|c| if c.is_ascii_digit() { '#' } else { c });
    Some(hidden.take(200).collect())
}

pub struct Vendor<'a> {
    settings: &'a Settings,
    account: Account<'a>,
    api_url: &'a str,
    /// When the host ends the plugin's call, in milliseconds since 1970.
    deadline: i64,
}

/// Kept of the plugin's time, to write down what the vendor has answered.
const RESERVE_MS: i64 = 2_000;
const LEAST_MS: i64 = 100;

impl<'a> Vendor<'a> {
    pub fn new(settings: &'a Settings, deadline: u64) -> Result<Self, Failure> {
        Ok(Self {
            settings,
            account: settings.account()?,
            api_url: &settings.api_url,
            deadline: i64::try_from(deadline).unwrap_or(i64::MAX),
        })
    }

    /// For one request. None is begun whose answer could no longer be written down.
    fn timeout_ms(&self) -> Result<u64, Trouble> {
        let left = self
            .deadline
            .saturating_sub(vendor_time::now())
            .saturating_sub(RESERVE_MS);
        if left < LEAST_MS {
            return Err(Trouble::Refused(Reason::new(
                "unavailable",
                "no time is left to ask the vendor",
                Retryable::Backoff,
            )));
        }
        Ok(self.settings.connect_timeout_ms.min(left.unsigned_abs()))
    }

    /// The same account in another cluster.
    pub fn at(&self, api_url: &'a str) -> Self {
        Self { api_url, ..*self }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/Accounts/{}/{path}", self.api_url, self.account.sid)
    }

    fn get(&self, url: String) -> Result<Value, Trouble> {
        let request = http::Request {
            method: "GET".into(),
            url,
            headers: vec![("accept".into(), b"application/json".to_vec())],
            body: None,
            timeout_ms: Some(self.timeout_ms()?),
        };
        let response = http::send(&request).map_err(not_answered)?;
        if response.status != 200 {
            return Err(refusal(response.status, &response.body));
        }
        json(&response)
    }

    /// A call or message whose id the vendor has given: 404 concerns it alone, not the account.
    fn get_one(&self, path: &str) -> Result<Value, Trouble> {
        self.get(self.url(path)).map_err(|trouble| match trouble {
            Trouble::Refused(reason) if reason.status == Some(404) => Trouble::Refused(
                Reason::new("upstream", "the vendor no longer has it", Retryable::No),
            ),
            trouble => trouble,
        })
    }

    fn post(&self, path: &str, form: &[(&str, String)]) -> Result<Value, Trouble> {
        let mut body = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form {
            body.append_pair(name, value);
        }
        let request = http::Request {
            method: "POST".into(),
            url: self.url(path),
            headers: vec![
                ("content-type".into(), FORM.into()),
                ("accept".into(), b"application/json".to_vec()),
            ],
            body: Some(body.finish().into_bytes()),
            timeout_ms: Some(self.timeout_ms()?),
        };
        let response = http::send(&request).map_err(not_answered)?;
        if !(200..300).contains(&response.status) {
            return Err(refusal(response.status, &response.body));
        }
        json(&response)
    }

    /// Where the vendor tells what becomes of this row. `None` while it cannot be told.
    fn callback(&self, reference: &str) -> Option<String> {
        let base = self.settings.public_url.as_deref()?;
        let token = verify::token(reference)?;
        Some(format!(
            "{base}{CALLBACK_PATH}?reference={reference}&token={token}"
        ))
    }

    /// Rings the salesperson, then the lead.
    pub fn connect(&self, call: &Call) -> Result<CallNews, Trouble> {
        let settings = self.settings;
        let reference = call.reference();
        let mut form = vec![
            ("From", call.from.clone()),
            ("To", call.to.clone()),
            ("CallerId", self.account.caller_id.to_owned()),
            ("CallType", "trans".to_owned()),
            ("TimeLimit", settings.time_limit_seconds.to_string()),
            ("TimeOut", settings.ring_seconds.to_string()),
            ("Record", settings.record.to_string()),
            ("CustomField", reference.clone()),
        ];
        if let Some(callback) = self.callback(&reference) {
            form.push(("StatusCallback", callback));
            form.push(("StatusCallbackEvents[0]", "terminal".into()));
            form.push(("StatusCallbackEvents[1]", "answered".into()));
            form.push(("StatusCallbackContentType", "application/json".into()));
        }
        let answer = self.post("Calls/connect.json", &form)?;
        let call = &answer["Call"];
        let sid = call["Sid"].as_str().filter(|sid| is_sid(sid));
        let Some(sid) = sid else {
            return Err(Trouble::Unknown(
                "the vendor answers success, but names no call".into(),
            ));
        };
        let mut news = CallNews::of_status(sid, call["Status"].as_str().unwrap_or("queued"));
        // Whatever status the answer has, it says only that the request was accepted.
        news.status = Some(CallStatus::Queued);
        Ok(news)
    }

    pub fn call(&self, sid: &str) -> Result<CallNews, Trouble> {
        let answer = self.get_one(&format!("Calls/{sid}.json?details=true"))?;
        self.read_call(&answer["Call"])
            .ok_or_else(|| Trouble::Unknown("the vendor's answer has no call".into()))
    }

    fn read_call(&self, call: &Value) -> Option<CallNews> {
        let sid = call["Sid"].as_str().filter(|sid| is_sid(sid))?;
        let mut news = CallNews::of_status(sid, call["Status"].as_str().unwrap_or_default());
        let details = &call["Details"];
        news.duration_s = whole_seconds(&call["Duration"]);
        news.conversation_s = whole_seconds(&details["ConversationDuration"]);
        news.recording_url = call["RecordingUrl"]
            .as_str()
            .filter(|url| is_url(url))
            .map(str::to_owned);
        news.answered_by = call["AnsweredBy"].as_str().map(str::to_owned);
        if news.status.is_some_and(CallStatus::is_end) {
            let offset = &self.settings.utc_offset;
            news.ended_at = call["EndTime"]
                .as_str()
                .and_then(|text| vendor_time::parse(text, offset));
        }
        Some(news)
    }

    /// The call that this row has placed, if the vendor has one: by both numbers and the time. A call
    /// that another row has is not it.
    pub fn look_up(
        &self,
        row: &Call,
        is_known: impl Fn(&str) -> Result<bool, Failure>,
    ) -> Result<Option<CallNews>, Trouble> {
        // First by the numbers as they were sent; the vendor may keep another spelling, so also
        // without.
        for with_numbers in [true, false] {
            if let Some(found) = self.look_up_by(row, with_numbers, &is_known)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn look_up_by(
        &self,
        row: &Call,
        with_numbers: bool,
        is_known: &impl Fn(&str) -> Result<bool, Failure>,
    ) -> Result<Option<CallNews>, Trouble> {
        let offset = &self.settings.utc_offset;
        let at = |ms: i64| vendor_time::written(ms, offset);
        let window = format!(
            "gte:{};lte:{}",
            at(row.placed_at - SKEW_MS),
            at(row.placed_at + SKEW_MS)
        );
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("DateCreated", &window);
        query.append_pair("PageSize", "100");
        if with_numbers {
            query.append_pair("From", &row.from);
            query.append_pair("To", &row.to);
        }
        let mut url = self.url(&format!("Calls.json?{}", query.finish()));
        let mut best: Option<(i64, Value)> = None;
        for _ in 0..MAX_PAGES {
            let page = self.get(url)?;
            for call in page["Calls"].as_array().into_iter().flatten() {
                let number = |name: &str| call[name].as_str().unwrap_or_default();
                if !phone::same(number("From"), &row.from) || !phone::same(number("To"), &row.to) {
                    continue;
                }
                let created = call["DateCreated"]
                    .as_str()
                    .and_then(|text| vendor_time::parse(text, offset));
                let Some(distance) = created.map(|at| (at - row.placed_at).abs()) else {
                    continue;
                };
                let sid = call["Sid"].as_str().unwrap_or_default();
                if distance > SKEW_MS || best.as_ref().is_some_and(|(other, _)| *other <= distance)
                {
                    continue;
                }
                let taken = is_known(sid).map_err(|failure| {
                    Trouble::Refused(Reason::new(
                        "unavailable",
                        failure.message,
                        Retryable::Backoff,
                    ))
                })?;
                if !taken {
                    best = Some((distance, call.clone()));
                }
            }
            match page["Metadata"]["NextPageUri"].as_str() {
                Some(next) if next.starts_with("/v1/Accounts/") => {
                    url = format!("{}{next}", self.api_url);
                }
                _ => break,
            }
        }
        Ok(best.and_then(|(_, call)| self.read_call(&call)))
    }

    pub fn send_sms(&self, sms: &Sms, sender: &str) -> Result<SmsNews, Trouble> {
        let settings = self.settings;
        let reference = sms.reference();
        let mut form = vec![
            ("From", sender.to_owned()),
            ("To", sms.to.clone()),
            ("Body", sms.body.clone()),
            ("SmsType", settings.sms_type.clone()),
            ("CustomField", reference.clone()),
        ];
        if !sms.body.is_ascii() {
            form.push(("EncodingType", "unicode".into()));
        }
        if let Some(entity) = &settings.dlt_entity_id {
            form.push(("DltEntityId", entity.clone()));
        }
        if let Some(template) = sms
            .dlt_template_id
            .as_ref()
            .or(settings.dlt_template_id.as_ref())
        {
            form.push(("DltTemplateId", template.clone()));
        }
        if let Some(callback) = self.callback(&reference) {
            form.push(("StatusCallback", callback));
        }
        let answer = self.post("Sms/send.json", &form)?;
        read_sms(&answer).ok_or_else(|| {
            Trouble::Unknown("the vendor answers success, but names no message".into())
        })
    }

    pub fn sms(&self, sid: &str) -> Result<SmsNews, Trouble> {
        let answer = self.get_one(&format!("SMS/Messages/{sid}.json"))?;
        read_sms(&answer)
            .ok_or_else(|| Trouble::Unknown("the vendor's answer has no message".into()))
    }

    /// The vendor's documented test of credentials.
    pub fn check(&self) -> Result<(), Trouble> {
        self.get(self.url("Calls.json?PageSize=1")).map(|_| ())
    }

    /// Amount and currency, where the account may ask.
    pub fn balance(&self) -> Option<String> {
        let answer = self.get(self.url("Balance.json")).ok()?;
        let balance = &answer["Account"]["BalanceData"];
        Some(format!(
            "{} {}",
            balance["Balance"].as_str()?,
            balance["Currency"].as_str().unwrap_or_default()
        ))
    }
}

fn json(response: &http::Response) -> Result<Value, Trouble> {
    serde_json::from_slice(&response.body).map_err(|_| {
        Trouble::Unknown(format!(
            "the vendor answers {}, but not with JSON",
            response.status
        ))
    })
}

fn read_sms(answer: &Value) -> Option<SmsNews> {
    let sms = &answer["SMSMessage"];
    let sid = sms["Sid"].as_str().filter(|sid| is_sid(sid))?;
    let code = match &sms["DetailedStatusCode"] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let status = sms["Status"].as_str().unwrap_or("queued");
    Some(SmsNews::new(
        sid,
        &status.to_ascii_lowercase(),
        code.as_deref(),
        sms["DetailedStatus"].as_str(),
    ))
}

/// Numbers, which the vendor also writes as text.
fn whole_seconds(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => seconds(text),
        Value::Number(number) => seconds(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_done_is_refused() {
        for error in [
            Error::Timeout(TimeoutPhase::Connecting),
            Error::Dns(String::new()),
            Error::Connect(String::new()),
            Error::Tls(String::new()),
            Error::BreakerOpen(5),
            Error::Denied(String::new()),
            Error::Invalid(String::new()),
            Error::Interrupted(false),
        ] {
            assert!(matches!(not_answered(error), Trouble::Refused(_)));
        }
        for error in [
            Error::Timeout(TimeoutPhase::AwaitingResponse),
            Error::Timeout(TimeoutPhase::ReadingBody),
            Error::Interrupted(true),
            Error::TooLarge(1),
            Error::Other(String::new()),
        ] {
            assert!(matches!(not_answered(error), Trouble::Unknown(_)));
        }
    }

    #[test]
    fn what_a_status_means_is_told_without_what_was_sent() {
        let body = br#"{"RestException":{"Status":401,"Message":"Authentication failed for 09876543210"}}"#;
        let Trouble::Refused(reason) = refusal(401, body) else {
            panic!("refused");
        };
        assert_eq!(reason.code, "bad-credentials");
        assert!(reason.message.contains(HINT), "{}", reason.message);
        assert!(!reason.message.contains("98765"), "{}", reason.message);
        for (status, code) in [
            (400, "upstream"),
            (402, "upstream"),
            (403, "upstream"),
            (404, "bad-credentials"),
            (429, "rate-limited"),
            (302, "upstream"),
        ] {
            let Trouble::Refused(reason) = refusal(status, b"<html>") else {
                panic!("{status}: refused");
            };
            assert_eq!(reason.code, code, "{status}");
        }
        for status in [500, 502, 503, 504, 599] {
            assert!(matches!(refusal(status, b"<html>"), Trouble::Unknown(_)));
        }
    }
}

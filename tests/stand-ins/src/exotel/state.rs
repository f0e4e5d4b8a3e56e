//! What the server knows, and how it behaves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, FixedOffset, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const INDIA_S: i32 = 19_800;
const FORMAT: &str = "%Y-%m-%d %H:%M:%S";

#[derive(Debug, Clone, Serialize)]
pub struct Account {
    pub sid: String,
    pub key: String,
    #[serde(skip)]
    pub token: String,
    /// Numbers that may be the `CallerId`.
    pub exophones: Vec<String>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            sid: "patchbay1".into(),
            key: "stand-in-key".into(),
            token: "stand-in-token".into(),
            exophones: vec!["08047112233".into()],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    Account,
    Balance,
    Connect,
    Call,
    Calls,
    Number,
    Recording,
    SendSms,
    Sms,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    Multipart,
    Urlencoded,
    Json,
}

/// How the server behaves until it is told otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Calls are answered and end, and messages are delivered, by themselves.
    pub plays: bool,
    pub answer_after_ms: u64,
    /// After the answer.
    pub end_after_ms: u64,
    /// How calls end: `completed`, or another status, which is then never answered.
    pub outcome: String,
    pub conversation_s: u32,
    /// `EndTime`, `Duration` and `Price` are there only so long after the end.
    pub settle_after_ms: u64,
    pub callbacks: bool,
    /// How often each callback is sent, at the same time.
    pub copies: u32,
    /// `answered` comes after `terminal`.
    pub reverses: bool,
    /// Instead of what the request asks for.
    pub encoding: Option<Encoding>,
    pub callback_retries: u32,
    pub callback_retry_ms: u64,
    pub callback_timeout_ms: u64,
    /// Of the vendor's clock, as it is told in times.
    pub clock_skew_s: i64,
    /// More requests than this in a minute are answered with 429.
    pub per_minute: Option<usize>,
    pub recording_bytes: usize,
    /// 401 or 404 for credentials that are wrong: the vendor's pages say both.
    pub wrong_credentials: u16,
    /// Senders of messages; empty takes any.
    pub senders: Vec<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            plays: true,
            answer_after_ms: 300,
            end_after_ms: 700,
            outcome: "completed".into(),
            conversation_s: 42,
            settle_after_ms: 2_000,
            callbacks: true,
            copies: 1,
            reverses: false,
            encoding: None,
            callback_retries: 2,
            callback_retry_ms: 1_000,
            callback_timeout_ms: 15_000,
            clock_skew_s: 0,
            per_minute: None,
            recording_bytes: 100_000,
            wrong_credentials: 401,
            senders: Vec::new(),
        }
    }
}

/// What the next requests get instead of their answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Absent: every operation.
    #[serde(default)]
    pub on: Option<Operation>,
    pub misdeed: Misdeed,
    #[serde(default = "once")]
    pub times: u32,
    /// The call is placed, or the message sent, all the same.
    #[serde(default)]
    pub done: bool,
}

fn once() -> u32 {
    1
}

impl Fault {
    pub fn new(on: Operation, misdeed: Misdeed) -> Self {
        Self {
            on: Some(on),
            misdeed,
            times: 1,
            done: false,
        }
    }

    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    pub fn done(self) -> Self {
        Self { done: true, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Misdeed {
    /// The answer comes so many milliseconds later.
    Slow(u64),
    /// The connection ends without an answer.
    Reset,
    /// The vendor's error with this status.
    Status(u16),
    /// A page of HTML with this status, as gateways answer.
    Html(u16),
}

#[derive(Debug, Clone, Serialize)]
pub struct Call {
    pub sid: String,
    pub from: String,
    pub to: String,
    pub caller_id: String,
    pub status: String,
    pub custom_field: Option<String>,
    pub recorded: bool,
    pub created: DateTime<Utc>,
    pub answered: Option<DateTime<Utc>>,
    pub ended: Option<DateTime<Utc>>,
    pub conversation_s: u32,
    /// All fields as they were sent.
    pub form: BTreeMap<String, String>,
    #[serde(skip)]
    pub(super) callback: Option<Callback>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Message {
    pub sid: String,
    pub from: String,
    pub to: String,
    pub body: String,
    pub status: String,
    pub detailed: Option<(u32, String)>,
    pub created: DateTime<Utc>,
    pub form: BTreeMap<String, String>,
    #[serde(skip)]
    pub(super) callback: Option<Callback>,
}

#[derive(Debug, Clone)]
pub(super) struct Callback {
    pub(super) url: String,
    /// `terminal` and `answered`; empty sends one callback at the end, without an event.
    pub(super) events: Vec<String>,
    pub(super) encoding: Encoding,
}

/// A callback that was sent.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    pub sid: String,
    pub event: String,
    /// `None`: no answer.
    pub status: Option<u16>,
}

pub(super) struct State {
    pub(super) account: Account,
    pub(super) behaviour: Behaviour,
    pub(super) faults: Vec<Fault>,
    pub(super) calls: Vec<Call>,
    pub(super) messages: Vec<Message>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) asked: BTreeMap<Operation, usize>,
    pub(super) recent: Vec<DateTime<Utc>>,
}

pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) client: reqwest::Client,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(address: SocketAddr, account: Account) -> anyhow::Result<Self> {
        let state = State {
            account,
            behaviour: Behaviour::default(),
            faults: Vec::new(),
            calls: Vec::new(),
            messages: Vec::new(),
            deliveries: Vec::new(),
            asked: BTreeMap::new(),
            recent: Vec::new(),
        };
        Ok(Self {
            address,
            client: reqwest::Client::builder().no_proxy().build()?,
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recording_url(&self, call: &Call) -> Option<String> {
        let is_there = call.recorded && call.answered.is_some() && call.ended.is_some();
        let account = self.lock().account.sid.clone();
        is_there.then(|| {
            format!(
                "http://{}/exotelrecordings/{account}/{}.mp3",
                self.address, call.sid
            )
        })
    }
}

impl State {
    /// As the vendor writes times.
    pub(super) fn written(&self, time: DateTime<Utc>) -> String {
        let time = time + chrono::TimeDelta::seconds(self.behaviour.clock_skew_s);
        match FixedOffset::east_opt(INDIA_S) {
            Some(india) => time.with_timezone(&india).format(FORMAT).to_string(),
            None => String::new(),
        }
    }

    /// A time of a filter.
    pub(super) fn read(&self, text: &str) -> Option<DateTime<Utc>> {
        let time = NaiveDateTime::parse_from_str(text.trim(), FORMAT).ok()?;
        let offset = i64::from(INDIA_S) + self.behaviour.clock_skew_s;
        Some(time.and_utc() - chrono::TimeDelta::seconds(offset))
    }
}

pub(super) fn new_sid() -> String {
    Uuid::new_v4().simple().to_string()
}

/// The vendor writes numbers of India without the country's code.
pub(super) fn national(number: &str) -> String {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    match digits.strip_prefix("91") {
        Some(rest) if rest.len() == 10 => format!("0{rest}"),
        _ => number.to_owned(),
    }
}

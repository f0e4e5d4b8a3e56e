//! What the server knows, and how it behaves.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize)]
pub struct Account {
    pub username: String,
    #[serde(skip)]
    pub password: String,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            username: "us@example.com".into(),
            password: "stand-in-password".into(),
        }
    }
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Connect,
    Login,
    Mail,
    Rcpt,
    /// Within the message, after its first line.
    Data,
    /// After the final dot.
    End,
}

/// How the server behaves until it is told otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// It takes addresses beyond ASCII.
    pub smtp_utf8: bool,
    pub eight_bit_mime: bool,
    /// Replies are the three digits and nothing else.
    pub bare: bool,
    /// Texts have characters of Latin-1, not UTF-8.
    pub latin_1: bool,
    /// Before each answer to a mail.
    pub slow_ms: u64,
    /// After so many mails, 550-5.4.5 after each final dot.
    pub daily_limit: Option<usize>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            smtp_utf8: true,
            eight_bit_mime: true,
            bare: false,
            latin_1: false,
            slow_ms: 0,
            daily_limit: None,
        }
    }
}

/// One misdeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fault {
    pub stage: Stage,
    /// Only where this is in the recipient (before RCPT: never); absent: always.
    #[serde(default)]
    pub to: Option<String>,
    /// `550 5.1.1 nobody here`; absent: the connection ends instead.
    #[serde(default)]
    pub reply: Option<String>,
    /// How often; absent: until it is removed.
    #[serde(default)]
    pub times: Option<u32>,
    /// At the end of a mail that gets no positive answer: it is taken all the same.
    #[serde(default)]
    pub takes: bool,
}

impl Fault {
    /// With a reply, always.
    pub fn reply(stage: Stage, reply: &str) -> Self {
        Self {
            stage,
            to: None,
            reply: Some(reply.to_owned()),
            times: None,
            takes: false,
        }
    }

    /// The connection ends, always.
    pub fn close(stage: Stage) -> Self {
        Self {
            reply: None,
            ..Self::reply(stage, "")
        }
    }

    /// What a recipient's name asks for: `rcpt`, `data` or `end`, then `close` or a reply's digits
    /// and enhanced code: `rcpt-550-5.1.1@…`, `end-571@…`, `data-close@…`, `end-close@…`.
    pub fn of_recipient(recipient: &str) -> Option<Self> {
        let local = recipient.split('@').next()?;
        let (stage, action) = local.split_once('-')?;
        let stage = match stage {
            "rcpt" => Stage::Rcpt,
            "data" => Stage::Data,
            "end" => Stage::End,
            _ => return None,
        };
        let is_reply = action.len() >= 3 && action.bytes().take(3).all(|b| b.is_ascii_digit());
        let fault = match (action, is_reply) {
            ("close", _) => Self::close(stage),
            (_, true) => Self::reply(stage, &action.replacen('-', " ", 1)),
            _ => return None,
        };
        Some(Self {
            to: Some(recipient.to_owned()),
            ..fault
        })
    }
}

/// One that was taken.
#[derive(Debug, Clone, Serialize)]
pub struct Mail {
    pub sender: String,
    pub recipients: Vec<String>,
    pub message: String,
}

impl Mail {
    /// The value of a header that takes one line.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.message.split("\r\n\r\n").next()?;
        headers.split("\r\n").find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(super) struct State {
    pub(super) account: Account,
    pub(super) behaviour: Behaviour,
    pub(super) faults: Vec<Fault>,
    pub(super) mails: Vec<Mail>,
    pub(super) reached: BTreeMap<Stage, usize>,
}

pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(account: Account) -> Self {
        Self(Mutex::new(State {
            account,
            behaviour: Behaviour::default(),
            faults: Vec::new(),
            mails: Vec::new(),
            reached: BTreeMap::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is here: what goes wrong, if anything.
    pub(super) fn at(&self, stage: Stage, recipients: &[String]) -> Option<Fault> {
        let mut state = self.lock();
        *state.reached.entry(stage).or_default() += 1;
        let named = recipients
            .iter()
            .filter_map(|one| Fault::of_recipient(one))
            .find(|fault| fault.stage == stage);
        if named.is_some() {
            return named;
        }
        let place = state.faults.iter().position(|fault| {
            fault.stage == stage
                && fault
                    .to
                    .as_ref()
                    .is_none_or(|part| recipients.iter().any(|one| one.contains(part.as_str())))
        })?;
        let fault = &mut state.faults[place];
        let found = fault.clone();
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                state.faults.remove(place);
            }
        }
        Some(found)
    }
}

//! Sending, once per recipient, and what each reply of the mail server means for the job.
//!
//! What has happened so far is kept under the job's idempotency key: a job that runs again sends
//! only to whom it has not sent. A crash between the server's reply and that note can repeat a mail
//! (at-least-once); its Message-ID is the same, so that readers see one.

use patchbay_plugin::smtp::{self, Envelope, Receipt, Refusal, SmtpFailure};
use patchbay_plugin::{Failure, Job, Retry, Value, json, kv};
use serde::{Deserialize, Serialize};

use crate::address;
use crate::message::Message;
use crate::settings::Settings;

const DEFAULT_DEFER_MINUTES: u64 = 60;
/// Longest text of a server that a result repeats.
const MAX_REPLY_CHARS: usize = 300;

/// What is known about the recipients of one job.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    taken: Vec<String>,
    refused: Vec<Refused>,
    /// Set when nothing is left to do.
    result: Option<Value>,
}

/// A recipient that will not get the mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Refused {
    recipient: String,
    code: u16,
    text: String,
}

impl Progress {
    fn is_settled(&self, address: &str) -> bool {
        let refused = self.refused.iter().map(|refused| &refused.recipient);
        self.taken
            .iter()
            .chain(refused)
            .any(|known| known.eq_ignore_ascii_case(address))
    }
}

pub fn deliver(job: &Job, settings: &Settings, message: Message) -> Result<Value, Failure> {
    let key = format!("sent:{}", job.idempotency_key);
    let mut progress = load(&key)?;
    if let Some(result) = progress.result {
        patchbay_plugin::info!("already sent by an earlier attempt");
        return Ok(result);
    }
    let Some(from) = &message.from else {
        let text = "no sender: set the plugin's setting `from`, or the host's mail.from";
        return Err(Failure::new("not-configured", text, Retry::Never));
    };
    let from = address::one("from", from)
        .map_err(|failure| Failure::new("not-configured", failure.message, Retry::Never))?;
    let message_id = format!(
        "{}@{}",
        &job.idempotency_key[..job.idempotency_key.len().min(40)],
        from.address.domain()
    );
    let open = |progress: &Progress| -> Vec<String> {
        message
            .recipients()
            .into_iter()
            .filter(|address| !progress.is_settled(address))
            .collect()
    };
    let mut recipients = open(&progress);
    if recipients.is_empty() {
        // All were refused, and somebody runs the job again because he has mended that.
        progress.refused.clear();
        recipients = open(&progress);
    }
    let mime = message.mime(&from, &message_id, std::time::SystemTime::now());

    let envelope = Envelope {
        sender: from.address.to_string(),
        recipients: recipients.clone(),
    };
    let sent = smtp::send(&envelope, &mime);
    // Nothing was tried: the host puts the job off, and no attempt is the last one.
    let is_last = job.attempt >= job.max_attempts
        && !sent
            .as_ref()
            .is_err_and(|failure| failure.phase == "breaker-open");
    let outcome = concluded(&mut progress, &recipients, sent, is_last, settings);
    let outcome = outcome.map(|concluded| {
        json!({
            "messageId": format!("<{message_id}>"),
            "accepted": progress.taken,
            "rejected": concluded.rejected,
            "response": concluded.response,
        })
    });
    progress.result = outcome.as_ref().ok().cloned();
    save(&key, &progress);
    outcome
}

/// A job that is done.
struct Concluded {
    rejected: Vec<Refused>,
    response: String,
}

/// Notes the verdicts of one try, and tells whether that is all: each recipient was taken or is
/// refused for good, or nobody is left who could be tried once more.
fn concluded(
    progress: &mut Progress,
    recipients: &[String],
    sent: Result<Receipt, SmtpFailure>,
    is_last: bool,
    settings: &Settings,
) -> Result<Concluded, Failure> {
    let (failure, response) = match sent {
        Ok(receipt) => {
            let daily_limit = receipt.refused.iter().any(is_daily_limit);
            let deferred = sort(progress, receipt.refused);
            let taken = recipients
                .iter()
                .filter(|address| !progress.is_settled(address) && !deferred.contains(address));
            let taken: Vec<String> = taken.cloned().collect();
            progress.taken.extend(taken);
            let text = format!(
                "{} taken; {} recipients deferred by their server, tried again",
                progress.taken.len(),
                deferred.len()
            );
            let failure = match daily_limit {
                true => Failure::new("daily-limit", text, defer(settings)),
                false => Failure::new("deferred", text, Retry::Backoff),
            };
            (failure, shortened(&receipt.reply))
        }
        Err(failure) => {
            let meaning = meaning(&failure, settings);
            sort(progress, failure.refused);
            let text = meaning.message.clone();
            (meaning, text)
        }
    };
    let open: Vec<&String> = recipients
        .iter()
        .filter(|address| !progress.is_settled(address))
        .collect();
    // An earlier attempt may have reached somebody: then the rest decides nothing but itself.
    if progress.taken.is_empty() || !(open.is_empty() || is_last) {
        return Err(failure);
    }
    let mut rejected = progress.refused.clone();
    rejected.extend(open.into_iter().map(|recipient| Refused {
        recipient: recipient.clone(),
        code: 450,
        text: format!("not taken up to the last attempt: {}", failure.message),
    }));
    Ok(Concluded { rejected, response })
}

/// Notes who is refused for good; gives those to be tried again.
fn sort(progress: &mut Progress, refusals: Vec<Refusal>) -> Vec<String> {
    let mut deferred = Vec::new();
    for refusal in refusals {
        if (400..500).contains(&refusal.reply_code) || is_daily_limit(&refusal) {
            deferred.push(refusal.recipient);
        } else {
            let text = shortened(&refusal.text);
            progress.refused.push(Refused {
                recipient: refusal.recipient,
                code: refusal.reply_code,
                text,
            });
        }
    }
    deferred
}

/// Gmail: "Daily user sending limit exceeded". Permanent by its number, temporary by its meaning,
/// and the recipient's fault in no way.
fn is_daily_limit(refusal: &Refusal) -> bool {
    says_daily_limit(refusal.enhanced_code.as_deref(), &refusal.text)
}

fn says_daily_limit(enhanced: Option<&str>, text: &str) -> bool {
    enhanced == Some("5.4.5") || text.starts_with("5.4.5")
}

fn defer(settings: &Settings) -> Retry {
    Retry::DeferMs(settings.defer_minutes.unwrap_or(DEFAULT_DEFER_MINUTES) * 60_000)
}

fn meaning(failure: &SmtpFailure, settings: &Settings) -> Failure {
    let text = shortened(&failure.text);
    let code = failure.reply_code;
    let reply = || match code {
        Some(code) => format!("{code} {text}"),
        None => text.clone(),
    };
    // First, since it says that the mail may be out: whatever else went wrong, that is what to
    // know.
    if failure.ambiguous {
        let text = format!(
            "the mail may have been sent, its answer never came: {}",
            reply()
        );
        return Failure::new("unknown-outcome", text, Retry::Backoff);
    }
    if says_daily_limit(failure.enhanced_code.as_deref(), &failure.text)
        || failure.refused.iter().any(is_daily_limit)
    {
        let text = format!("the account's daily limit is reached: {}", reply());
        return Failure::new("daily-limit", text, defer(settings));
    }
    let permanent = code.is_some_and(|code| code >= 500);
    match failure.phase.as_str() {
        "not-configured" => Failure::new("not-configured", text, Retry::Never),
        "denied" => Failure::new("forbidden", text, Retry::Never),
        "too-large" => Failure::new("too-large", text, Retry::Never),
        // Also 530 and 534: what the account's owner must mend, and what retries could get blocked
        // for.
        "auth" if permanent => Failure::new("bad-credentials", reply(), Retry::Never),
        "auth" | "timeout" => Failure::new("unavailable", reply(), Retry::Backoff),
        "connect" | "tls" if code.is_none() => Failure::new("unavailable", reply(), Retry::Backoff),
        "mail" if permanent => Failure::new("sender-refused", reply(), Retry::Never),
        "rcpt" => {
            let all_permanent = failure
                .refused
                .iter()
                .all(|refusal| refusal.reply_code >= 500);
            let message = format!("no recipient was taken: {}", reply());
            if all_permanent && !failure.refused.is_empty() {
                Failure::new("recipients-refused", message, Retry::Never)
            } else {
                Failure::new("deferred", message, Retry::Backoff)
            }
        }
        _ if permanent => Failure::new("message-refused", reply(), Retry::Never),
        _ => Failure::new("deferred", reply(), Retry::Backoff),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_REPLY_CHARS).collect()
}

fn load(key: &str) -> Result<Progress, Failure> {
    match kv::get(key) {
        Ok(Some(bytes)) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Ok(None) => Ok(Progress::default()),
        // Without it we might send twice; the host's Redis is back soon, or the job could not have
        // started.
        Err(error) => Err(Failure::new(
            "unavailable",
            format!("key-value: {}", error.message),
            Retry::Backoff,
        )),
    }
}

/// The mail is out: failing now would only send it again.
fn save(key: &str, progress: &Progress) {
    let bytes = serde_json::to_vec(progress).unwrap_or_default();
    if let Err(error) = kv::set(key, &bytes, None) {
        patchbay_plugin::warn!("cannot note what was sent: {}", error.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smtp_failure(
        phase: &str,
        code: Option<u16>,
        enhanced: Option<&str>,
        refused: &[(u16, &str)],
    ) -> SmtpFailure {
        SmtpFailure {
            phase: phase.into(),
            reply_code: code,
            enhanced_code: enhanced.map(str::to_owned),
            text: "text".into(),
            ambiguous: false,
            refused: refused
                .iter()
                .map(|(code, enhanced)| Refusal {
                    recipient: format!("{code}@example.com"),
                    reply_code: *code,
                    enhanced_code: Some((*enhanced).to_owned()),
                    text: "text".into(),
                })
                .collect(),
        }
    }

    #[test]
    fn replies_mean_what_the_mail_providers_say_they_mean() {
        let case = |phase, code, enhanced, refused: &[(u16, &str)]| {
            let failure = meaning(
                &smtp_failure(phase, code, enhanced, refused),
                &Settings::default(),
            );
            let retry = match failure.retry {
                Retry::Backoff => "backoff",
                Retry::Never => "never",
                Retry::DeferMs(3_600_000) => "defer an hour",
                _ => "other",
            };
            (failure.code, retry)
        };
        let is = |code: &str, retry| (code.to_owned(), retry);
        assert_eq!(
            case("auth", Some(535), Some("5.7.8"), &[]),
            is("bad-credentials", "never")
        );
        assert_eq!(
            case("auth", Some(534), Some("5.7.9"), &[]),
            is("bad-credentials", "never")
        );
        assert_eq!(
            case("auth", Some(454), Some("4.7.0"), &[]),
            is("unavailable", "backoff")
        );
        assert_eq!(
            case("data", Some(421), Some("4.7.0"), &[]),
            is("deferred", "backoff")
        );
        assert_eq!(
            case("data", Some(550), Some("5.4.5"), &[]),
            is("daily-limit", "defer an hour")
        );
        assert_eq!(
            case("rcpt", Some(550), Some("5.4.5"), &[(550, "5.4.5")]),
            is("daily-limit", "defer an hour")
        );
        assert_eq!(
            case("rcpt", Some(550), Some("5.1.1"), &[(550, "5.1.1")]),
            is("recipients-refused", "never")
        );
        assert_eq!(
            case(
                "rcpt",
                Some(550),
                Some("5.1.1"),
                &[(550, "5.1.1"), (452, "4.2.2")]
            ),
            is("deferred", "backoff")
        );
        assert_eq!(
            case("data", Some(552), Some("5.2.3"), &[]),
            is("message-refused", "never")
        );
        assert_eq!(
            case("not-configured", None, None, &[]),
            is("not-configured", "never")
        );
        assert_eq!(
            case("connect", None, None, &[]),
            is("unavailable", "backoff")
        );
    }

    fn receipt(refused: &[(u16, &str)]) -> Receipt {
        Receipt {
            reply: "ok".into(),
            refused: smtp_failure("rcpt", None, None, refused).refused,
        }
    }

    #[test]
    fn a_mail_that_may_be_out_says_so_whatever_the_phase_is() {
        for phase in ["data", "timeout"] {
            let failure = SmtpFailure {
                ambiguous: true,
                ..smtp_failure(phase, None, None, &[])
            };
            let meaning = meaning(&failure, &Settings::default());
            assert!(
                meaning.code == "unknown-outcome" && matches!(meaning.retry, Retry::Backoff),
                "{phase}"
            );
        }
    }

    #[test]
    fn who_has_the_mail_never_gets_it_again_and_nobody_is_left_out_of_the_result() {
        let all = ["a@example.com", "450@example.com", "550@example.com"].map(str::to_owned);
        let mut progress = Progress::default();
        let settings = Settings::default();
        let first = receipt(&[(450, "4.2.2"), (550, "5.1.1")]);
        let failure = concluded(&mut progress, &all, Ok(first), false, &settings)
            .map(drop)
            .expect_err("one is open");
        assert_eq!(
            (failure.code.as_str(), progress.taken.as_slice()),
            ("deferred", &all[..1])
        );
        let open: Vec<String> = all
            .iter()
            .filter(|address| !progress.is_settled(address))
            .cloned()
            .collect();
        assert_eq!(open, ["450@example.com"]);
        let unreachable = || Err(smtp_failure("connect", None, None, &[]));
        assert!(concluded(&mut progress, &open, unreachable(), false, &settings).is_err());
        let last = concluded(&mut progress, &open, unreachable(), true, &settings)
            .expect("somebody has it");
        let rejected: Vec<_> = last
            .rejected
            .iter()
            .map(|one| (one.recipient.as_str(), one.code))
            .collect();
        assert_eq!(
            rejected,
            [("550@example.com", 550), ("450@example.com", 450)]
        );
        let taken = concluded(&mut progress, &open, Ok(receipt(&[])), false, &settings)
            .expect("all settled");
        assert_eq!((taken.rejected.len(), progress.taken.len()), (1, 2));
    }

    #[test]
    fn only_deferred_recipients_are_tried_again() {
        let mut progress = Progress::default();
        let failure = smtp_failure(
            "rcpt",
            None,
            None,
            &[(550, "5.1.1"), (451, "4.3.0"), (550, "5.4.5")],
        );
        assert_eq!(
            sort(&mut progress, failure.refused),
            ["451@example.com", "550@example.com"]
        );
        assert_eq!(progress.refused.len(), 1);
    }
}

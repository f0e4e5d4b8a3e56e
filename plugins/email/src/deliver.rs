//! Sending, once per recipient.
//!
//! What has happened so far is kept under the job's idempotency key: a job that runs again sends
//! only to whom it has not sent. A crash between the server's reply and that note can repeat a mail
//! (at-least-once); its Message-ID is the same, so that readers see one.

use std::time::{SystemTime, UNIX_EPOCH};

use patchbay_plugin::smtp::{self, Envelope, Receipt, Refusal, SmtpFailure};
use patchbay_plugin::{Failure, Job, Retry, Value, json, kv};
use serde::{Deserialize, Serialize};

use crate::address;
use crate::database::kv_failed;
use crate::hold;
use crate::payload::Made;
use crate::record::{self, About, Outcome, Record};
use crate::replies::{defer, defer_ms, is_daily_limit, is_limited, meaning, shortened};
use crate::settings::Settings;
use crate::suppression;

/// How the host's own jobs about accounts begin: nobody is to see what their mails say.
const CONFIDENTIAL: &str = "account-mail-";

/// What is known about the recipients of one job.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    taken: Vec<String>,
    refused: Vec<Refused>,
    /// Set when nothing is left to do.
    result: Option<Value>,
    /// Of the last try, to be written down: whoever runs the job again adds it again.
    record: Option<(String, Record)>,
}

/// A recipient that will not get the mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Refused {
    recipient: String,
    code: u16,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enhanced: Option<String>,
    /// Not even tried: a server had said that nobody is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    suppressed: bool,
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

pub fn deliver(job: &Job, settings: &Settings, made: Made) -> Result<Value, Failure> {
    let Made { message, about } = made;
    let key = format!("sent:{}", job.idempotency_key);
    let mut progress = load(&key)?;
    if let Some(result) = progress.result {
        patchbay_plugin::info!("already sent by an earlier attempt");
        if let Some((id, record)) = &progress.record {
            record::enqueue(id, record);
        }
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
    let (taken, refused) = (progress.taken.len(), progress.refused.len());
    let recipients = without_suppressed(&mut progress, recipients)?;
    let mut is_last = job.attempt >= job.max_attempts;
    let (outcome, reply) = if recipients.is_empty() {
        (all_suppressed(&progress), String::new())
    } else {
        let permit = hold::permit()?;
        let mime = message.mime(&from, &message_id, SystemTime::now());
        let envelope = Envelope {
            sender: from.address.to_string(),
            recipients: recipients.clone(),
        };
        let sent = smtp::send(&envelope, &mime);
        let refusals = match &sent {
            Ok(receipt) => &receipt.refused,
            Err(failure) => &failure.refused,
        };
        for one in refusals {
            if suppression::is_nobody_there(one.reply_code, one.enhanced_code.as_deref()) {
                suppression::suppress(&one.recipient);
            }
        }
        hold::told(&permit, is_limited(&sent), sent.is_ok(), defer_ms(settings));
        let reply = match &sent {
            Ok(receipt) => shortened(&receipt.reply),
            Err(_) => String::new(),
        };
        // Nothing was tried: the host puts the job off, and no attempt is the last one.
        is_last &= !sent
            .as_ref()
            .is_err_and(|failure| failure.phase == "breaker-open");
        (
            concluded(&mut progress, &recipients, sent, is_last, settings),
            reply,
        )
    };
    let outcomes = outcomes(
        &progress,
        (taken, refused),
        &recipients,
        &outcome,
        &reply,
        is_last,
    );
    let outcome = outcome.map(|concluded| {
        json!({
            "messageId": format!("<{message_id}>"),
            "accepted": progress.taken,
            "rejected": concluded.rejected,
            "response": concluded.response,
        })
    });
    progress.result = outcome.as_ref().ok().cloned();
    progress.record = recorded(job, &message_id, outcomes, about);
    save(&key, &progress);
    if let Some((id, record)) = &progress.record {
        record::enqueue(id, record);
    }
    outcome
}

/// Those whose address is not known to be gone; the others are noted as refused.
fn without_suppressed(
    progress: &mut Progress,
    recipients: Vec<String>,
) -> Result<Vec<String>, Failure> {
    let mut left = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        if suppression::is_suppressed(&recipient)? {
            progress.refused.push(Refused {
                recipient,
                code: 550,
                text: "suppressed: a mail server has said that nobody is there".into(),
                enhanced: None,
                suppressed: true,
            });
        } else {
            left.push(recipient);
        }
    }
    Ok(left)
}

/// Nobody is left to be tried.
fn all_suppressed(progress: &Progress) -> Result<Concluded, Failure> {
    if progress.taken.is_empty() {
        let text = "no recipient is left: of each, a mail server has said that nobody is there. The way back: \
                    patchbay plugin call email lift-suppression --input '{\"path\":{\"address\":\"…\"}}'";
        return Err(Failure::new("suppressed", text, Retry::Never));
    }
    Ok(Concluded {
        rejected: progress.refused.clone(),
        response: "nobody else is left".into(),
    })
}

/// What is to be written down of this try: who is settled by it, and what nobody knows. `before` is
/// how many were taken and refused before it.
fn outcomes(
    progress: &Progress,
    before: (usize, usize),
    tried: &[String],
    outcome: &Result<Concluded, Failure>,
    reply: &str,
    is_last: bool,
) -> Vec<Outcome> {
    let mut all = Vec::new();
    let mut note = |address: &str, status: &str, code, enhanced: Option<&str>, reply: &str| {
        all.push(Outcome {
            address: address.to_owned(),
            status: status.to_owned(),
            code,
            enhanced: enhanced.map(str::to_owned),
            reply: reply.to_owned(),
        });
    };
    for address in progress.taken.iter().skip(before.0) {
        note(address, "sent", Some(250), None, reply);
    }
    for one in progress.refused.iter().skip(before.1) {
        let status = if one.suppressed {
            "suppressed"
        } else {
            "refused"
        };
        note(
            &one.recipient,
            status,
            Some(one.code),
            one.enhanced.as_deref(),
            &one.text,
        );
    }
    let open = tried.iter().filter(|address| !progress.is_settled(address));
    let status = match outcome {
        // Given up with the last attempt.
        Ok(_) => Some("failed"),
        Err(failure) if failure.code == "unknown-outcome" => Some("unknown"),
        Err(failure) => match failure.retry {
            Retry::Never => Some("failed"),
            Retry::DeferMs(_) => None,
            _ => is_last.then_some("failed"),
        },
    };
    if let Some(status) = status {
        let text = match outcome {
            Ok(_) => "not taken up to the last attempt",
            Err(failure) => &failure.message,
        };
        open.for_each(|address| note(address, status, None, None, text));
    }
    all
}

/// The job that writes it down, under an id that is the same when this attempt runs again.
fn recorded(
    job: &Job,
    message_id: &str,
    outcomes: Vec<Outcome>,
    about: About,
) -> Option<(String, Record)> {
    if outcomes.is_empty() {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or_default());
    let about = match job.id.starts_with(CONFIDENTIAL) {
        true => About {
            subject: String::new(),
            ..about
        },
        false => about,
    };
    let record = Record {
        message_id: format!("<{message_id}>"),
        job_id: job.id.clone(),
        platform: job.platform.clone(),
        tried_at_ms: now,
        to: outcomes.iter().map(|one| one.address.clone()).collect(),
        outcomes,
        about,
    };
    let id = format!("record-{}-{}", job.idempotency_key, job.attempt);
    Some((id, record))
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
    // A job that is put off runs again, whatever attempt this is.
    let is_last = is_last && !matches!(failure.retry, Retry::DeferMs(_));
    // An earlier attempt may have reached somebody: then the rest decides nothing but itself.
    if progress.taken.is_empty() || !(open.is_empty() || is_last) {
        return Err(failure);
    }
    let mut rejected = progress.refused.clone();
    rejected.extend(open.into_iter().map(|recipient| Refused {
        recipient: recipient.clone(),
        code: 450,
        text: format!("not taken up to the last attempt: {}", failure.message),
        enhanced: None,
        suppressed: false,
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
                enhanced: refusal.enhanced_code,
                suppressed: false,
            });
        }
    }
    deferred
}

fn load(key: &str) -> Result<Progress, Failure> {
    let bytes = kv::get(key).map_err(kv_failed)?;
    Ok(bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

/// The mail is out: failing now would only send it again.
fn save(key: &str, progress: &Progress) {
    let bytes = serde_json::to_vec(progress).unwrap_or_default();
    if let Err(error) = kv::set(key, &bytes, None) {
        patchbay_plugin::warn!("cannot note what was sent: {}", error.message);
    }
}

#[cfg(test)]
mod tests;

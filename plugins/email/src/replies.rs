//! What replies of the mail server mean for a job. Their digits decide, and the enhanced code
//! (RFC 3463) where there is one; never the text, which may say anything in any language.

use patchbay_plugin::smtp::{Receipt, Refusal, SmtpFailure};
use patchbay_plugin::{Failure, Retry};

use crate::settings::Settings;

const DEFAULT_DEFER_MINUTES: u64 = 60;
/// Longest text of a server that a result repeats.
const MAX_REPLY_CHARS: usize = 300;

/// Gmail: "Daily user sending limit exceeded". Permanent by its number, temporary by its meaning,
/// and the recipient's fault in no way.
pub fn is_daily_limit(refusal: &Refusal) -> bool {
    names_daily_limit(Some(refusal.reply_code), refusal.enhanced_code.as_deref())
}

/// By its numbers alone: the text may say anything, in any language.
fn names_daily_limit(code: Option<u16>, enhanced: Option<&str>) -> bool {
    code.is_some_and(|code| code >= 500) && enhanced == Some("5.4.5")
}

/// Whether the answer to a mail names the account's daily limit.
pub fn is_limited(sent: &Result<Receipt, SmtpFailure>) -> bool {
    match sent {
        Ok(receipt) => receipt.refused.iter().any(is_daily_limit),
        Err(failure) => {
            !failure.ambiguous
                && (names_daily_limit(failure.reply_code, failure.enhanced_code.as_deref())
                    || failure.refused.iter().any(is_daily_limit))
        }
    }
}

pub fn defer_ms(settings: &Settings) -> u64 {
    settings.defer_minutes.unwrap_or(DEFAULT_DEFER_MINUTES) * 60_000
}

pub fn defer(settings: &Settings) -> Retry {
    Retry::DeferMs(defer_ms(settings))
}

/// What a failure means for its job.
pub fn meaning(failure: &SmtpFailure, settings: &Settings) -> Failure {
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
    if names_daily_limit(code, failure.enhanced_code.as_deref())
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
        "auth" if permanent => {
            let text = format!(
                "the mail server does not accept the account's login: {}. Make a new password (an app password) for it, and \
                 put it in the file of mail.password_file, or in mail.password (EMAIL_PASS); then retry the jobs",
                reply()
            );
            Failure::new("bad-credentials", text, Retry::Never)
        }
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

/// As far as a result repeats it.
pub fn shortened(text: &str) -> String {
    text.chars().take(MAX_REPLY_CHARS).collect()
}

#[cfg(test)]
pub(crate) mod tests;

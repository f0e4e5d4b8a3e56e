//! Checks of the configuration and of this process's limits, without any connection.

use chrono::{TimeDelta, Utc};
use patchbay_http::Pair;
use patchbay_model::words::counted;

use super::{Findings, INFRASTRUCTURE, Level};
use crate::config::Config;
use crate::limits::{self, TooSmall};

pub(super) fn check_config(config: &Config, findings: &mut Findings) {
    match config.admin.operator() {
        Some(_) => findings.ok("operator", "configured"),
        None => findings.bad(
            "operator",
            Level::Warning,
            "no operator is configured: /api/admin refuses every request",
            "set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD",
        ),
    }
    check_https(config, findings);
    match config.mail.account() {
        Some(mail) if config.mail.sender().is_none() => findings.bad(
            "mail",
            Level::Warning,
            format!(
                "{}:{}, but no sender is configured: plugins that set none fail as not-configured",
                mail.host, mail.port
            ),
            "set EMAIL_FROM",
        ),
        Some(mail) => match mail.password_file.as_deref().map(std::fs::read_to_string) {
            Some(Err(error)) => findings.bad(
                "mail",
                Level::Error,
                format!("the file of mail.password_file cannot be read: {error}"),
                "correct mail.password_file, or the rights of the file",
            ),
            _ => findings.ok("mail", format!("{}:{}", mail.host, mail.port)),
        },
        None => findings.bad(
            "mail",
            Level::Warning,
            "no account is configured: plugins that send mail fail as not-configured",
            "set EMAIL_USER and EMAIL_PASS, or mail.host",
        ),
    }
    let alerts = &config.alerts;
    if alerts.webhook_url.is_none() && alerts.slack_url.is_none() && alerts.mail_to.is_empty() {
        let mend =
            "set alerts.webhook_url, alerts.slack_url or alerts.mail_to, then: patchbay alert test";
        findings.bad(
            "alerts",
            Level::Warning,
            "no channel is configured: alerts are not delivered",
            mend,
        );
    } else {
        findings.ok("alerts", "a channel is configured");
    }
    let cache = &*config.runtime.cache_dir;
    let writable = std::fs::create_dir_all(cache).and_then(|()| tempfile::tempfile_in(cache));
    match writable {
        Ok(_) => findings.ok("cache", cache.display().to_string()),
        Err(error) => findings.bad(
            "cache",
            Level::Error,
            format!("{}: {error}", cache.display()),
            "set runtime.cache_dir to a directory that only this user can write",
        ),
    }
}

/// Less than this, and the renewal did not happen.
const RENEWED_BEFORE: TimeDelta = TimeDelta::days(21);

fn check_https(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "https";
    let Some(files) = config.http.tls() else {
        return findings.ok(
            CHECK,
            match config.http.is_https() {
                true => "plain HTTP, behind a proxy that serves HTTPS (http.public_url)",
                false => "plain HTTP",
            },
        );
    };
    let now = Utc::now();
    let pair = match Pair::load(&files, now) {
        Ok(pair) => pair,
        Err(problem) => {
            let mend = "docs/operations/http.md says which files are needed";
            return findings.bad(CHECK, Level::Error, problem.to_string(), mend);
        }
    };
    let names = match pair.names.is_empty() {
        true => "no name".to_owned(),
        false => pair.names.join(", "),
    };
    let ends = pair.ends.format("%Y-%m-%d %H:%M UTC");
    let left = counted((pair.ends - now).num_days(), "day");
    let message = format!("certificate for {names}, valid until {ends} ({left})");
    match pair.ends - now < RENEWED_BEFORE {
        true => findings.bad(
            CHECK,
            Level::Warning,
            message,
            "renew it, and write the new files in the place of the old ones; no restart is needed",
        ),
        false => findings.ok(CHECK, message),
    }
}

pub(super) fn check_limits(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "limits";
    let problems = limits::problems(config);
    if problems.is_empty() {
        return findings.ok(CHECK, "open files and address space, of this shell");
    }
    for problem in problems {
        let level = match problem {
            TooSmall::AddressSpace {
                is_hopeless: true, ..
            } => Level::Error,
            _ => Level::Warning,
        };
        findings.bad(CHECK, level, problem.to_string(), INFRASTRUCTURE);
    }
}

use super::*;

pub(crate) fn smtp_failure(
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
fn a_reply_decides_by_its_digits_whatever_its_text_says() {
    let refused = |code, enhanced: Option<&str>, text: &str| SmtpFailure {
        text: text.into(),
        ..smtp_failure("data", Some(code), enhanced, &[])
    };
    for (failure, code) in [
        (
            refused(550, None, "5.4.5 in the text only"),
            "message-refused",
        ),
        (
            refused(550, Some("5.4.5"), "Tageslimit f\u{fc}r heute"),
            "daily-limit",
        ),
        (refused(421, None, ""), "deferred"),
        (refused(421, Some("4.4.5"), "busy"), "deferred"),
        (refused(452, None, "permanent failure 550"), "deferred"),
        (refused(571, None, "try again later 421"), "message-refused"),
        (
            refused(554, Some("5.7.1"), "\u{e9}\u{e8}"),
            "message-refused",
        ),
    ] {
        let meaning = meaning(&failure, &Settings::default());
        assert_eq!(meaning.code, code, "{failure:?}");
        assert_eq!(is_limited(&Err(failure)), code == "daily-limit");
    }
    let stale = smtp_failure("auth", Some(535), None, &[]);
    let stale = meaning(&stale, &Settings::default());
    assert!(
        stale.message.contains("EMAIL_PASS") && matches!(stale.retry, Retry::Never),
        "{}",
        stale.message
    );
}

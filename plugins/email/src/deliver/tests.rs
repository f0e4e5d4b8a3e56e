use super::*;
use crate::replies::tests::smtp_failure;

fn receipt(refused: &[(u16, &str)]) -> Receipt {
    Receipt {
        reply: "ok".into(),
        refused: smtp_failure("rcpt", None, None, refused).refused,
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
    let last =
        concluded(&mut progress, &open, unreachable(), true, &settings).expect("somebody has it");
    let rejected: Vec<_> = last
        .rejected
        .iter()
        .map(|one| (one.recipient.as_str(), one.code))
        .collect();
    assert_eq!(
        rejected,
        [("550@example.com", 550), ("450@example.com", 450)]
    );
    let taken =
        concluded(&mut progress, &open, Ok(receipt(&[])), false, &settings).expect("all settled");
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

#[test]
fn what_is_written_down_of_a_try_is_who_is_settled_by_it() {
    let settings = Settings::default();
    let all = ["a@example.com", "450@example.com", "550@example.com"].map(str::to_owned);
    let mut progress = Progress::default();
    let told = |progress: &Progress, before, outcome: &Result<Concluded, Failure>, is_last| {
        let outcomes = outcomes(progress, before, &all, outcome, "ok", is_last);
        let told = outcomes
            .into_iter()
            .map(|one| format!("{} {}", one.address, one.status));
        told.collect::<Vec<_>>()
    };
    let answer = Ok(receipt(&[(450, "4.2.2"), (550, "5.1.1")]));
    let first = concluded(&mut progress, &all, answer, false, &settings);
    assert_eq!(
        told(&progress, (0, 0), &first, false),
        ["a@example.com sent", "550@example.com refused"]
    );
    let mut again = |answer: SmtpFailure, is_last| {
        let outcome = concluded(&mut progress, &all[1..2], Err(answer), is_last, &settings);
        let told = told(&progress, (1, 1), &outcome, is_last);
        (outcome.is_ok(), told)
    };
    let unknown = SmtpFailure {
        ambiguous: true,
        ..smtp_failure("data", None, None, &[])
    };
    assert_eq!(
        again(unknown, false),
        (false, vec!["450@example.com unknown".to_owned()])
    );
    let away = || smtp_failure("connect", None, None, &[]);
    assert_eq!(again(away(), false), (false, vec![]), "it is tried again");
    let limited = smtp_failure("data", Some(550), Some("5.4.5"), &[]);
    assert_eq!(again(limited, true), (false, vec![]), "it is put off");
    assert_eq!(
        again(away(), true),
        (true, vec!["450@example.com failed".to_owned()])
    );
}

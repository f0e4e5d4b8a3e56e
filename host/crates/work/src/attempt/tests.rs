use patchbay_capability::{Breakers, Refused};

use super::*;

fn ended(outcome: Outcome) -> Execution {
    let breaker =
        Breakers::default().of(&"email".parse().expect("a name"), "https://a.example:443");
    ended_by(breaker, outcome)
}

fn ended_by(breaker: std::sync::Arc<patchbay_capability::Breaker>, outcome: Outcome) -> Execution {
    let refused = Some(Refused {
        breaker,
        retry_in: Duration::from_secs(10),
    });
    let policy = RetryPolicy {
        attempts: 1,
        backoff: None,
    };
    unless_refused(
        Execution {
            ran_by: None,
            policy,
            outcome,
            stack: None,
            refused,
            calls: Vec::new(),
        },
        0.5,
    )
}

#[test]
fn whatever_a_guest_makes_of_an_open_breaker_its_job_waits_for_a_day_without_using_up_an_attempt() {
    let never = Failure {
        code: "x".into(),
        message: "no".into(),
        retry: Retry::Never,
        details: None,
    };
    for outcome in [
        Outcome::Failed(never),
        Outcome::Trapped("unwrap".into()),
        Outcome::Deadline(Duration::from_secs(30)),
    ] {
        let execution = ended(outcome);
        assert_eq!(execution.outcome.code(), Some("breaker-open"));
        let verdict = |since_first_deferral| {
            let past = Past {
                attempts_made: 1,
                since_first_deferral,
                least_deferral: Duration::ZERO,
            };
            decide(&execution.outcome, &execution.policy, &past, 0.0)
        };
        assert_eq!(
            verdict(Duration::ZERO),
            Verdict::Defer(Duration::from_secs(11)),
            "and a tenth, to spread them"
        );
        assert_eq!(
            verdict(Duration::from_secs(24 * 3600)),
            Verdict::Fail,
            "then attempts count, and it had one"
        );
    }
}

#[test]
fn a_job_that_waits_for_a_breaker_that_an_operator_opened_says_who_opened_it_and_why() {
    let breaker =
        Breakers::default().of(&"email".parse().expect("a name"), "https://a.example:443");
    breaker.hold("ops", "maintenance");
    let waits = ended_by(breaker, Outcome::Trapped("unwrap".into()));
    let reason = waits.outcome.reason().unwrap_or_default();
    assert!(
        reason.contains("its breaker was opened by ops: maintenance; the plugin says: "),
        "{reason}"
    );
}

#[test]
fn a_call_that_did_not_fail_by_it_is_settled_as_it_ended() {
    for outcome in [
        Outcome::Completed("1".into()),
        Outcome::MemoryLimit(1),
        Outcome::InvalidResult("x".into()),
    ] {
        let execution = ended(outcome.clone());
        assert_eq!(execution.outcome, outcome);
        assert!(execution.refused.is_none(), "and holds up no queue");
    }
}

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn status() -> impl Strategy<Value = CallStatus> {
    select(CallStatus::ALL.to_vec())
}

/// Any news of one call, also such that contradicts itself.
fn news() -> impl Strategy<Value = CallNews> {
    (
        option::of(Just("a".to_owned())),
        option::of(status()),
        option::of(select(vec!["x".to_owned(), "y".to_owned()])),
        option::of(0..100i64),
        option::of(0..100i64),
        option::of(select(vec!["u".to_owned(), "v".to_owned()])),
        option::of(0..100i64),
        option::of(0..100i64),
    )
        .prop_map(
            |(sid, status, vendor_status, duration_s, conversation_s, url, answered, ended)| {
                CallNews {
                    sid,
                    vendor_status: vendor_status.filter(|_| status.is_some()),
                    status,
                    duration_s,
                    conversation_s,
                    recording_url: url,
                    answered_by: None,
                    answered_at: answered,
                    ended_at: ended,
                }
            },
        )
}

fn all(state: &CallState, news: &[CallNews]) -> CallState {
    news.iter()
        .fold(state.clone(), |state, news| state.after(news))
}

proptest! {
    #[test]
    fn every_order_and_every_repeat_of_the_same_news_ends_in_the_same_row(
        news in vec(news(), 0..6),
        order in any::<u64>(),
        start in select(vec![CallStatus::Placing, CallStatus::Refused, CallStatus::Unknown, CallStatus::Queued]),
    ) {
        let state = CallState::new(start);
        let mut shuffled: Vec<CallNews> = [news.clone(), news.clone(), news.clone()].concat();
        fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
        prop_assert_eq!(all(&state, &news), all(&state, &shuffled));
    }

    #[test]
    fn no_news_takes_a_state_backwards_or_a_value_away(before in vec(news(), 0..4), news in news()) {
        let state = all(&CallState::new(CallStatus::Placing), &before);
        let after = state.after(&news);
        prop_assert!(after.status >= state.status);
        prop_assert!(after.duration_s >= state.duration_s);
        prop_assert!(after.recording_url >= state.recording_url);
        prop_assert!(state.sid.is_none() || after.sid == state.sid);
        prop_assert!(state.answered_at.is_none() || after.answered_at <= state.answered_at);
    }

    #[test]
    fn news_of_another_call_changes_nothing(news in news()) {
        let mut state = CallState::new(CallStatus::Queued);
        state.sid = Some("another".into());
        let news = CallNews { sid: Some("a".into()), ..news };
        prop_assert_eq!(state.after(&news), state);
    }

    #[test]
    fn messages_end_in_the_same_row_in_every_order(
        told in vec((select(vec!["queued", "sending", "submitted", "sent", "failed", "failed-dnd", "delivered", "odd"]),
                     select(vec![None, Some("20005"), Some("23005")])), 0..6),
        order in any::<u64>(),
    ) {
        let state = SmsState { sid: None, status: SmsStatus::Sending, detailed_code: None, detailed_status: None };
        let news: Vec<SmsNews> = told.iter().map(|(status, code)| SmsNews::new("a", status, *code, None)).collect();
        let all = |news: &[SmsNews]| news.iter().fold(state.clone(), |state, news| state.after(news));
        let mut shuffled = [news.clone(), news.clone()].concat();
        fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
        prop_assert_eq!(all(&news), all(&shuffled));
        prop_assert!(all(&news).status >= SmsStatus::Sending);
    }
}

#[test]
fn every_status_has_a_name_of_its_own() {
    for status in CallStatus::ALL {
        assert_eq!(CallStatus::parse(status.as_str()), Some(status));
    }
    for status in SmsStatus::ALL {
        assert_eq!(SmsStatus::parse(status.as_str()), Some(status));
    }
    assert_eq!(CallStatus::parse("COMPLETED"), None);
}

#[test]
fn an_event_says_what_its_name_says_whatever_its_status() {
    let event = |name: &str, status: Option<&str>| Event {
        kind: Kind::Call,
        sid: "a".into(),
        event: name.into(),
        reference: String::new(),
        status: status.map(str::to_owned),
        from: None,
        to: None,
        recording_url: None,
        answered_by: None,
        detailed_status: None,
        detailed_code: None,
        duration_s: None,
        conversation_s: None,
        start_time: None,
        end_time: None,
        date_updated: None,
        received_at: 0,
    };
    let status = |name, status| CallNews::of_event(&event(name, status), "+05:30").status;
    assert_eq!(
        status("answered", Some("in-progress")),
        Some(CallStatus::InProgress)
    );
    assert_eq!(
        status("answered", Some("completed")),
        Some(CallStatus::InProgress)
    );
    assert_eq!(status("terminal", Some("busy")), Some(CallStatus::Busy));
    assert_eq!(
        status("terminal", Some("in-progress")),
        Some(CallStatus::Ended)
    );
    assert_eq!(status("terminal", None), Some(CallStatus::Ended));
    assert_eq!(
        status("no-answer", Some("no-answer")),
        Some(CallStatus::NoAnswer)
    );
    assert_eq!(status("odd", Some("odd")), None);
}

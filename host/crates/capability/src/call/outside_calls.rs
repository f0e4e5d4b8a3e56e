//! The outside calls of an attempt, for its history.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::attempt::{MAX_CALLS, OutsideCall};

/// Limits, because a guest chooses hosts and methods.
const MAX_HOST_BYTES: usize = 255;
const MAX_METHOD_BYTES: usize = 16;
/// Result of a call that has not ended.
const UNFINISHED: &str = "unfinished";

/// Calls in order. A call that is cut short with its guest stays unfinished.
pub(crate) struct OutsideCalls {
    started: Instant,
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    calls: Vec<OutsideCall>,
    beyond: usize,
}

/// Index of a call that has begun; absent beyond [`MAX_CALLS`].
pub(crate) struct CallIndex(Option<usize>);

impl OutsideCalls {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            begun: Mutex::default(),
        }
    }

    pub(crate) fn begin(
        &self,
        kind: &str,
        method: Option<&str>,
        host: &str,
        credential: Option<String>,
    ) -> CallIndex {
        let mut begun = self.begun.lock();
        if begun.calls.len() >= MAX_CALLS {
            begun.beyond += 1;
            return CallIndex(None);
        }
        begun.calls.push(OutsideCall {
            kind: kind.to_owned(),
            method: method.map(|method| cut(method, MAX_METHOD_BYTES)),
            host: cut(host, MAX_HOST_BYTES),
            result: UNFINISHED.to_owned(),
            after_ms: ms(self.started.elapsed()),
            took_ms: 0,
            credential,
        });
        CallIndex(Some(begun.calls.len() - 1))
    }

    pub(crate) fn end(&self, place: &CallIndex, result: String) {
        let mut begun = self.begun.lock();
        if let Some(call) = place.0.and_then(|place| begun.calls.get_mut(place)) {
            call.took_ms = ms(self.started.elapsed()).saturating_sub(call.after_ms);
            call.result = result;
        }
    }

    /// All calls, once the guest has ended.
    pub(crate) fn take(&self) -> Vec<OutsideCall> {
        let Begun { mut calls, beyond } = std::mem::take(&mut *self.begun.lock());
        let now_ms = ms(self.started.elapsed());
        for call in calls.iter_mut().filter(|call| call.result == UNFINISHED) {
            call.took_ms = now_ms.saturating_sub(call.after_ms);
        }
        if beyond > 0 {
            calls.push(OutsideCall {
                kind: "more".to_owned(),
                method: None,
                host: String::new(),
                result: beyond.to_string(),
                after_ms: now_ms,
                took_ms: 0,
                credential: None,
            });
        }
        calls
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_the_limit_are_counted_and_one_that_never_ended_says_so() {
        let calls = OutsideCalls::new();
        let first = calls.begin(
            "http",
            Some("POST"),
            "api.example:8443",
            Some("acme-1".into()),
        );
        calls.end(&first, "503".into());
        for _ in 0..MAX_CALLS + 9 {
            calls.begin("mail", None, "smtp.example:465", None);
        }
        let taken = calls.take();
        assert_eq!(taken.len(), MAX_CALLS + 1);
        assert_eq!(
            (taken[0].host.as_str(), taken[0].result.as_str()),
            ("api.example:8443", "503")
        );
        assert_eq!(taken[0].credential.as_deref(), Some("acme-1"));
        assert_eq!(taken[1].result, UNFINISHED);
        assert_eq!(
            (
                taken[MAX_CALLS].kind.as_str(),
                taken[MAX_CALLS].result.as_str()
            ),
            ("more", "10")
        );
    }

    #[test]
    fn whatever_a_guest_calls_its_record_is_short() {
        let calls = OutsideCalls::new();
        calls.begin("http", Some(&"Ü".repeat(100)), &"é".repeat(1_000), None);
        let call = calls.take().remove(0);
        assert!(
            call.host.len() <= MAX_HOST_BYTES
                && call
                    .method
                    .is_some_and(|method| method.len() <= MAX_METHOD_BYTES)
        );
    }
}

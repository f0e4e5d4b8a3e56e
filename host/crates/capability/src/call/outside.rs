//! Outside calls: HTTP and mail within the manifest and its grants, and which there were, for the history of the attempt.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use patchbay_model::attempt::{MAX_CALLS, OutsideCall};
use patchbay_model::capability::{Envelope, HttpError, HttpRequest, HttpResponse, SmtpFailure, SmtpReceipt};
use patchbay_model::egress::breakers;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::EgressRule;

use super::GuestCall;
use crate::breaker::Report;
use crate::egress::Caller;
use crate::mail::failure;

/// A guest chooses hosts and methods.
const MAX_HOST_BYTES: usize = 255;
const MAX_METHOD_BYTES: usize = 16;
/// Of a call that has not ended.
const UNFINISHED: &str = "unfinished";

/// Calls in their order. One that is cut short with its guest stays as it was begun.
pub(super) struct OutsideCalls {
    started: Instant,
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    calls: Vec<OutsideCall>,
    beyond: usize,
}

/// One that has begun; absent beyond the limit.
pub(super) struct Place(Option<usize>);

impl OutsideCalls {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), begun: Mutex::default() }
    }

    pub(super) fn begin(&self, kind: &str, method: Option<&str>, host: &str) -> Place {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.calls.len() >= MAX_CALLS {
            begun.beyond += 1;
            return Place(None);
        }
        begun.calls.push(OutsideCall {
            kind: kind.to_owned(),
            method: method.map(|method| cut(method, MAX_METHOD_BYTES)),
            host: cut(host, MAX_HOST_BYTES),
            result: UNFINISHED.to_owned(),
            after_ms: ms(self.started.elapsed()),
            took_ms: 0,
        });
        Place(Some(begun.calls.len() - 1))
    }

    pub(super) fn end(&self, place: &Place, result: String) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = place.0.and_then(|place| begun.calls.get_mut(place)) {
            call.took_ms = ms(self.started.elapsed()).saturating_sub(call.after_ms);
            call.result = result;
        }
    }

    /// All of them, once the guest has ended.
    pub(super) fn take(&self) -> Vec<OutsideCall> {
        let Begun { mut calls, beyond } =
            std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
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
            });
        }
        calls
    }
}

impl GuestCall {
    pub(super) async fn send_http(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.refuse_in_transaction().map_err(HttpError::Denied)?;
        // A rule's own secrets, granted with it or one by one.
        let secrets = |name: &str| self.secret(name).ok()?.into_iter().next();
        let permitted = |rule: &EgressRule| self.check(Ask::http(rule));
        let correlation = self.call.trace.correlation_id.as_deref();
        let admit = |host: &str| {
            let spec = breakers(&self.call.manifest.egress).get(host).copied();
            self.admit(host, spec).map_err(|wait| HttpError::BreakerOpen(wait.as_millis() as u64))
        };
        let caller = Caller {
            revision: self.call.revision,
            manifest: &self.call.manifest,
            permitted: &permitted,
            admit: &admit,
            secrets: &secrets,
            correlation_id: correlation,
        };
        let send = self.services.egress.send(caller, request);
        tracing::Instrument::instrument(send, self.call.span.clone()).await
    }

    pub(super) async fn hand_over(&self, envelope: Envelope, mime: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure> {
        self.refuse_in_transaction().map_err(|reason| failure("denied", &reason))?;
        if !self.call.manifest.smtp.as_ref().is_some_and(|smtp| smtp.allowed) {
            return Err(failure("denied", "the manifest does not ask for smtp"));
        }
        self.check(Ask::smtp()).map_err(|reason| failure("denied", &reason))?;
        let spec = self.call.manifest.smtp.as_ref().and_then(|smtp| smtp.breaker);
        let admission = match self.services.mail.server() {
            None => None,
            Some(server) => Some(self.admit(&server, spec).map_err(|wait| {
                let text = format!("{server} failed too often and is not tried for {} ms", wait.as_millis());
                failure("breaker-open", text)
            })?),
        };
        let remaining = self.call.deadline.saturating_duration_since(Instant::now());
        // From then on the outcome is unknown until the server has answered. A mail that may be out costs an attempt, also as the probe
        // of a breaker: put off as one that the breaker refused, it would go out again with every probe.
        let asked = self.asked();
        let committed = || self.set_asked(None);
        let plugin = self.call.manifest.name.as_str();
        let send = self.services.mail.send(plugin, envelope, &mime, remaining, &committed);
        let (answer, report) = tracing::Instrument::instrument(send, self.call.span.clone()).await;
        if answer.as_ref().is_err_and(|failure| !failure.ambiguous) {
            self.set_asked(asked);
        }
        if let Some(admission) = admission {
            let failed = answer.as_ref().err().filter(|_| report == Report::Failed);
            admission.report(report, failed.map(|error| format!("{}: {}", error.phase, error.text)));
        }
        answer
    }
}

/// The host of a URL, with its port where that is not the usual one. What is no URL has none.
pub(super) fn host_of(url: &str) -> String {
    let Ok(url) = url.parse::<reqwest::Url>() else { return String::new() };
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn http_result(answer: &Result<HttpResponse, HttpError>) -> String {
    match answer {
        Ok(response) => response.status.to_string(),
        Err(error) => match error {
            HttpError::Denied(_) => "denied",
            HttpError::Timeout(_) => "timeout",
            HttpError::Dns(_) => "dns",
            HttpError::Connect(_) => "connect",
            HttpError::Tls(_) => "tls",
            HttpError::TooLarge(_) => "too-large",
            HttpError::BreakerOpen(_) => "breaker-open",
            HttpError::Invalid(_) => "invalid",
            HttpError::Interrupted(_) => "interrupted",
            HttpError::Other(_) => "other",
        }
        .to_owned(),
    }
}

pub(super) fn mail_result<T>(answer: &Result<T, SmtpFailure>) -> String {
    match answer {
        Ok(_) => "taken".to_owned(),
        Err(SmtpFailure { reply_code: Some(code), .. }) => code.to_string(),
        Err(failure) => failure.phase.to_owned(),
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
        let first = calls.begin("http", Some("POST"), &host_of("https://api.example:8443/leads/4711?phone=1"));
        calls.end(&first, "503".into());
        for _ in 0..MAX_CALLS + 9 {
            calls.begin("mail", None, "smtp.example:465");
        }
        let taken = calls.take();
        assert_eq!(taken.len(), MAX_CALLS + 1);
        assert_eq!((taken[0].host.as_str(), taken[0].result.as_str()), ("api.example:8443", "503"));
        assert_eq!(taken[1].result, UNFINISHED);
        assert_eq!((taken[MAX_CALLS].kind.as_str(), taken[MAX_CALLS].result.as_str()), ("more", "10"));
    }

    #[test]
    fn whatever_a_guest_calls_its_record_is_short() {
        assert_eq!(host_of("not a url"), "");
        let calls = OutsideCalls::new();
        calls.begin("http", Some(&"Ü".repeat(100)), &"é".repeat(1_000));
        let call = calls.take().remove(0);
        assert!(
            call.host.len() <= MAX_HOST_BYTES && call.method.is_some_and(|method| method.len() <= MAX_METHOD_BYTES)
        );
    }
}

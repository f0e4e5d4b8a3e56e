//! Counters for the host calls of one revision. Labels are fixed at creation, from the manifest or
//! a closed list: text of a guest, a job or a server at run time never becomes one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use patchbay_model::capability::HttpError;
use patchbay_model::manifest::Manifest;
use patchbay_telemetry::metrics::histogram::{Histogram, Reading};
use url::Url;

use crate::HostCall;

/// Hosts of one revision that get a series of their own; further ones are `other`.
const MAX_HOSTS: usize = 32;
/// Requests to hosts that no rule names (so they were denied), and to hosts beyond [`MAX_HOSTS`].
const OTHER_HOST: &str = "other";
/// How a request ended: its status class, or why there is none.
pub(crate) const STATUSES: [&str; 10] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "denied",
    "timeout",
    "breaker-open",
    "error",
    "abandoned",
];
/// How a mail ended: `sent`, or the phase in which it failed.
const PHASES: [&str; 14] = [
    "sent",
    "denied",
    "not-configured",
    "connect",
    "tls",
    "auth",
    "mail",
    "rcpt",
    "data",
    "timeout",
    "too-large",
    "ambiguous",
    // The guest's call ended first.
    "abandoned",
    "other",
];

#[derive(Debug)]
pub struct OutsideMeters {
    /// By kind, with whether the manifest asks for it.
    host_calls: Vec<(bool, Histogram)>,
    /// By host, sorted; the last is [`OTHER_HOST`].
    egress: Vec<(String, [AtomicU64; STATUSES.len()])>,
    /// By phase. Absent when the manifest does not ask for mail.
    mails: Option<[AtomicU64; PHASES.len()]>,
}

impl OutsideMeters {
    pub fn new(manifest: &Manifest) -> Self {
        let mut hosts: Vec<String> = manifest
            .egress
            .iter()
            .filter_map(|rule| host_of(&rule.url))
            .collect();
        hosts.sort();
        hosts.dedup();
        hosts.truncate(MAX_HOSTS);
        hosts.push(OTHER_HOST.into());
        let host_call = |kind: &HostCall| (kind.is_asked_for_by(manifest), Histogram::of_seconds());
        Self {
            host_calls: HostCall::ALL.iter().map(host_call).collect(),
            egress: hosts
                .into_iter()
                .map(|host| (host, Default::default()))
                .collect(),
            mails: HostCall::Mail
                .is_asked_for_by(manifest)
                .then(Default::default),
        }
    }

    pub(crate) fn count_host_call(&self, kind: HostCall, took: Duration) {
        self.host_calls[kind as usize].1.observe_time(took);
    }

    pub(crate) fn count_request(&self, place: usize, status: usize) {
        self.egress[place].1[status].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_mail(&self, phase: &str) {
        // If absent, the manifest does not ask for mail, and the attempt was denied.
        if let Some(mails) = &self.mails {
            let place = PHASES
                .iter()
                .position(|known| *known == phase)
                .unwrap_or(PHASES.len() - 1);
            mails[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Index of the counters for requests to this URL.
    pub(crate) fn place_of(&self, url: &str) -> usize {
        let (other, named) = (self.egress.len() - 1, &self.egress[..self.egress.len() - 1]);
        host_of(url)
            .and_then(|host| {
                named
                    .binary_search_by(|(name, _)| name.as_str().cmp(&host))
                    .ok()
            })
            .unwrap_or(other)
    }

    /// A host that the manifest names, or `other`.
    pub(crate) fn host(&self, place: usize) -> &str {
        &self.egress[place].0
    }

    /// Kinds that the manifest asks for, and kinds that were tried nevertheless.
    pub fn host_calls(&self) -> impl Iterator<Item = (HostCall, Reading)> {
        HostCall::ALL
            .iter()
            .zip(&self.host_calls)
            .map(|(kind, (asked, histogram))| (*kind, *asked, histogram.read()))
            .filter(|(_, asked, reading)| *asked || reading.count > 0)
            .map(|(kind, _, reading)| (kind, reading))
    }

    /// Host, status, number of requests. Zeros are left out, since most combinations never happen.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.egress.iter().flat_map(|(host, counts)| {
            STATUSES
                .into_iter()
                .zip(counts)
                .map(|(status, count)| (host.as_str(), status, count.load(Ordering::Relaxed)))
                .filter(|(_, _, count)| *count > 0)
        })
    }

    /// Phase, number of mails; none when the manifest does not ask for mail.
    pub fn mails(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.mails.iter().flatten();
        PHASES
            .into_iter()
            .zip(counts)
            .map(|(phase, count)| (phase, count.load(Ordering::Relaxed)))
    }
}

/// In lower case, without port, path or user.
fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

pub(crate) fn status_of(answer: Result<u16, &HttpError>) -> usize {
    let name = match answer {
        Ok(status @ 100..=599) => return usize::from(status / 100) - 1,
        Ok(_) => "error",
        Err(HttpError::Denied(_) | HttpError::Invalid(_)) => "denied",
        Err(HttpError::Timeout(_)) => "timeout",
        Err(HttpError::BreakerOpen(_)) => "breaker-open",
        Err(_) => "error",
    };
    place(name)
}

/// The index for a guest's call that ended before the answer came.
pub(crate) fn abandoned() -> usize {
    place("abandoned")
}

fn place(status: &str) -> usize {
    STATUSES
        .iter()
        .position(|known| *known == status)
        .unwrap_or(STATUSES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_calls_stand_where_their_index_says() {
        assert!(
            HostCall::ALL
                .iter()
                .enumerate()
                .all(|(place, kind)| *kind as usize == place)
        );
    }

    #[test]
    fn a_status_counts_by_its_class_and_an_error_by_its_kind() {
        let name = |answer| STATUSES[status_of(answer)];
        assert_eq!(
            [name(Ok(100)), name(Ok(204)), name(Ok(599)), name(Ok(600))],
            ["1xx", "2xx", "5xx", "error"]
        );
        assert_eq!(name(Err(&HttpError::BreakerOpen(1))), "breaker-open");
        assert_eq!(name(Err(&HttpError::Dns("x".into()))), "error");
    }

    #[test]
    fn a_host_is_named_without_user_port_and_path() {
        assert_eq!(
            host_of("https://user:pw@API.example.com:8443/v1/secret?key=1").as_deref(),
            Some("api.example.com")
        );
        assert_eq!(host_of("nonsense"), None);
    }
}

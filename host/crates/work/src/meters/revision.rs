//! What is counted of one revision. Everything that becomes a label is fixed when this is made, and comes from the manifest or from a
//! closed list: nothing that a guest, a job or a server says at run time is ever one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use patchbay_model::RevisionDigest;
use patchbay_model::capability::HttpError;
use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::OutcomeKind;
use patchbay_runtime::{CallReport, Occupancy, Revision};
use patchbay_telemetry::metrics::histogram::Histogram;
use url::Url;

/// Hosts of one revision that get a series of their own; further ones are `other`.
const MAX_HOSTS: usize = 32;
/// Requests to hosts that no rule names (and so were denied), and to those beyond [`MAX_HOSTS`].
const OTHER_HOST: &str = "other";
/// How a request ended: the class of its status, or why there is none.
pub const STATUSES: [&str; 10] =
    ["1xx", "2xx", "3xx", "4xx", "5xx", "denied", "timeout", "breaker-open", "error", "abandoned"];
/// How a mail ended: `sent`, or the phase in which it failed.
pub const PHASES: [&str; 14] = [
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

/// Capabilities that reach outside and therefore take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCall {
    Http,
    Kv,
    Enqueue,
    Children,
    Sql,
    Mail,
    Audit,
}

impl HostCall {
    pub const ALL: [Self; 7] =
        [Self::Http, Self::Kv, Self::Enqueue, Self::Children, Self::Sql, Self::Mail, Self::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Kv => "kv",
            Self::Enqueue => "enqueue",
            Self::Children => "children",
            Self::Sql => "sql",
            Self::Mail => "mail",
            Self::Audit => "audit",
        }
    }

    fn is_asked_for_by(self, manifest: &Manifest) -> bool {
        match self {
            Self::Http => !manifest.egress.is_empty(),
            Self::Kv => manifest.kv.is_some(),
            Self::Enqueue => manifest.enqueue.is_some(),
            Self::Children => false,
            Self::Sql => manifest.sql.is_some(),
            Self::Mail => manifest.smtp.as_ref().is_some_and(|smtp| smtp.allowed),
            Self::Audit => manifest.audit.is_some(),
        }
    }
}

/// One revision's numbers.
#[derive(Debug)]
pub struct RevisionMeters {
    pub plugin: String,
    pub digest: RevisionDigest,
    /// The beginning of it.
    pub revision: String,
    pub version: String,
    pub outcomes: [AtomicU64; OutcomeKind::ALL.len()],
    pub duration: Histogram,
    pub cpu_ns: AtomicU64,
    pub peak_memory: Histogram,
    pub occupancy: Arc<Occupancy>,
    host_calls: [(bool, Histogram); HostCall::ALL.len()],
    /// By host, sorted; the last is [`OTHER_HOST`].
    egress: Vec<(String, [AtomicU64; STATUSES.len()])>,
    pub mails: Option<[AtomicU64; PHASES.len()]>,
    /// Calls that will still be counted here.
    open: AtomicUsize,
}

impl RevisionMeters {
    pub fn new(revision: &Revision) -> Self {
        let manifest = revision.manifest();
        let mut hosts: Vec<String> = manifest.egress.iter().filter_map(|rule| host_of(&rule.url)).collect();
        hosts.sort();
        hosts.dedup();
        hosts.truncate(MAX_HOSTS);
        hosts.push(OTHER_HOST.into());
        Self {
            plugin: revision.plugin().to_string(),
            digest: revision.digest(),
            revision: revision.digest().short(),
            version: manifest.version.to_string(),
            outcomes: Default::default(),
            duration: Histogram::of_seconds(),
            cpu_ns: AtomicU64::new(0),
            peak_memory: Histogram::of_memory(),
            occupancy: Arc::default(),
            host_calls: HostCall::ALL.map(|kind| (kind.is_asked_for_by(manifest), Histogram::of_seconds())),
            egress: hosts.into_iter().map(|host| (host, Default::default())).collect(),
            mails: HostCall::Mail.is_asked_for_by(manifest).then(Default::default),
            open: AtomicUsize::new(0),
        }
    }

    /// Counts a call that has ended.
    pub fn count(&self, report: &CallReport) {
        self.outcomes[report.outcome.kind() as usize].fetch_add(1, Ordering::Relaxed);
        self.duration.observe_time(report.duration);
        self.cpu_ns.fetch_add(u64::try_from(report.cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // No instance, no memory.
        if report.peak_memory_bytes > 0 {
            self.peak_memory.observe(report.peak_memory_bytes);
        }
    }

    /// For the call that is about to run.
    pub fn occupancy(&self) -> Arc<Occupancy> {
        Arc::clone(&self.occupancy)
    }

    pub fn count_host_call(&self, kind: HostCall, took: Duration) {
        self.host_calls[kind as usize].1.observe_time(took);
    }

    pub fn count_request(&self, place: usize, status: usize) {
        self.egress[place].1[status].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_mail(&self, phase: &str) {
        // Absent: the manifest does not ask for mail, and the attempt was denied.
        if let Some(mails) = &self.mails {
            let place = PHASES.iter().position(|known| *known == phase).unwrap_or(PHASES.len() - 1);
            mails[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where requests to this URL are counted.
    pub fn place_of(&self, url: &str) -> usize {
        let (other, named) = (self.egress.len() - 1, &self.egress[..self.egress.len() - 1]);
        host_of(url).and_then(|host| named.binary_search_by(|(name, _)| name.as_str().cmp(&host)).ok()).unwrap_or(other)
    }

    /// A host that the manifest names, or `other`.
    pub fn host(&self, place: usize) -> &str {
        &self.egress[place].0
    }

    /// Those that the manifest asks for, and those that were tried nevertheless.
    pub fn host_calls(&self) -> impl Iterator<Item = (HostCall, patchbay_telemetry::metrics::histogram::Reading)> {
        HostCall::ALL
            .into_iter()
            .zip(&self.host_calls)
            .map(|(kind, (asked, histogram))| (kind, *asked, histogram.read()))
            .filter(|(_, asked, reading)| *asked || reading.count > 0)
            .map(|(kind, _, reading)| (kind, reading))
    }

    /// Host, status, requests; what never happened is left out, since most of it never does.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.egress.iter().flat_map(|(host, counts)| {
            STATUSES
                .into_iter()
                .zip(counts)
                .map(|(status, count)| (host.as_str(), status, count.load(Ordering::Relaxed)))
                .filter(|(_, _, count)| *count > 0)
        })
    }

    pub fn open(&self) -> &AtomicUsize {
        &self.open
    }
}

/// Lower-cased, without port, path or user.
fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// Index into [`STATUSES`].
pub fn status_of(answer: Result<u16, &HttpError>) -> usize {
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

/// The guest's call ended before the answer came.
pub fn abandoned() -> usize {
    place("abandoned")
}

fn place(status: &str) -> usize {
    STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_host_calls_stand_where_their_index_says() {
        assert!(OutcomeKind::ALL.iter().enumerate().all(|(place, outcome)| *outcome as usize == place));
        assert!(HostCall::ALL.iter().enumerate().all(|(place, kind)| *kind as usize == place));
    }

    #[test]
    fn a_status_counts_by_its_class_and_an_error_by_its_kind() {
        let name = |answer| STATUSES[status_of(answer)];
        assert_eq!([name(Ok(100)), name(Ok(204)), name(Ok(599)), name(Ok(600))], ["1xx", "2xx", "5xx", "error"]);
        assert_eq!(name(Err(&HttpError::BreakerOpen(1))), "breaker-open");
        assert_eq!(name(Err(&HttpError::Dns("x".into()))), "error");
    }

    #[test]
    fn a_host_is_named_without_user_port_and_path() {
        assert_eq!(host_of("https://user:pw@API.example.com:8443/v1/secret?key=1").as_deref(), Some("api.example.com"));
        assert_eq!(host_of("nonsense"), None);
    }
}

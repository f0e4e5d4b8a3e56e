//! Numbers of logins, sessions and of what is remembered of them.

use std::collections::BTreeMap;
use std::fmt;

use patchbay_telemetry::metrics::family::{Labels, family};
use patchbay_telemetry::metrics::histogram::Reading;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::Sources;
use crate::remembered::Asked;

/// The numbers of one scrape.
#[derive(Debug)]
pub(super) struct Logins {
    /// By kind, method and result.
    counts: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    refresh_reuse: u64,
    /// By results.
    vendor_calls: [(&'static str, u64); 3],
    asked: Asked,
    hears: bool,
    /// Of accounts, and of operators. `None` while Postgres is away.
    sessions: Option<(i64, i64)>,
    accounts: Option<Accounts>,
}

/// On a host that serves accounts.
#[derive(Debug)]
struct Accounts {
    hash_time: Reading,
    hash_waiting: usize,
    bcrypt_left: Option<i64>,
}

impl Logins {
    pub(super) fn read(sources: &Sources, sessions: Option<(i64, i64)>) -> Self {
        let accounts = sources.people.as_ref().map(|people| Accounts {
            hash_time: people.passwords().time(),
            hash_waiting: people.passwords().waiting(),
            bcrypt_left: people.bcrypt_left(),
        });
        Self {
            counts: sources.logins.counts(),
            refresh_reuse: sources.logins.reuses(),
            vendor_calls: sources.vendors.results(),
            asked: sources.identity_changes.asked(),
            hears: sources.identity_changes.deaf_for().is_none(),
            sessions,
            accounts,
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let counts = self.counts.iter().map(|((kind, method, result), count)| {
            let labels = vec![("kind", *kind), ("method", *method), ("result", *result)];
            (labels, *count)
        });
        family(
            encoder,
            "patchbay_logins",
            "Attempts to log in, by how they ended",
            None,
        )
        .counters(counts)?;
        family(
            encoder,
            "patchbay_refresh_reuse",
            "Sessions that ended because a refresh token was shown twice",
            None,
        )
        .counters([(Labels::new(), self.refresh_reuse)])?;
        let calls = self.vendor_calls.iter();
        family(
            encoder,
            "patchbay_vendor_calls",
            "Requests with keys of vendors, by what came of them",
            None,
        )
        .counters(calls.map(|(result, count)| (vec![("result", *result)], *count)))?;
        self.remembered(encoder)?;
        let sessions = self.sessions.map(|(users, operators)| {
            [("user", users), ("operator", operators)]
                .map(|(kind, count)| (vec![("kind", kind)], count))
        });
        family(
            encoder,
            "patchbay_sessions",
            "Open sessions, of all hosts",
            None,
        )
        .gauges(sessions.into_iter().flatten())?;
        let Some(accounts) = &self.accounts else {
            return Ok(());
        };
        family(
            encoder,
            "patchbay_password_hash",
            "Time of a hash of a password or a comparison with one",
            Unit::Seconds,
        )
        .histograms([(Labels::new(), accounts.hash_time.clone())])?;
        family(
            encoder,
            "patchbay_hash_waiting",
            "Requests whose password is compared, or waits for it",
            None,
        )
        .gauge(Some(accounts.hash_waiting))?;
        family(
            encoder,
            "patchbay_bcrypt_left",
            "Accounts with a hash of the old backend, of the last minute",
            None,
        )
        .gauge(accounts.bcrypt_left)
    }

    fn remembered(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Asked {
            hits,
            misses,
            bypassed,
        } = self.asked;
        for (name, help, count) in [
            (
                "patchbay_identity_cache_hits",
                "Requests whose session or key was remembered",
                hits,
            ),
            (
                "patchbay_identity_cache_misses",
                "Requests whose session or key was read from Postgres",
                misses,
            ),
            (
                "patchbay_identity_cache_bypassed",
                "Requests for which nothing was remembered, because changes were not heard",
                bypassed,
            ),
        ] {
            family(encoder, name, help, None).counters([(Labels::new(), count)])?;
        }
        family(
            encoder,
            "patchbay_identity_listen_up",
            "1 while this host hears which accounts and keys change",
            None,
        )
        .gauge(Some(u32::from(self.hears)))
    }
}

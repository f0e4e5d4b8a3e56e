//! Numbers of requests to webhooks.

use std::collections::BTreeMap;
use std::fmt;

use chrono::Utc;
use patchbay_model::webhook::InboxState;
use patchbay_telemetry::metrics::family::{Labels, family};
use patchbay_telemetry::metrics::histogram::Reading;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::Sources;
use crate::inbox::Kept;

/// The numbers of one scrape.
#[derive(Debug)]
pub(super) struct Inbox {
    /// By plugin, webhook and outcome.
    requests: BTreeMap<(String, String, &'static str), u64>,
    /// By plugin, webhook and reason, which are the host's words.
    refused: Vec<(String, String, String, u64)>,
    bytes: usize,
    /// By plugin and webhook.
    ack_times: Vec<(String, String, Reading)>,
    verify_times: Vec<(String, String, Reading)>,
    /// Entries and bytes in Redis. `None` while it is away.
    spill: Option<(u64, u64)>,
    /// `None` while Postgres is away.
    standing: Option<Vec<Kept>>,
}

impl Inbox {
    pub(super) fn read(
        sources: &Sources,
        standing: Option<Vec<Kept>>,
        spill: Option<(u64, u64)>,
    ) -> Self {
        let mut requests = BTreeMap::new();
        let mut refused = Vec::new();
        for (plugin, webhook, outcome, code, count) in sources.inbox.totals() {
            *requests
                .entry((plugin.clone(), webhook.clone(), outcome))
                .or_default() += count;
            if outcome == "refused" {
                refused.push((plugin, webhook, code, count));
            }
        }
        Self {
            requests,
            refused,
            bytes: sources.inbox.bytes_in_flight(),
            ack_times: sources.inbox.ack_times(),
            verify_times: sources.inbox.verify_times(),
            spill,
            standing,
        }
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let requests = self
            .requests
            .iter()
            .map(|((plugin, webhook, outcome), count)| {
                let labels: Labels<'_> = vec![
                    ("plugin", plugin.as_str()),
                    ("webhook", webhook.as_str()),
                    ("outcome", *outcome),
                ];
                (labels, *count)
            });
        family(
            encoder,
            "patchbay_inbox_requests",
            "Requests to webhooks, by what became of them",
            None,
        )
        .counters(requests)?;
        let refused = self.refused.iter().map(|(plugin, webhook, reason, count)| {
            let labels: Labels<'_> = vec![
                ("plugin", plugin.as_str()),
                ("webhook", webhook.as_str()),
                ("reason", reason.as_str()),
            ];
            (labels, *count)
        });
        family(
            encoder,
            "patchbay_inbox_refused",
            "Requests to webhooks of which nothing was kept",
            None,
        )
        .counters(refused)?;
        family(
            encoder,
            "patchbay_inbox_in_flight",
            "Bodies of requests to webhooks that this host holds",
            Unit::Bytes,
        )
        .gauge(Some(self.bytes))?;
        for (name, help, times) in [
            (
                "patchbay_inbox_ack",
                "From a whole request to a webhook to its answer",
                &self.ack_times,
            ),
            (
                "patchbay_inbox_verify",
                "How long plugins took to judge a request",
                &self.verify_times,
            ),
        ] {
            let series = times.iter().map(|(plugin, webhook, reading)| {
                let labels: Labels<'_> =
                    vec![("plugin", plugin.as_str()), ("webhook", webhook.as_str())];
                (labels, reading.clone())
            });
            family(encoder, name, help, Unit::Seconds).histograms(series)?;
        }
        family(
            encoder,
            "patchbay_inbox_spill_entries",
            "Requests to webhooks that wait in Redis to be written to Postgres",
            None,
        )
        .gauge(self.spill.map(|(entries, _)| entries))?;
        family(
            encoder,
            "patchbay_inbox_spill",
            "Size of the requests to webhooks that wait in Redis",
            Unit::Bytes,
        )
        .gauge(self.spill.map(|(_, bytes)| bytes))?;
        let standing = self.standing.as_deref();
        let rows = standing.into_iter().flatten().map(|kept| {
            let of = &kept.standing;
            let labels: Labels<'_> = vec![
                ("plugin", of.plugin.as_str()),
                ("webhook", of.webhook.as_str()),
                ("state", of.state.as_str()),
            ];
            (labels, kept.rows)
        });
        family(
            encoder,
            "patchbay_inbox_rows",
            "Requests to webhooks that are kept, of all hosts",
            None,
        )
        .gauges(rows)?;
        let lag = standing.map(|standing| {
            [InboxState::Accepted, InboxState::Deferred].map(|state| {
                let oldest = standing
                    .iter()
                    .map(|kept| &kept.standing)
                    .filter(|of| of.state == state)
                    .filter_map(|of| of.oldest)
                    .min();
                let seconds = oldest.map_or(0.0, |oldest| {
                    let age = Utc::now() - oldest;
                    age.to_std().unwrap_or_default().as_secs_f64()
                });
                (vec![("state", state.as_str())], seconds)
            })
        });
        family(
            encoder,
            "patchbay_inbox_lag",
            "Since when the oldest request waits for its jobs, or to be judged",
            Unit::Seconds,
        )
        .gauges(lag.into_iter().flatten())
    }
}

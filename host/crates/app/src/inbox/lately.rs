//! How many requests to each webhook were judged, and rejected, in the last ten minutes.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What is older is forgotten.
pub(crate) const LATELY: Duration = Duration::from_secs(600);
/// Requests of so long a time are counted together.
const PART: Duration = Duration::from_secs(30);

/// Requests to a webhook, as one process has seen them lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RejectedLately {
    pub plugin: String,
    pub webhook: String,
    /// Those that were judged or deferred, repeats too.
    pub requests: u64,
    pub rejected: u64,
}

#[derive(Default)]
pub(super) struct Lately(HashMap<(String, String), VecDeque<Part>>);

struct Part {
    began: Instant,
    requests: u64,
    rejected: u64,
}

impl Lately {
    pub(super) fn count(&mut self, plugin: &str, webhook: &str, is_rejected: bool, now: Instant) {
        let key = (plugin.to_owned(), webhook.to_owned());
        let parts = self.0.entry(key).or_default();
        forget(parts, now);
        let is_over = |part: &Part| now.saturating_duration_since(part.began) >= PART;
        if parts.back().is_none_or(is_over) {
            parts.push_back(Part {
                began: now,
                requests: 0,
                rejected: 0,
            });
        }
        if let Some(part) = parts.back_mut() {
            part.requests += 1;
            part.rejected += u64::from(is_rejected);
        }
    }

    /// Webhooks with rejected requests.
    pub(super) fn rejected(&mut self, now: Instant) -> Vec<RejectedLately> {
        self.0.retain(|_, parts| {
            forget(parts, now);
            !parts.is_empty()
        });
        let all = self
            .0
            .iter()
            .map(|((plugin, webhook), parts)| RejectedLately {
                plugin: plugin.clone(),
                webhook: webhook.clone(),
                requests: parts.iter().map(|part| part.requests).sum(),
                rejected: parts.iter().map(|part| part.rejected).sum(),
            });
        let mut some: Vec<RejectedLately> = all.filter(|of| of.rejected > 0).collect();
        some.sort_by(|a, b| (&a.plugin, &a.webhook).cmp(&(&b.plugin, &b.webhook)));
        some
    }
}

fn forget(parts: &mut VecDeque<Part>, now: Instant) {
    let is_old = |part: &Part| now.saturating_duration_since(part.began) >= LATELY;
    while parts.front().is_some_and(is_old) {
        parts.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_for_ten_minutes_and_webhooks_without_rejected_ones_are_left_out() {
        let (mut lately, start) = (Lately::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..60 {
            lately.count("crm", "status", second % 3 == 0, at(second));
            lately.count("crm", "calm", false, at(second));
        }
        let seen = lately.rejected(at(60));
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].requests, seen[0].rejected), (60, 20));
        let later = lately.rejected(at(610));
        assert_eq!((later[0].requests, later[0].rejected), (30, 10));
        assert!(lately.rejected(at(631)).is_empty());
        assert!(lately.0.is_empty(), "nothing is remembered for ever");
    }
}

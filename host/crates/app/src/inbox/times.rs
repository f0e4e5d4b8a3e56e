//! How long requests to each webhook take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_telemetry::metrics::histogram::{Histogram, Reading};

use crate::plugins::Webhook;

/// Times of this process, by plugin and webhook.
#[derive(Default)]
pub(super) struct Times(Mutex<BTreeMap<(String, String), Arc<Histogram>>>);

impl Times {
    pub(super) fn observe(&self, webhook: &Webhook, time: Duration) {
        let key = (webhook.plugin.to_string(), webhook.spec.name.clone());
        let new = || Arc::new(Histogram::of_seconds());
        let histogram = Arc::clone(self.0.lock().entry(key).or_insert_with(new));
        histogram.observe_time(time);
    }

    /// Plugin, webhook and what was observed.
    pub(super) fn read(&self) -> Vec<(String, String, Reading)> {
        let times = self.0.lock();
        let each = times.iter();
        each.map(|((plugin, webhook), histogram)| {
            (plugin.clone(), webhook.clone(), histogram.read())
        })
        .collect()
    }
}

//! Counts of requests to routes, by revision: a new revision that answers worse than the one before
//! is seen at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_model::RevisionDigest;
use patchbay_telemetry::metrics::histogram::{Histogram, Reading};

use crate::plugins::Route;

/// Revisions of a route that have series, the newest ones: their number must stay bounded however
/// often plugins change.
const MAX_REVISIONS: usize = 2;

/// By plugin and id of the route.
type ByRoute = BTreeMap<(String, String), Vec<Arc<Meter>>>;

#[derive(Debug, Default)]
pub struct RouteMeters {
    routes: Mutex<ByRoute>,
    /// Answers to requests with an idempotency key that were not kept, by reason.
    unkept: Mutex<BTreeMap<&'static str, u64>>,
}

/// Of one route and revision.
#[derive(Debug)]
struct Meter {
    digest: RevisionDigest,
    duration: Histogram,
    statuses: Mutex<BTreeMap<u16, u64>>,
}

#[derive(Debug)]
pub struct RouteReading {
    pub plugin: String,
    pub route: String,
    /// The beginning of its digest.
    pub revision: String,
    pub duration: Reading,
    pub statuses: Vec<(String, u64)>,
}

impl RouteMeters {
    pub(super) fn count(&self, route: &Route, status: u16, took: Duration) {
        let meter = self.of(route);
        meter.duration.observe_time(took);
        *meter.statuses.lock().entry(status).or_default() += 1;
    }

    fn of(&self, route: &Route) -> Arc<Meter> {
        let key = (route.plugin.to_string(), route.spec.id().to_owned());
        let mut routes = self.routes.lock();
        let meters = routes.entry(key).or_default();
        if let Some(known) = meters.iter().position(|meter| meter.digest == route.digest) {
            let known = meters.remove(known);
            // A rollback makes it the newest again.
            meters.push(Arc::clone(&known));
            return known;
        }
        if meters.len() >= MAX_REVISIONS {
            meters.remove(0);
        }
        let meter = Arc::new(Meter {
            digest: route.digest,
            duration: Histogram::of_seconds(),
            statuses: Mutex::default(),
        });
        meters.push(Arc::clone(&meter));
        meter
    }

    /// Returns how many there are now of this reason.
    pub(super) fn count_unkept(&self, reason: &'static str) -> u64 {
        let mut unkept = self.unkept.lock();
        let count = unkept.entry(reason).or_default();
        *count += 1;
        *count
    }

    /// Answers that were not kept for repeats, by reason.
    pub fn unkept(&self) -> Vec<(&'static str, u64)> {
        let unkept = self.unkept.lock();
        unkept
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .collect()
    }

    /// In a stable order.
    pub fn read(&self) -> Vec<RouteReading> {
        let routes = self.routes.lock();
        let readings = routes.iter().flat_map(|((plugin, route), meters)| {
            meters.iter().map(|meter| RouteReading {
                plugin: plugin.clone(),
                route: route.clone(),
                revision: meter.digest.short(),
                duration: meter.duration.read(),
                statuses: meter
                    .statuses
                    .lock()
                    .iter()
                    .map(|(status, count)| (status.to_string(), *count))
                    .collect(),
            })
        });
        readings.collect()
    }
}

//! HTTP requests by route, method and status. A route is its template
//! (`/api/admin/queues/{queue}`), never a path: a client's text must not become a label.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::{Mutex, RwLock};

use super::histogram::{Histogram, Reading};

/// Route label of requests for paths that no route serves.
pub const UNMATCHED: &str = "unmatched";
/// Status label of requests whose client left before the answer.
const ABANDONED: &str = "abandoned";

type Place = (&'static str, String);

#[derive(Debug, Default)]
pub struct RequestMeters {
    routes: RwLock<HashMap<Place, Arc<Route>>>,
}

/// By route and method. A lock per request costs little compared to the request.
#[derive(Debug)]
struct Route {
    duration: Histogram,
    statuses: Mutex<BTreeMap<Option<u16>, u64>>,
}

#[derive(Debug)]
pub struct RouteReading {
    pub method: &'static str,
    pub route: String,
    pub duration: Reading,
    pub statuses: Vec<(String, u64)>,
}

impl RequestMeters {
    /// Counts a request. No status means that the client left.
    pub fn count(&self, method: &Method, route: &str, status: Option<StatusCode>, took: Duration) {
        let route = self.of((known_method(method), route.to_owned()));
        route.duration.observe_time(took);
        let mut statuses = route.statuses.lock();
        *statuses
            .entry(status.map(|status| status.as_u16()))
            .or_default() += 1;
    }

    fn of(&self, place: Place) -> Arc<Route> {
        if let Some(known) = self.routes.read().get(&place) {
            return Arc::clone(known);
        }
        let mut routes = self.routes.write();
        let new = || {
            Arc::new(Route {
                duration: Histogram::of_seconds(),
                statuses: Mutex::default(),
            })
        };
        Arc::clone(routes.entry(place).or_insert_with(new))
    }

    /// In a stable order.
    pub fn read(&self) -> Vec<RouteReading> {
        let routes = self.routes.read();
        let mut all: Vec<_> = routes
            .iter()
            .map(|((method, route), meters)| {
                let statuses = meters.statuses.lock();
                let text = |status: &Option<u16>| {
                    status.map_or_else(|| ABANDONED.to_owned(), |code| code.to_string())
                };
                RouteReading {
                    method,
                    route: route.clone(),
                    duration: meters.duration.read(),
                    statuses: statuses
                        .iter()
                        .map(|(status, count)| (text(status), *count))
                        .collect(),
                }
            })
            .collect();
        all.sort_by(|a, b| (&a.route, a.method).cmp(&(&b.route, b.method)));
        all
    }
}

/// Clients and guests may invent methods, which are all `other`.
pub fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_s_own_method_is_other_and_one_that_left_has_no_status() {
        let meters = RequestMeters::default();
        let mine = Method::from_bytes(b"MINE").expect("a method");
        meters.count(&mine, UNMATCHED, None, Duration::from_millis(1));
        let all = meters.read();
        assert_eq!(
            (all[0].method, &all[0].statuses[..]),
            ("other", &[(ABANDONED.to_owned(), 1)][..])
        );
    }
}

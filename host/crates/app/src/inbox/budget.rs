//! What a process takes before anything is known of a request: bytes of bodies, and requests in a
//! time. Nothing here is shared between processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::manifest::WebhookRate;

/// Bodies that are being received or judged.
const MAX_BYTES: usize = 64 << 20;
/// A source may have this part of it.
const SOURCES: usize = 8;
/// Rates of more keys than these are forgotten, oldest first.
const MAX_RATES: usize = 20_000;

/// The bytes of all bodies that this process holds.
#[derive(Debug, Default)]
pub(crate) struct Bodies(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    by_source: HashMap<String, usize>,
}

/// Bytes that a body may have. Given back on drop.
#[derive(Debug)]
pub struct Reservation {
    held: Arc<Mutex<Held>>,
    source: String,
    bytes: usize,
}

impl Bodies {
    /// Nothing yet. Without a source, only the whole budget counts.
    pub(crate) fn reservation(&self, source: Option<&str>) -> Reservation {
        Reservation {
            held: Arc::clone(&self.0),
            source: source.unwrap_or_default().to_owned(),
            bytes: 0,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Reservation {
    /// Takes more bytes, unless the budget is used up.
    pub fn take(&mut self, bytes: usize) -> bool {
        let mut held = self.held.lock();
        if held.bytes + bytes > MAX_BYTES {
            return false;
        }
        if !self.source.is_empty() {
            let of_source = held.by_source.entry(self.source.clone()).or_default();
            if *of_source + bytes > MAX_BYTES / SOURCES {
                return false;
            }
            *of_source += bytes;
        }
        held.bytes += bytes;
        self.bytes += bytes;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.bytes -= self.bytes;
        if let Some(of_source) = held.by_source.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(self.bytes);
            if *of_source == 0 {
                held.by_source.remove(&self.source);
            }
        }
    }
}

/// Requests in a time, by key: a bucket that holds twice the rate of one second, or what `max` says.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, Instant>>);

impl Rates {
    /// Counts a request of this key; an error says how long to wait.
    pub(super) fn take(&self, key: String, rate: WebhookRate) -> Result<(), Duration> {
        self.take_at(key, rate, 1, Instant::now())
    }

    /// Counts as so many.
    pub(super) fn take_many(
        &self,
        key: String,
        rate: WebhookRate,
        count: u32,
    ) -> Result<(), Duration> {
        self.take_at(key, rate, count, Instant::now())
    }

    /// By the theoretical time of arrival: each request moves it on by what one request takes, and
    /// it may be ahead of now by what the bucket holds.
    fn take_at(
        &self,
        key: String,
        rate: WebhookRate,
        count: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let takes = Duration::from_millis(rate.per_ms) / rate.max.max(1) * count;
        let ahead = Duration::from_millis(rate.per_ms) * 2;
        let mut arrivals = self.0.lock();
        if arrivals.len() >= MAX_RATES && !arrivals.contains_key(&key) {
            arrivals.retain(|_, arrival| *arrival > now);
            if arrivals.len() >= MAX_RATES {
                arrivals.clear();
            }
        }
        let arrival = arrivals.entry(key).or_insert(now);
        let next = (*arrival).max(now) + takes;
        match next.saturating_duration_since(now).checked_sub(ahead) {
            Some(wait) if wait > Duration::ZERO => Err(wait),
            _ => {
                *arrival = next;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_one_source_get_an_eighth_and_all_together_the_whole_and_give_it_back() {
        let bodies = Bodies::default();
        let mut one = bodies.reservation(Some("a"));
        assert!(one.take(MAX_BYTES / SOURCES));
        assert!(!one.take(1) && !bodies.reservation(Some("a")).take(1));
        let mut others: Vec<_> = (0..7)
            .map(|n| bodies.reservation(Some(&n.to_string())))
            .collect();
        assert!(
            others
                .iter_mut()
                .all(|other| other.take(MAX_BYTES / SOURCES))
        );
        assert!(!bodies.reservation(Some("z")).take(1), "all is taken");
        drop(one);
        assert!(bodies.reservation(Some("a")).take(1));
        drop(others);
        assert_eq!(bodies.in_flight(), 0);
    }

    #[test]
    fn a_rate_allows_a_burst_of_twice_its_size_and_then_its_pace() {
        let rates = Rates::default();
        let rate = WebhookRate {
            max: 10,
            per_ms: 1_000,
        };
        let now = Instant::now();
        let taken = (0..50)
            .filter(|_| rates.take_at("k".into(), rate, 1, now).is_ok())
            .count();
        assert_eq!(taken, 20);
        assert!(rates.take_at("other".into(), rate, 1, now).is_ok());
        assert!(rates.take_at("many".into(), rate, 21, now).is_err());
        assert!(rates.take_at("many".into(), rate, 20, now).is_ok());
        assert!(rates.take_at("many".into(), rate, 1, now).is_err());
        let later = now + Duration::from_millis(500);
        let taken = (0..50)
            .filter(|_| rates.take_at("k".into(), rate, 1, later).is_ok())
            .count();
        assert_eq!(taken, 5);
        let wait = rates.take_at("k".into(), rate, 1, later).expect_err("full");
        assert_eq!(wait, Duration::from_millis(100));
    }
}

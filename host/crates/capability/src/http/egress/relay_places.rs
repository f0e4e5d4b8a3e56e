//! How many responses a process passes on at once, for all clients and for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Responses that a process passes on at the same time.
const MAX_RELAYS: usize = 64;
/// Those of one client: a quarter.
const MAX_OF_CLIENT: usize = MAX_RELAYS / 4;

/// Why responses are cut off, as in metrics.
pub(super) const REASONS: [&str; 5] = [
    "credential",
    "interrupted",
    "slow-client",
    "slow-server",
    "too-large",
];

/// How fast a client must read.
#[derive(Debug, Clone, Copy)]
pub struct RelayPace {
    /// 0: as slowly as it likes.
    pub min_bytes_per_s: u32,
    /// The mean over so much time in which the host has waited for it.
    pub over: Duration,
}

impl Default for RelayPace {
    fn default() -> Self {
        Self {
            min_bytes_per_s: 2_048,
            over: Duration::from_secs(30),
        }
    }
}

/// The responses that a process passes on.
#[derive(Debug)]
pub struct Relays {
    pace: RelayPace,
    open: Mutex<Open>,
    ended: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_client: HashMap<String, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    All,
    /// The client has as many as it may have.
    OfClient,
}

/// A place for one response. Given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    relays: Arc<Relays>,
    client: String,
}

impl Relays {
    pub(super) fn new(pace: RelayPace) -> Arc<Self> {
        Arc::new(Self {
            pace,
            open: Mutex::default(),
            ended: Mutex::new(REASONS.map(|reason| (reason, 0)).into()),
        })
    }

    /// A place for a client. Without a client, only the number of all places counts.
    pub(crate) fn place(self: &Arc<Self>, client: Option<&str>) -> Result<Place, NoPlace> {
        let client = client.unwrap_or_default();
        let mut open = self.open.lock();
        if open.all >= MAX_RELAYS {
            return Err(NoPlace::All);
        }
        if !client.is_empty() {
            let of_client = open.by_client.entry(client.to_owned()).or_default();
            if *of_client >= MAX_OF_CLIENT {
                return Err(NoPlace::OfClient);
            }
            *of_client += 1;
        }
        open.all += 1;
        Ok(Place {
            relays: Arc::clone(self),
            client: client.to_owned(),
        })
    }

    /// How many are passed on now.
    pub fn open(&self) -> usize {
        self.open.lock().all
    }

    /// How many were cut off, by every reason there is.
    pub fn ended(&self) -> Vec<(&'static str, u64)> {
        let ended = self.ended.lock();
        ended
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .collect()
    }

    /// Counts a response that was cut off for this reason.
    pub(super) fn cut_off(&self, reason: &'static str) {
        *self.ended.lock().entry(reason).or_default() += 1;
    }

    pub(super) fn pace(&self) -> RelayPace {
        self.pace
    }
}

impl Place {
    /// Among these.
    pub(super) fn relays(&self) -> &Arc<Relays> {
        &self.relays
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.relays.open.lock();
        open.all -= 1;
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_a_quarter_of_the_places_and_all_together_no_more_than_there_are() {
        let relays = Relays::new(RelayPace::default());
        let of = |client: &str| relays.place(Some(client));
        let mut first: Vec<Place> = (0..16).map(|_| of("a").expect("a place")).collect();
        assert_eq!(of("a").err(), Some(NoPlace::OfClient));
        let others: Vec<Place> = ["b", "c", "d"]
            .iter()
            .flat_map(|client| std::iter::repeat_n(client, 16))
            .map(|client| of(client).expect("a place"))
            .collect();
        assert_eq!(of("e").err(), Some(NoPlace::All));
        assert_eq!(relays.place(None).err(), Some(NoPlace::All));
        first.pop();
        assert_eq!(relays.open(), 63);
        let again = of("a").expect("it was given back");
        drop((first, others, again));
        assert_eq!(relays.open(), 0);
        assert!(
            relays.open.lock().by_client.is_empty(),
            "nobody is remembered"
        );
    }
}

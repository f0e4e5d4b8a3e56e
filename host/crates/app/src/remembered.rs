//! What a process remembers of rows that other processes change: for some seconds, and only while it
//! hears of changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What another program changes shows after this time.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
pub(crate) const MOST_REMEMBERED: usize = 50_000;
/// Between two notes that something was used.
const TOUCHED_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Remembered<K, V> {
    known: Mutex<HashMap<K, (Arc<V>, Instant)>>,
    /// Counts what was dropped: a row that was read before a change must not be remembered after
    /// it.
    drops: AtomicU64,
    hears: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    bypassed: AtomicU64,
}

/// How often something was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// It was remembered.
    pub(crate) hits: u64,
    /// It was not.
    pub(crate) misses: u64,
    /// Nothing was remembered, because changes were not heard.
    pub(crate) bypassed: u64,
}

impl std::ops::Add for Asked {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            bypassed: self.bypassed + other.bypassed,
        }
    }
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            drops: AtomicU64::new(0),
            hears: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bypassed: AtomicU64::new(0),
        }
    }
}

impl<K: Hash + Eq, V> Remembered<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        if !self.hears.load(Ordering::Acquire) {
            self.bypassed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let known = self.known.lock();
        let found = known
            .get(key)
            .filter(|(_, at)| at.elapsed() < REMEMBERED_FOR);
        let count = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        count.fetch_add(1, Ordering::Relaxed);
        found.map(|(value, _)| Arc::clone(value))
    }

    pub(crate) fn asked(&self) -> Asked {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Asked {
            hits: read(&self.hits),
            misses: read(&self.misses),
            bypassed: read(&self.bypassed),
        }
    }

    /// To be noted before a row is read.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    /// Remembers a row, unless something was dropped since it was read.
    pub(crate) fn put(&self, key: K, value: &Arc<V>, drops_before: u64) {
        let mut known = self.known.lock();
        if self.drops() != drops_before || !self.hears.load(Ordering::Acquire) {
            return;
        }
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, (_, at)| at.elapsed() < REMEMBERED_FOR);
            if known.len() >= MOST_REMEMBERED {
                known.clear();
            }
        }
        known.insert(key, (Arc::clone(value), Instant::now()));
    }

    /// Drops what a change is about.
    pub(crate) fn drop_those(&self, is_about: impl Fn(&K, &V) -> bool) {
        let mut known = self.known.lock();
        self.drops.fetch_add(1, Ordering::AcqRel);
        known.retain(|key, (value, _)| !is_about(key, value));
    }

    /// Whether changes are heard from now on. What happened before may have been missed.
    pub(crate) fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
        self.drop_those(|_, _| true);
    }
}

/// Things whose use is noted in Postgres, a minute apart.
pub(crate) struct Touched<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Touched<K> {
    /// Whether the use should be noted now.
    pub(crate) fn is_due(&self, key: K) -> bool {
        let mut touched = self.0.lock();
        if touched.len() >= MOST_REMEMBERED {
            touched.retain(|_, at| at.elapsed() < TOUCHED_EVERY);
        }
        let now = Instant::now();
        match touched.get(&key) {
            Some(at) if now.duration_since(*at) < TOUCHED_EVERY => false,
            _ => {
                touched.insert(key, now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_read_before_a_change_is_not_remembered_after_it() {
        let remembered = Remembered::<u8, &str>::default();
        remembered.set_hears(true);
        let (one, ada) = (1, Arc::new("ada"));
        let before = remembered.drops();
        remembered.drop_those(|_, name| *name == "ada");
        remembered.put(one, &ada, before);
        assert!(remembered.get(&one).is_none());
        remembered.put(one, &ada, remembered.drops());
        assert!(remembered.get(&one).is_some());
        remembered.drop_those(|_, name| *name == "bob");
        assert!(remembered.get(&one).is_some());
        remembered.drop_those(|key, _| *key == one);
        assert!(remembered.get(&one).is_none());
    }

    #[test]
    fn a_host_that_hears_no_changes_remembers_nothing() {
        let remembered = Remembered::<u8, &str>::default();
        let (one, ada) = (1, Arc::new("ada"));
        remembered.put(one, &ada, remembered.drops());
        assert!(remembered.get(&one).is_none());
        remembered.set_hears(true);
        remembered.put(one, &ada, remembered.drops());
        remembered.set_hears(false);
        assert!(remembered.get(&one).is_none());
        remembered.set_hears(true);
        assert!(remembered.get(&one).is_none(), "emptied meanwhile");
    }

    #[test]
    fn a_use_is_noted_once_in_a_while() {
        let touched = Touched::default();
        assert!(touched.is_due(1));
        assert!(!touched.is_due(1));
        assert!(touched.is_due(2));
    }
}

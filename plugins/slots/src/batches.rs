//! Work in batches: each is a transaction of its own, small enough that nobody waits for it long.

use std::time::{Duration, Instant, SystemTime};

use patchbay_plugin::sql::Value as Cell;

use crate::database::{self, Failed};
use crate::kinds::Parameters;

/// A batch that took longer is followed by one of half its size.
const SLOW: Duration = Duration::from_millis(250);
/// A batch that took no longer is followed by one of twice its size, up to the largest.
const QUICK: Duration = Duration::from_millis(80);

/// The last slot that a run has looked at, in the order of its time and id. Later batches begin
/// behind it: deleted rows leave their entries in the index for a while, and each batch would read
/// all of them again.
#[derive(Debug, Clone)]
pub struct Place {
    at: String,
    id: String,
}

impl Place {
    /// From a row's columns.
    pub fn of(row: &[Cell], at: usize, id: usize) -> Option<Self> {
        Some(Self {
            at: database::text_at(row, at)?.to_owned(),
            id: database::text_at(row, id)?.to_owned(),
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// A condition for the slots behind it.
    pub fn is_behind(place: Option<&Self>, column: &str, parameters: &mut Parameters) -> String {
        let Some(place) = place else {
            return "true".into();
        };
        let at = parameters.add(database::text(&place.at));
        let id = parameters.add(database::text(&place.id));
        format!("({column}, id) > ({at}, {id})")
    }
}

/// What one batch has done.
pub struct Done {
    /// The slots that it found; fewer than asked for: these were the last.
    pub found: u32,
    pub last: Option<Place>,
}

/// How a series of batches went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Series {
    pub batches: u32,
    pub longest: Duration,
    /// Slots that could not be changed because somebody held a lock; left to the next run.
    pub left_locked: u32,
    /// False: the time was over first.
    pub is_complete: bool,
}

impl Series {
    pub fn and(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            longest: self.longest.max(other.longest),
            left_locked: self.left_locked + other.left_locked,
            is_complete: self.is_complete && other.is_complete,
        }
    }
}

/// Slots that are worked on in their order.
pub trait Work {
    /// Works on at most `size` slots behind a place, or on none.
    fn batch(&mut self, size: u32, place: Option<&Place>) -> Result<Done, Failed>;

    /// The first slot that a batch would take.
    fn first(&mut self, place: Option<&Place>) -> Result<Option<Place>, Failed>;
}

/// Runs batches of at most `largest` slots until there are no more, or the time is over. A slot
/// that cannot be changed by itself, because something that refers to it is locked, is passed over:
/// one session that somebody forgot must not stop the cleanup of all others.
pub fn run(largest: u32, until: SystemTime, work: &mut impl Work) -> (Series, Result<(), Failed>) {
    let mut series = Series::default();
    let mut size = largest.max(1);
    let mut place: Option<Place> = None;
    while SystemTime::now() < until {
        let started = Instant::now();
        let done = work.batch(size, place.as_ref());
        let took = started.elapsed();
        series.longest = series.longest.max(took);
        match done {
            Ok(done) => {
                series.batches += 1;
                place = done.last.or(place);
                if done.found < size {
                    series.is_complete = true;
                    break;
                }
                size = next_size(size, largest, took);
            }
            Err(failed) if failed.is_busy() && size > 1 => size = (size / 4).max(1),
            Err(failed) if failed.is_busy() => match work.first(place.as_ref()) {
                Ok(Some(first)) => {
                    series.left_locked += 1;
                    place = Some(first);
                }
                Ok(None) => {
                    series.is_complete = true;
                    break;
                }
                Err(failed) => return (series, Err(failed)),
            },
            Err(failed) => return (series, Err(failed)),
        }
    }
    (series, Ok(()))
}

fn next_size(size: u32, largest: u32, took: Duration) -> u32 {
    match took {
        took if took > SLOW => (size / 2).max(1),
        took if took < QUICK => size.saturating_mul(2).min(largest),
        _ => size,
    }
}

#[cfg(test)]
mod tests {
    use patchbay_plugin::sql::Error;

    use super::*;

    /// Slots by number, of which some cannot be changed.
    struct Numbers {
        left: Vec<u32>,
        stuck: Vec<u32>,
        sizes: Vec<u32>,
    }

    fn place(number: u32) -> Place {
        Place {
            at: String::new(),
            id: number.to_string(),
        }
    }

    impl Numbers {
        fn behind(&self, place: Option<&Place>) -> Vec<u32> {
            let after: Option<u32> = place.map(|place| place.id.parse().expect("a number"));
            let mut behind = self.left.clone();
            behind.retain(|number| after.is_none_or(|after| *number > after));
            behind
        }
    }

    impl Work for Numbers {
        fn batch(&mut self, size: u32, from: Option<&Place>) -> Result<Done, Failed> {
            self.sizes.push(size);
            let mut some = self.behind(from);
            some.truncate(size as usize);
            if some.iter().any(|number| self.stuck.contains(number)) {
                return Err(Failed(Error {
                    code: "55P03".into(),
                    message: "lock not available".into(),
                    constraint: None,
                    retryable: true,
                }));
            }
            self.left.retain(|number| !some.contains(number));
            Ok(Done {
                found: some.len() as u32,
                last: some.last().map(|last| place(*last)),
            })
        }

        fn first(&mut self, from: Option<&Place>) -> Result<Option<Place>, Failed> {
            Ok(self.behind(from).first().map(|first| place(*first)))
        }
    }

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn slots_that_somebody_holds_are_left_and_all_others_are_done() {
        let mut numbers = Numbers {
            left: (0..5_000).collect(),
            stuck: vec![0, 2_222, 4_999],
            sizes: Vec::new(),
        };
        let (series, result) = run(1_000, later(), &mut numbers);
        assert!(result.is_ok() && series.is_complete);
        assert_eq!(numbers.left, numbers.stuck);
        assert_eq!(series.left_locked, 3);
        assert_eq!(numbers.sizes[..6], [1_000, 250, 62, 15, 3, 1]);
    }

    #[test]
    fn the_size_follows_the_time_that_a_batch_takes() {
        assert_eq!(next_size(1_000, 1_000, Duration::from_millis(300)), 500);
        assert_eq!(next_size(1, 1_000, Duration::from_secs(9)), 1);
        assert_eq!(next_size(500, 1_000, Duration::from_millis(10)), 1_000);
        assert_eq!(next_size(500, 600, Duration::from_millis(10)), 600);
        assert_eq!(next_size(500, 1_000, Duration::from_millis(100)), 500);
    }

    #[test]
    fn a_run_whose_time_is_over_says_that_something_is_left() {
        let mut numbers = Numbers {
            left: vec![1],
            stuck: Vec::new(),
            sizes: Vec::new(),
        };
        let past = SystemTime::now() - Duration::from_secs(1);
        let (series, result) = run(10, past, &mut numbers);
        assert!(result.is_ok() && !series.is_complete && series.batches == 0);
    }
}

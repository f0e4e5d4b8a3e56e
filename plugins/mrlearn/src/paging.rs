//! Reading a list by `skip` and `limit` while it changes, without losing anybody who is in it all
//! the time. Pure: a position, a page, the next position.
//!
//! Each page begins a little before the end of the one before, and must have one of the learners
//! that stood there ([`Position::anchors`]). If it has none, learners before it have gone and the
//! rest has moved up: then the walk steps back, page by page, until it meets one again, or to the
//! front.
//! Whoever was added at the front meanwhile is met by a look at the front, at the end.

use serde::{Deserialize, Serialize};

/// Learners of the page before that the next page must have one of.
const ANCHORS: usize = 8;
/// How far pages overlap.
const OVERLAP: u64 = 8;
/// Steps back in a row before the walk goes to the front.
const STEPS_IN_A_ROW: u32 = 10;
/// Steps back in one run; a list that changes faster than it can be read is taken as it comes.
const MAX_STEPS_BACK: u32 = 200;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Position {
    pub skip: u64,
    /// The last learners of the page before.
    pub anchors: Vec<String>,
    /// The first learners when the walk began; then the front is looked at until one is met.
    pub head: Vec<String>,
    /// Looking at the front.
    pub at_front: bool,
    /// Steps back since the anchors were lost, and in the whole run.
    pub in_a_row: u32,
    pub steps_back: u32,
    pub done: bool,
}

impl Position {
    /// Where the walk goes on, after a page of `length` entries that was asked for at `self.skip`.
    /// `ids` are those of the page, in its order; an entry may have none.
    pub fn after(&self, ids: &[String], length: u64, total: Option<u64>, limit: u64) -> Self {
        if self.at_front {
            return self.after_front(ids, length);
        }
        let is_met = self.anchors.is_empty() || ids.iter().any(|id| self.anchors.contains(id));
        if !is_met && self.skip > 0 && self.steps_back < MAX_STEPS_BACK {
            let is_far = self.in_a_row >= STEPS_IN_A_ROW;
            return Self {
                skip: match is_far {
                    true => 0,
                    false => self.skip.saturating_sub(limit),
                },
                in_a_row: self.in_a_row + 1,
                steps_back: self.steps_back + 1,
                ..self.clone()
            };
        }
        let read = self.skip + length;
        let mut next = Self {
            in_a_row: 0,
            ..self.clone()
        };
        if self.skip == 0 && self.head.is_empty() {
            next.head = ids.iter().take(ANCHORS).cloned().collect();
        }
        let is_end = match total {
            _ if length == 0 => true,
            Some(total) => read >= total,
            None => length < limit,
        };
        if is_end {
            next.skip = 0;
            next.at_front = true;
            next.anchors.clear();
            next.done = next.head.is_empty();
            return next;
        }
        next.anchors = ids.iter().rev().take(ANCHORS).cloned().collect();
        // A page must bring the walk forward, however short the vendor makes it.
        let overlap = OVERLAP.min(length / 2);
        next.skip = read - overlap;
        next
    }

    fn after_front(&self, ids: &[String], length: u64) -> Self {
        let is_met = length == 0 || ids.iter().any(|id| self.head.contains(id));
        Self {
            done: is_met,
            skip: self.skip + length,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Walks a list that `change` changes before each page; gives all that was seen, and how many
    /// pages it took.
    fn walk(
        mut list: Vec<String>,
        limit: u64,
        says_total: bool,
        mut change: impl FnMut(&mut Vec<String>),
    ) -> (BTreeSet<String>, usize) {
        let (mut position, mut seen, mut pages) = (Position::default(), BTreeSet::new(), 0);
        while !position.done {
            change(&mut list);
            let page: Vec<String> = list
                .iter()
                .skip(position.skip as usize)
                .take(limit as usize)
                .cloned()
                .collect();
            seen.extend(page.iter().cloned());
            let total = says_total.then_some(list.len() as u64);
            // As it is kept between jobs.
            let kept = serde_json::to_string(&position).expect("JSON");
            let kept: Position = serde_json::from_str(&kept).expect("a position");
            position = kept.after(&page, page.len() as u64, total, limit);
            pages += 1;
            assert!(pages < 10_000, "it ends");
        }
        (seen, pages)
    }

    fn list(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("l{n}")).collect()
    }

    #[test]
    fn a_list_that_stays_is_read_once_with_little_overlap() {
        for (count, says_total) in [
            (0, true),
            (1, true),
            (50, true),
            (1_000, true),
            (1_000, false),
        ] {
            let (seen, pages) = walk(list(count), 100, says_total, |_| {});
            assert_eq!(seen.len(), count);
            assert!(pages <= count / 92 + 3, "{count}: {pages}");
        }
    }

    #[test]
    fn whoever_is_in_a_changing_list_all_the_time_is_met() {
        let seed = std::env::var("PATCHBAY_TEST_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(7);
        println!("PATCHBAY_TEST_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            let mut gone = BTreeSet::new();
            let (most_gone, most_new) = (random.usize(0..80), random.usize(0..30));
            let mut made = 0;
            let before = list(random.usize(1..900));
            let mut draw = random.fork();
            let (seen, _) = walk(before.clone(), 50, round % 2 == 0, |list| {
                if made > 2_000 {
                    return;
                }
                for _ in 0..draw.usize(0..=most_gone) {
                    if !list.is_empty() {
                        gone.insert(list.remove(draw.usize(0..list.len())));
                    }
                }
                for _ in 0..draw.usize(0..=most_new) {
                    made += 1;
                    let at = if draw.bool() { 0 } else { list.len() };
                    list.insert(at, format!("new{made}"));
                }
            });
            let lost: Vec<_> = before
                .iter()
                .filter(|id| !gone.contains(*id) && !seen.contains(*id))
                .collect();
            assert!(lost.is_empty(), "round {round}: {lost:?}");
        }
    }

    #[test]
    fn an_entry_without_an_id_ends_nothing() {
        let page = ["a", "b"].map(String::from);
        let next = Position::default().after(&page, 3, None, 3);
        assert_eq!((next.skip, next.at_front), (2, false), "{next:?}");
        let nobody = next.after(&[], 3, None, 3);
        assert!(!nobody.done, "{nobody:?}");
    }

    #[test]
    fn a_vendor_that_gives_shorter_pages_than_asked_for_is_followed() {
        let all = list(70);
        let (mut position, mut seen) = (Position::default(), BTreeSet::new());
        while !position.done {
            let from = (position.skip as usize).min(all.len());
            let page: Vec<String> = all[from..].iter().take(3).cloned().collect();
            seen.extend(page.iter().cloned());
            position = position.after(&page, page.len() as u64, Some(70), 200);
        }
        assert_eq!(seen.len(), 70);
    }
}

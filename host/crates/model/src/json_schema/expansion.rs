//! Computes how often one value of a document is checked at most.
//!
//! Subschemas that apply to the same value (`allOf`, `$ref` and the like) add up. They may lead
//! back to themselves, which JSON Schema forbids, or double with every step. Subschemas that apply
//! to its members (`properties`, `items`) may lead back to themselves; that ends with the document.
//! But where one member is checked on two ways that lead back, the checks double with every level.
//! So checks are counted level by level, down to the maximum depth of JSON, for the worst document.
//! Members with different names are each checked only by the subschema for that name, so recursive
//! types of the usual shapes need few checks. If no value is checked more than [`MAX_CHECKS`]
//! times, the time is proportional to the document's size.

use std::collections::{BTreeMap, HashMap};

use super::places::{Label, Members, Places};

/// Checks of one value. Hand-written schemas have a few, or a few hundred with many variants.
const MAX_CHECKS: i64 = 10_000;
/// Nesting of subschemas for the same value: the library recurses.
const MAX_DEPTH: usize = 50;
/// Maximum depth of JSON that the host reads.
const MAX_LEVELS: usize = 128;
/// Steps and edges of all expansions: limits the time of this module itself.
const MAX_WORK: usize = 200_000;

/// Returns the most checks of one value, or names the subschema that leads to too many.
pub(super) fn checks(places: &Places) -> Result<u64, String> {
    let mut seen = vec![Seen::No; places.all.len()];
    (0..places.all.len()).try_for_each(|place| no_way_back(places, place, &mut seen))?;
    let mut expansions = BTreeMap::new();
    let (mut open, mut work) = (vec![0], 0);
    while let Some(place) = open.pop() {
        if expansions.contains_key(&place) {
            continue;
        }
        let mut expansion = Expansion::default();
        expansion
            .add(
                places,
                place,
                Times {
                    validated: 1,
                    marked: 0,
                },
                1,
            )
            .map_err(|reason| at(places, place, reason))?;
        work += expansion.steps + expansion.edges().count();
        if work > MAX_WORK {
            return Err(at(
                places,
                place,
                "too many schemas are combined with each other".into(),
            ));
        }
        open.extend(expansion.edges().map(|(to, _)| *to));
        expansions.insert(place, expansion);
    }
    most(places, &expansions)
}

fn at(places: &Places, place: usize, reason: String) -> String {
    format!("#{}: {reason}", places.all[place].path)
}

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    No,
    OnTheWay,
    Done,
}

fn no_way_back(places: &Places, place: usize, seen: &mut [Seen]) -> Result<(), String> {
    match seen[place] {
        Seen::Done => Ok(()),
        Seen::OnTheWay => {
            let reason =
                "refers back to itself by $ref for the same value, so that a check would never end";
            Err(at(places, place, reason.into()))
        }
        Seen::No => {
            seen[place] = Seen::OnTheWay;
            places.all[place]
                .same
                .iter()
                .try_for_each(|same| no_way_back(places, *same, seen))?;
            seen[place] = Seen::Done;
            Ok(())
        }
    }
}

fn most(places: &Places, expansions: &BTreeMap<usize, Expansion>) -> Result<u64, String> {
    let mut level = vec![0; places.all.len()];
    expansions
        .iter()
        .for_each(|(place, expansion)| level[*place] = expansion.checks);
    let mut most = 0;
    for _ in 0..MAX_LEVELS {
        if let Some(place) = level.iter().position(|checks| *checks > MAX_CHECKS) {
            let reason = format!(
                "a value in it may be checked more than {MAX_CHECKS} times: \
                 two references lead to the same schema for the same value, and this repeats at each level"
            );
            return Err(at(places, place, reason));
        }
        most = level.iter().copied().max().unwrap_or_default().max(most);
        let mut next = vec![0; places.all.len()];
        expansions
            .iter()
            .for_each(|(place, expansion)| next[*place] = expansion.below(&level));
        if level == next {
            break;
        }
        level = next;
    }
    Ok(most.unsigned_abs())
}

/// How often a subschema is applied to a value: to check it, and to see what it evaluates.
#[derive(Clone, Copy)]
struct Times {
    validated: i64,
    marked: i64,
}

/// All subschemas that apply to the same value as one subschema.
#[derive(Default)]
struct Expansion<'a> {
    steps: usize,
    checks: i64,
    fields: Next<'a>,
    items: Next<'a>,
}

impl<'a> Expansion<'a> {
    fn add(
        &mut self,
        places: &Places<'a>,
        place: usize,
        times: Times,
        depth: usize,
    ) -> Result<(), String> {
        let place = &places.all[place];
        if depth > MAX_DEPTH {
            return Err(format!(
                "more than {MAX_DEPTH} nested schemas check the same value"
            ));
        }
        let marked = times.marked + if place.again { times.validated } else { 0 };
        let all = times.validated + marked;
        self.steps += 1;
        self.checks = self.checks.saturating_add(all.saturating_mul(place.own));
        if self.checks > MAX_CHECKS {
            return Err(format!(
                "the same value is checked more than {MAX_CHECKS} times"
            ));
        }
        self.fields.add(&place.fields, all);
        self.items.add(&place.items, all);
        // To decide whether a branch counts as evaluated, the library first checks it.
        let below = Times {
            validated: all,
            marked,
        };
        place
            .same
            .iter()
            .try_for_each(|same| self.add(places, *same, below, depth + 1))
    }

    fn edges(&self) -> impl Iterator<Item = &(usize, i64)> {
        self.fields.edges().chain(self.items.edges())
    }

    /// Most checks of a value, from the counts one level further down.
    fn below(&self, level: &[i64]) -> i64 {
        self.fields.most(level).max(self.items.most(level))
    }
}

/// The subschemas that apply to the members, and how many times each.
#[derive(Default)]
struct Next<'a> {
    /// For members that nothing names.
    any: Vec<(usize, i64)>,
    /// For a named member, in addition to `any`; negative where a subschema does not apply to it.
    named: HashMap<Label<'a>, Vec<(usize, i64)>>,
}

impl<'a> Next<'a> {
    fn add(&mut self, members: &Members<'a>, times: i64) {
        self.any.extend(
            members
                .any
                .iter()
                .chain(&members.rest)
                .map(|place| (*place, times)),
        );
        for (label, place) in &members.named {
            let named = self.named.entry(*label).or_default();
            named.push((*place, times));
            named.extend(members.rest.map(|rest| (rest, -times)));
        }
    }

    fn edges(&self) -> impl Iterator<Item = &(usize, i64)> {
        self.any.iter().chain(self.named.values().flatten())
    }

    fn most(&self, level: &[i64]) -> i64 {
        // Neither factor is above MAX_CHECKS.
        let sum = |edges: &[(usize, i64)]| {
            edges
                .iter()
                .map(|(place, times)| level[*place] * times)
                .sum::<i64>()
        };
        sum(&self.any)
            + self
                .named
                .values()
                .map(|named| sum(named))
                .max()
                .unwrap_or_default()
                .max(0)
    }
}

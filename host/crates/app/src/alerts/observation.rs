//! What an observation is, and which subjects a set of them covers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// One subject of a rule, as it was observed.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub subject: String,
    pub value: Option<f64>,
    /// The number of cases behind the value.
    pub cases: Option<u32>,
    /// Must contain nothing of a job's data.
    pub reason: String,
    /// The reason when it is over. `None`: as [`Self::reason`].
    pub was: Option<String>,
    /// What the reader should do next.
    pub next: String,
    /// More details, for machines.
    pub details: Map<String, Value>,
}

impl Observation {
    pub fn new(
        subject: impl Into<String>,
        value: impl Into<Option<f64>>,
        reason: String,
        next: String,
    ) -> Self {
        Self {
            subject: subject.into(),
            value: value.into(),
            cases: None,
            reason,
            was: None,
            next,
            details: Map::new(),
        }
    }

    pub(super) fn was(mut self, was: impl Into<String>) -> Self {
        self.was = Some(was.into());
        self
    }
}

#[derive(Debug)]
pub struct RuleObservations {
    pub rule: &'static str,
    pub observations: Vec<Observation>,
    /// Subjects that were looked at and are in order, so far as they are known by name. Any other
    /// one that is covered and not observed is absent.
    pub in_order: BTreeSet<String>,
    pub covers: Coverage,
}

impl RuleObservations {
    /// A subject that is observed as well, for example by another process, is not in order.
    pub(super) fn with_in_order(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.in_order = subjects.into_iter().collect();
        for observation in &self.observations {
            self.in_order.remove(&observation.subject);
        }
        self
    }
}

/// Subjects that do not meet the condition when [`RuleObservations::observations`] does not contain
/// them.
#[derive(Debug)]
pub enum Coverage {
    Everything,
    Only(String),
    AllBut(&'static str),
    /// No subject: only those that were observed are known.
    Nothing,
}

impl Coverage {
    pub fn subject(&self, subject: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(one) => one == subject,
            Self::AllBut(one) => *one != subject,
            Self::Nothing => false,
        }
    }
}

pub(super) fn everything(
    rule: &'static str,
    observations: impl IntoIterator<Item = Observation>,
) -> RuleObservations {
    RuleObservations {
        rule,
        observations: observations.into_iter().collect(),
        in_order: BTreeSet::new(),
        covers: Coverage::Everything,
    }
}

pub(super) fn details<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_that_is_open_anywhere_is_not_in_order_and_one_that_closed_is() {
        let of = |in_order: &[&str], observed: &[&str]| {
            let observations = observed
                .iter()
                .map(|one| Observation::new(*one, None, String::new(), String::new()));
            let names = in_order.iter().map(|one| (*one).to_owned());
            everything("breaker-open", observations).with_in_order(names)
        };
        assert!(of(&["email x"], &["email x"]).in_order.is_empty());
        assert_eq!(of(&["email x"], &["email y"]).in_order.len(), 1);
    }
}

//! Kinds of slots, each as one condition of SQL, so that what is counted, listed and deleted is the
//! same.

use patchbay_plugin::sql::Value as Cell;

use crate::database;
use crate::settings::Settings;
use crate::time::{Millis, minutes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    All,
    Available,
    Booked,
    Future,
    Expired,
    ExpiredUnbooked,
}

/// What a statement's conditions are compared with. Each use of a value is a parameter of its own,
/// because Postgres gives each the type of the column beside it.
#[derive(Debug, Default)]
pub struct Parameters(pub Vec<Cell>);

impl Parameters {
    /// Its name in the statement.
    pub fn add(&mut self, cell: Cell) -> String {
        self.0.push(cell);
        format!("${}", self.0.len())
    }
}

/// The settings at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub settings: &'a Settings,
    pub now: Millis,
}

impl Terms<'_> {
    /// Slots whose time has passed before this are expired.
    pub fn expired_before(self) -> Millis {
        self.now
            .saturating_sub(minutes(self.settings.grace_minutes))
    }

    pub fn is_expired(self, parameters: &mut Parameters) -> String {
        let before = self.settings.utc_offset.parameter(self.expired_before());
        format!(
            "{} < {}",
            self.settings.expired_by.column(),
            parameters.add(database::text(before))
        )
    }

    /// A slot with a student is never unbooked, whatever else its row says. `is null` is written
    /// out: the old backend gave null as a value to its query builder, which then left the condition
    /// out, and booked slots passed as free.
    pub fn is_unbooked(self, parameters: &mut Parameters) -> String {
        let statuses = parameters.add(database::array(&self.settings.unbooked_statuses));
        format!("\"studentId\" is null and status = any({statuses})")
    }
}

impl Kind {
    /// With the names that clients use, in the order of the statistics.
    pub const ALL: [(&'static str, Self); 6] = [
        ("total", Self::All),
        ("available", Self::Available),
        ("booked", Self::Booked),
        ("future", Self::Future),
        ("expired", Self::Expired),
        ("expiredUnbooked", Self::ExpiredUnbooked),
    ];

    /// Of a list.
    pub fn of_filter(filter: &str) -> Option<Self> {
        if filter == "all" {
            return Some(Self::All);
        }
        let mut kinds = Self::ALL.iter().filter(|(_, kind)| *kind != Self::All);
        kinds
            .find(|(name, _)| *name == filter)
            .map(|(_, kind)| *kind)
    }

    pub fn condition(self, terms: Terms<'_>, parameters: &mut Parameters) -> String {
        match self {
            Self::All => "true".into(),
            Self::Available => format!("\"isAvailable\" and {}", terms.is_unbooked(parameters)),
            Self::Booked => "\"studentId\" is not null".into(),
            Self::Future => {
                let now = terms.settings.utc_offset.parameter(terms.now);
                let now = parameters.add(database::text(now));
                format!("\"startDateTime\" > {now}")
            }
            Self::Expired => terms.is_expired(parameters),
            Self::ExpiredUnbooked => format!(
                "{} and {}",
                terms.is_expired(parameters),
                terms.is_unbooked(parameters)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbooked_says_is_null_in_words_wherever_it_is_meant() {
        let settings = Settings::default();
        let terms = Terms {
            settings: &settings,
            now: 0,
        };
        for kind in [Kind::Available, Kind::ExpiredUnbooked] {
            let mut parameters = Parameters::default();
            let condition = kind.condition(terms, &mut parameters);
            assert!(condition.contains("\"studentId\" is null"), "{condition}");
            let no_null = parameters.0.iter().all(|cell| !matches!(cell, Cell::Null));
            assert!(no_null, "{parameters:?}");
        }
    }

    #[test]
    fn filters_are_spelled_as_clients_spell_them() {
        assert_eq!(Kind::of_filter("all"), Some(Kind::All));
        assert_eq!(
            Kind::of_filter("expiredUnbooked"),
            Some(Kind::ExpiredUnbooked)
        );
        for wrong in ["total", "", "expiredunbooked", "null"] {
            assert_eq!(Kind::of_filter(wrong), None, "{wrong}");
        }
    }
}

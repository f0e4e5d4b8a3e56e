//! Cron expressions as read by cron-parser 5, which BullMQ 6 uses.
//!
//! Its grammar is wider than most: one to six fields (missing ones are filled up from the left),
//! `0/3` and `*/3`, names of months and weekdays in any letter case, 7 as Sunday, `L` and `5L`,
//! `5#3`, `?`, and `H`, a random value. If day of month and day of week are both given, either may
//! match. Everything that it accepts is accepted here, and a little more: a value may be listed
//! twice, as cron-parser 4 (BullMQ 5) allows.

use sha2::{Digest, Sha256};

use crate::words::counted;

const MOST_CHARACTERS: usize = 1_024;
const ALIASES: [(&str, &str); 10] = [
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
    ("@monthly", "0 0 0 1 * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@daily", "0 0 0 * * *"),
    ("@hourly", "0 0 * * * *"),
    ("@minutely", "0 * * * * *"),
    ("@secondly", "* * * * * *"),
    ("@weekdays", "0 0 0 * * 1-5"),
    ("@weekends", "0 0 0 * * 0,6"),
];
/// Names of months and of weekdays are read in both fields.
const NAMES: [(&str, u32); 19] = [
    ("jan", 1),
    ("feb", 2),
    ("mar", 3),
    ("apr", 4),
    ("may", 5),
    ("jun", 6),
    ("jul", 7),
    ("aug", 8),
    ("sep", 9),
    ("oct", 10),
    ("nov", 11),
    ("dec", 12),
    ("sun", 0),
    ("mon", 1),
    ("tue", 2),
    ("wed", 3),
    ("thu", 4),
    ("fri", 5),
    ("sat", 6),
];

/// Numbers from 0 to 63.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    pub(super) fn has(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    pub(super) fn first(self) -> u32 {
        self.0.trailing_zeros()
    }

    pub(super) fn after(self, number: u32) -> Option<u32> {
        let rest = self.0.checked_shr(number + 1).unwrap_or(0);
        (rest != 0).then(|| number + 1 + rest.trailing_zeros())
    }

    pub(super) fn len(self) -> u32 {
        self.0.count_ones()
    }

    fn add(&mut self, number: u32) {
        self.0 |= 1 << number;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) seconds: Set,
    pub(super) minutes: Set,
    pub(super) hours: Set,
    pub(super) months: Set,
    days: Days,
    weekdays: Days,
    /// Which weekday of its month; 0 means each.
    nth: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Days {
    values: Set,
    /// For weekdays: the values that a last weekday of the month must match.
    last: Set,
    has_last: bool,
    /// `*` or `?` alone.
    is_any: bool,
}

/// The properties of a day that patterns depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Day {
    pub(super) of_month: u32,
    /// 0 is Sunday.
    pub(super) of_week: u32,
    pub(super) days_in_month: u32,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MOST_CHARACTERS {
            return Err(format!("it has more than {MOST_CHARACTERS} characters"));
        }
        let alias = ALIASES
            .iter()
            .find(|(alias, _)| alias.eq_ignore_ascii_case(text.trim()));
        let text = alias.map_or(text, |(_, text)| text);
        let given: Vec<&str> = text.split_whitespace().collect();
        if given.is_empty() || given.len() > 6 {
            return Err(format!(
                "it has {}; it must have 5, or 6 with the seconds first",
                counted(given.len() as u64, "field")
            ));
        }
        let mut fields = ["0", "*", "*", "*", "*", "*"];
        fields[6 - given.len()..].copy_from_slice(&given);
        let [second, minute, hour, day, month, weekday] = fields;
        let (weekday_alone, nth) = match weekday.split_once('#') {
            None => (weekday, 0),
            Some((alone, nth)) => {
                if weekday.contains([',', '-', '/']) {
                    return Err(format!("{weekday:?} mixes # with a list, range or step"));
                }
                let nth = nth.parse().ok().filter(|nth| (1..=5).contains(nth));
                (
                    alone,
                    nth.ok_or_else(|| {
                        format!("{weekday:?} must have a number from 1 to 5 after #")
                    })?,
                )
            }
        };
        let plain = |field: &Field, value| field.read(value, text).map(|(values, _)| values);
        let days = |field: &Field, value, raw: &str| {
            let (values, last) = field.read(value, text)?;
            Ok::<_, String>(Days {
                values,
                last,
                has_last: raw.contains('L'),
                is_any: ["*", "?"].contains(&raw),
            })
        };
        Ok(Self {
            seconds: plain(&SECOND, second)?,
            minutes: plain(&MINUTE, minute)?,
            hours: plain(&HOUR, hour)?,
            months: plain(&MONTH, month)?,
            days: days(&DAY, day, day)?,
            weekdays: days(&WEEKDAY, weekday_alone, weekday)?,
            nth,
        })
    }

    /// Whether there is a tick on such a day. The month is not checked.
    pub(super) fn has_day(&self, day: Day) -> bool {
        let is_last_week = day.of_month + 7 > day.days_in_month;
        let by_month = self.days.values.has(day.of_month)
            || self.days.has_last && day.of_month == day.days_in_month;
        let is_nth = self.nth == 0 || day.of_month.div_ceil(7) == self.nth;
        let by_week = self.weekdays.values.has(day.of_week) && is_nth
            || self.weekdays.has_last && is_last_week && self.weekdays.last.has(day.of_week);
        match (self.days.is_any, self.weekdays.is_any) {
            (false, false) => by_month || by_week,
            (true, false) => by_week,
            (_, true) => by_month,
        }
    }
}

struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    characters: &'static str,
}

const SECOND: Field = Field {
    name: "seconds",
    least: 0,
    most: 59,
    characters: "",
};
const MINUTE: Field = Field {
    name: "minutes",
    least: 0,
    most: 59,
    characters: "",
};
const HOUR: Field = Field {
    name: "hours",
    least: 0,
    most: 23,
    characters: "",
};
const DAY: Field = Field {
    name: "days of the month",
    least: 1,
    most: 31,
    characters: "L",
};
const MONTH: Field = Field {
    name: "months",
    least: 1,
    most: 12,
    characters: "",
};
const WEEKDAY: Field = Field {
    name: "weekdays",
    least: 0,
    most: 7,
    characters: "L",
};

impl Field {
    /// Its values, and those that a last weekday must match.
    fn read(&self, text: &str, pattern: &str) -> Result<(Set, Set), String> {
        let wrong = |why: &str| format!("the {} {text:?} {why}", self.name);
        let mut value = text.to_owned();
        if ["months", "weekdays"].contains(&self.name) {
            value = numbers_for_names(&value)
                .ok_or_else(|| wrong("have a name that is not a month or weekday"))?;
        }
        let is_known =
            |c: char| c.is_ascii_digit() || "?,*H/-()".contains(c) || self.characters.contains(c);
        if value.is_empty() || !value.chars().all(is_known) {
            return Err(wrong("have a character that is not allowed there"));
        }
        let all = format!("{}-{}", self.least, self.most);
        value = value.replace(['*', '?'], &all);
        value = self.drawn(&value, pattern).map_err(|why| wrong(&why))?;
        let (mut values, mut last) = (Set::default(), Set::default());
        for part in value.split(',') {
            self.add(part, &mut values, &mut last)
                .map_err(|why| wrong(&why))?;
        }
        Ok((values, last))
    }

    fn add(&self, part: &str, values: &mut Set, last: &mut Set) -> Result<(), String> {
        if part.is_empty() {
            return Err("have an empty list element".into());
        }
        let (range, step) = match part.split_once('/') {
            None => (part.to_owned(), None),
            Some((_, step)) if step.contains('/') => return Err("have two steps".into()),
            Some((range, step)) if range.contains('-') => (range.to_owned(), Some(step)),
            // From this value to the end of the range.
            Some((start, step)) => (format!("{start}-{}", self.most), Some(step)),
        };
        let mut put = |number: u32| {
            let number = if self.name == "weekdays" {
                number % 7
            } else {
                number
            };
            values.add(number);
            last.add(number % 7);
        };
        let mut ends = range.split('-');
        let (least, most) = (ends.next().unwrap_or_default(), ends.next());
        let Some(most) = most else {
            if least.contains('L') {
                let digits = least.strip_suffix('L').filter(|digits| digits.len() <= 2);
                let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
                let digits = digits.filter(|digits| self.name != "weekdays" || !digits.is_empty());
                let first = digits
                    .ok_or("have an L without a weekday, or in the wrong place")?
                    .chars()
                    .next();
                last.add(first.and_then(|digit| digit.to_digit(10)).unwrap_or(0) % 7);
                return Ok(());
            }
            let number = least
                .parse()
                .ok()
                .filter(|number| (self.least..=self.most).contains(number));
            put(number.ok_or_else(|| format!("must be from {} to {}", self.least, self.most))?);
            return Ok(());
        };
        let (Some(least), Some(most)) = (leading(least), leading(most)) else {
            return Err("have a range without an end".into());
        };
        if least < self.least || most > self.most || least > most {
            return Err(format!(
                "have a range that does not ascend within {} to {}",
                self.least, self.most
            ));
        }
        let step = step
            .map_or(Some(1), leading)
            .filter(|step| *step > 0)
            .ok_or("have a step that is not a number above 0")?;
        (least..=most).step_by(step as usize).for_each(put);
        Ok(())
    }

    /// Replaces `H`, `H/5`, `H(0-29)` and `H(0-29)/10`. cron-parser draws a new value at each look;
    /// we derive it from the text, so that an hourly job stays hourly.
    fn drawn(&self, text: &str, pattern: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('H') {
            out.push_str(before);
            rest = after;
            let (mut least, mut most, mut step) = (self.least, self.most, None);
            if let Some((range, after)) =
                rest.strip_prefix('(').and_then(|text| text.split_once(')'))
            {
                let ends = range
                    .split_once('-')
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let (from, to): (u32, u32) = ends.ok_or("have a wrong range after H")?;
                if from > to || from > self.most || to < self.least {
                    return Err("have a wrong range after H".into());
                }
                (least, most, rest) = (from.max(least), to.min(most), after);
            }
            if let Some(after) = rest.strip_prefix('/') {
                let digits = after.bytes().take_while(u8::is_ascii_digit).count();
                step = Some(
                    after[..digits]
                        .parse()
                        .ok()
                        .filter(|step: &u32| *step > 0)
                        .ok_or("have a step after H that is not a number above 0")?,
                );
                rest = &after[digits..];
            }
            let digest = Sha256::digest(format!("{pattern}\n{}", self.name));
            let lot = |below: u32| {
                u32::from_be_bytes([0, digest[0], digest[1], digest[2]]) % below.max(1)
            };
            let one = least + lot(most - least + 1);
            let stepped: Vec<String> = step.map_or_else(Vec::new, |step| {
                (least / step * step + lot(step)..=most)
                    .step_by(step as usize)
                    .filter(|n| *n >= least)
                    .map(|n| n.to_string())
                    .collect()
            });
            out.push_str(&if stepped.is_empty() {
                one.to_string()
            } else {
                stepped.join(",")
            });
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// JavaScript's `parseInt`.
fn leading(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| text[..digits].parse().unwrap_or(u32::MAX))
}

fn numbers_for_names(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let name = rest
            .get(..3)
            .filter(|name| name.bytes().all(|b| b.is_ascii_alphabetic()));
        let taken = match name {
            Some(name) => {
                let known = NAMES
                    .iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
                out.push_str(&known.1.to_string());
                3
            }
            None => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: impl IntoIterator<Item = u32>) -> Set {
        numbers.into_iter().fold(Set::default(), |mut set, number| {
            set.add(number);
            set
        })
    }

    #[test]
    fn what_cron_parser_takes_is_read_as_it_reads_it() {
        let of = |text: &str| Pattern::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(of("0/3 * * * * *").seconds, set((0..60).step_by(3)));
        assert_eq!(of("5/20 * * * *").minutes, set([5, 25, 45]));
        assert_eq!(
            of("  0   9 * jan-MAR,dec  MON-fri ").months,
            set([1, 2, 3, 12])
        );
        assert_eq!(of("0 9 * * 5-7").weekdays.values, set([5, 6, 0]));
        assert_eq!(of("0 9 * * 7").weekdays.values, set([0]));
        assert_eq!(of("0 9 * * 0,7"), of("0 9 * * 0"));
        assert_eq!(
            (of("9 * * *").minutes, of("9 * * *").hours),
            (set(0..60), set([9])),
            "fields are filled up from the left"
        );
        assert_eq!(of("@weekends").weekdays.values, set([0, 6]));
        assert_eq!(
            of("0 0 ? * 1L").weekdays,
            Days {
                values: set([]),
                last: set([1]),
                has_last: true,
                is_any: false
            }
        );
        let drawn = of("H H(3-5) * * *");
        assert_eq!(
            (
                drawn.minutes.len(),
                (3..=5).contains(&drawn.hours.first()),
                drawn.hours.len()
            ),
            (1, true, 1)
        );
        assert_eq!(of("H/15 * * * *").minutes.len(), 4);
        assert_eq!(of("H * * * *"), of("H * * * *"), "the lot falls once");
    }

    #[test]
    fn what_it_refuses_is_refused_with_a_reason() {
        for text in [
            "",
            "61 * * * *",
            "* * * * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "1,,2 * * * *",
            "0 0 * * L",
            "0 0 * * 1#6",
            "0 0 * * 1,2#3",
            "0 0 32 * *",
            "0 0 * foo *",
            "x * * * *",
            "1/2/3 * * * *",
            "0 0 15W * *",
            "RRULE:FREQ=DAILY",
            "H/0 * * * *",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        assert!(Pattern::parse(&"*".repeat(2_000)).is_err());
    }

    #[test]
    fn day_of_month_and_day_of_week_are_alternatives_when_both_are_given() {
        let friday = |of_month| Day {
            of_month,
            of_week: 5,
            days_in_month: 31,
        };
        let monday = |of_month| Day {
            of_month,
            of_week: 1,
            days_in_month: 31,
        };
        let both = Pattern::parse("0 0 13 * 5").expect("a pattern");
        assert!(both.has_day(friday(1)) && both.has_day(monday(13)) && !both.has_day(monday(1)));
        let third = Pattern::parse("0 0 * * fri#3").expect("a pattern");
        assert!(third.has_day(friday(15)) && !third.has_day(friday(8)));
        let last = Pattern::parse("0 0 L * *").expect("a pattern");
        assert!(last.has_day(monday(31)) && !last.has_day(monday(30)));
        let last_friday = Pattern::parse("0 0 * * friL").expect("a pattern");
        assert!(
            last_friday.has_day(friday(25))
                && !last_friday.has_day(friday(24))
                && !last_friday.has_day(monday(28))
        );
    }
}

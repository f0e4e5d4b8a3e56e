//! What is usual for a webhook: how many requests are accepted in which hour of the day, learned
//! from the last four weeks, and for how long none may come before that is told.
//!
//! Counts of an hour are taken as negative binomial: as random as the vendor's were, bursts and all.
//! Then the chance that none comes while `e` are expected is `d` to the power of `-e / (d - 1)`,
//! where `d` is variance by mean. A silence is told when that chance, times the number of events in
//! a day, falls below one in 100,000: so often a day is the alarm false, however many requests come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use patchbay_model::schedule::Zone;
use patchbay_store::StoreError;

use super::InboxParts;

const LEARNED_OF: TimeDelta = TimeDelta::days(28);
const LEAST_HOURS: usize = 7 * 24;
const LEAST_EVENTS: i64 = 50;
/// Where counts vary less than by chance, chance is assumed.
const LEAST_DISPERSION: f64 = 1.01;
/// Of anything, a few minutes' silence is no news.
const LEAST_SILENCE: TimeDelta = TimeDelta::minutes(5);
/// The logarithm of 100,000.
const CERTAINTY: f64 = 11.5;
/// What was learned so fast is learned each time; else after a while.
const FAST: Duration = Duration::from_millis(20);
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Hours since 1970.
type Hour = i64;

/// What one webhook usually gets.
#[derive(Debug, Clone)]
pub(crate) struct Usual {
    /// Requests in an hour: of working days and weekends, by hour of the day.
    rates: [[f64; 24]; 2],
    /// Variance of an hour's count by its mean.
    dispersion: f64,
    per_day: f64,
    zone: Zone,
    /// Hours in which a host ran: in others, no vendor could have been heard.
    ran: Arc<HashSet<Hour>>,
}

/// By plugin and webhook.
pub(crate) type AllUsual = Arc<HashMap<(String, String), Usual>>;

/// What was learned last.
pub(super) struct Learned {
    at: Instant,
    took: Duration,
    usual: AllUsual,
}

fn hour_of(at: DateTime<Utc>) -> Hour {
    at.timestamp().div_euclid(3_600)
}

fn cell(hour: Hour, zone: Zone) -> (usize, usize) {
    let middle = DateTime::from_timestamp(hour * 3_600 + 1_800, 0).unwrap_or_default();
    let local = zone.local(middle);
    let is_weekend = local.weekday().number_from_monday() >= 6;
    (usize::from(is_weekend), local.hour() as usize % 24)
}

impl Usual {
    /// `counts`: accepted requests by hour; what is absent is zero. `counts_for`: whether an hour
    /// tells anything. `None` where too little is known.
    fn learn(
        counts: &HashMap<Hour, i64>,
        counts_for: impl Fn(Hour) -> bool,
        zone: Zone,
        ran: Arc<HashSet<Hour>>,
    ) -> Option<Self> {
        let first = *counts.keys().min()?;
        let last = *counts.keys().max()?;
        // The first hour was not whole.
        let hours: Vec<(usize, usize, f64)> = (first + 1..=last)
            .filter(|hour| counts_for(*hour))
            .map(|hour| {
                let (days, of_day) = cell(hour, zone);
                let count = counts.get(&hour).copied().unwrap_or_default();
                (days, of_day, count as f64)
            })
            .collect();
        let total: f64 = hours.iter().map(|(_, _, count)| count).sum();
        if hours.len() < LEAST_HOURS || total < LEAST_EVENTS as f64 {
            return None;
        }
        let (mut number, mut rates) = ([[0.0_f64; 24]; 2], [[0.0_f64; 24]; 2]);
        for (days, of_day, count) in &hours {
            number[*days][*of_day] += 1.0;
            rates[*days][*of_day] += count;
        }
        for (rates, number) in rates.iter_mut().zip(&number) {
            for (rate, number) in rates.iter_mut().zip(number) {
                *rate /= number.max(1.0);
            }
        }
        let squares: f64 = hours
            .iter()
            .map(|(days, of_day, count)| (count - rates[*days][*of_day]).powi(2))
            .sum();
        // As large as the squares are where counts are Poisson: each mean was made of the counts.
        let by_chance: f64 = rates
            .iter()
            .flatten()
            .zip(number.iter().flatten())
            .map(|(rate, number)| rate * (number - 1.0).max(0.0))
            .sum();
        let dispersion = match by_chance > 0.0 {
            true => squares / by_chance,
            false => LEAST_DISPERSION,
        };
        Some(Self {
            rates,
            dispersion: dispersion.max(LEAST_DISPERSION),
            per_day: total * 24.0 / hours.len() as f64,
            zone,
            ran,
        })
    }

    /// How many requests were to be expected in this time.
    pub(crate) fn expected(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
        let current = hour_of(now);
        let since = since.max(now - LEARNED_OF);
        let hours = hour_of(since)..=current;
        hours
            .filter(|hour| *hour == current || self.ran.contains(hour))
            .map(|hour| {
                let begins = (hour * 3_600) as f64;
                let from = seconds(since).max(begins);
                let until = seconds(now).min(begins + 3_600.0);
                let (days, of_day) = cell(hour, self.zone);
                self.rates[days][of_day] * (until - from).max(0.0) / 3_600.0
            })
            .sum()
    }

    /// Whether so long a silence is no chance.
    pub(crate) fn is_silent(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let d = self.dispersion;
        let unlikely = self.expected(since, now) * d.ln() / (d - 1.0);
        now - since >= LEAST_SILENCE && unlikely >= CERTAINTY + self.per_day.max(1.0).ln()
    }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1_000.0
}

impl InboxParts {
    /// What is usual for webhooks of which enough is known.
    pub(crate) async fn usual(&self) -> Result<AllUsual, StoreError> {
        let mut learned = self.usual.lock().await;
        if let Some(known) = &*learned
            && known.took > FAST
            && known.at.elapsed() < KNOWN_FOR
        {
            return Ok(Arc::clone(&known.usual));
        }
        let began = Instant::now();
        let since = Utc::now() - LEARNED_OF;
        let mut counts: HashMap<(String, String), HashMap<Hour, i64>> = HashMap::new();
        for row in self.store.inbox_hours(since).await? {
            let of_webhook = counts.entry((row.plugin, row.webhook)).or_default();
            *of_webhook.entry(hour_of(row.hour)).or_default() += row.count;
        }
        let ran = self.store.inbox_running_hours(since).await?;
        let ran: Arc<HashSet<Hour>> = Arc::new(ran.into_iter().map(hour_of).collect());
        let silences = self.store.inbox_silences(since).await?;
        let zone = self.broker.default_zone();
        let usual = counts
            .into_iter()
            .filter_map(|((plugin, webhook), counts)| {
                let name = format!("{plugin}.{webhook}");
                let counts_for = |hour: Hour| {
                    let mut silences = silences.iter().filter(|of| of.webhook == name);
                    ran.contains(&hour)
                        && !silences
                            .any(|of| (hour_of(of.began_at)..=hour_of(of.ended_at)).contains(&hour))
                };
                let usual = Usual::learn(&counts, counts_for, zone, Arc::clone(&ran))?;
                Some(((plugin, webhook), usual))
            })
            .collect();
        let usual = Arc::new(usual);
        *learned = Some(Learned {
            at: Instant::now(),
            took: began.elapsed(),
            usual: Arc::clone(&usual),
        });
        Ok(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are random enough, and the same each time.
    struct Chance(u64);

    impl Chance {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            let (a, b) = (self.next().max(1e-300), self.next());
            (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        }

        /// Marsaglia and Tsang.
        fn gamma(&mut self, shape: f64) -> f64 {
            if shape < 1.0 {
                let small = self.next().max(1e-300).powf(1.0 / shape);
                return self.gamma(shape + 1.0) * small;
            }
            let d = shape - 1.0 / 3.0;
            loop {
                let x = self.normal();
                let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
                let u = self.next().max(1e-300);
                if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                    return d * v;
                }
            }
        }
    }

    const DAY: Hour = 24;

    /// A Monday.
    const BEGINS: Hour = 1_699_833_600 / 3_600;

    /// A vendor: requests in each hour, and how much they vary.
    struct Vendor {
        rate: fn(days: usize, of_day: usize) -> f64,
        dispersion: f64,
    }

    impl Vendor {
        /// Times of requests in an hour, in seconds since 1970.
        fn times(&self, hour: Hour, chance: &mut Chance) -> Vec<f64> {
            let (days, of_day) = cell(hour, Zone::UTC);
            let mean = (self.rate)(days, of_day);
            if mean <= 0.0 {
                return Vec::new();
            }
            let mean = match self.dispersion > 1.0 {
                true => chance.gamma(mean / (self.dispersion - 1.0)) * (self.dispersion - 1.0),
                false => mean,
            };
            let (mut times, mut at) = (Vec::new(), 0.0);
            loop {
                at -= chance.next().max(1e-300).ln() / mean * 3_600.0;
                if at >= 3_600.0 {
                    return times;
                }
                times.push((hour * 3_600) as f64 + at);
            }
        }
    }

    fn at(seconds: f64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis((seconds * 1_000.0) as i64).expect("a time")
    }

    fn learned(counts: &HashMap<Hour, i64>, until: Hour) -> Option<Usual> {
        let ran: Arc<HashSet<Hour>> = Arc::new((until - 40 * DAY..until + 40 * DAY).collect());
        let recent = counts
            .iter()
            .filter(|(hour, _)| (until - 28 * DAY..until).contains(*hour))
            .map(|(hour, count)| (*hour, *count))
            .collect();
        Usual::learn(&recent, |_| true, Zone::UTC, ran)
    }

    /// False alarms in so many days, after four weeks of learning; and what is usual at the end.
    fn false_alarms(vendor: &Vendor, days: Hour, seed: u64) -> (usize, Option<Usual>) {
        let mut chance = Chance(seed);
        let mut counts: HashMap<Hour, i64> = HashMap::new();
        let (mut alarms, mut last, mut usual) = (0, None::<f64>, None::<Usual>);
        for hour in BEGINS..BEGINS + (28 + days) * DAY {
            if hour >= BEGINS + 28 * DAY && (hour - BEGINS) % DAY == 0 {
                usual = learned(&counts, hour);
            }
            for time in vendor.times(hour, &mut chance) {
                if let (Some(usual), Some(last)) = (&usual, last) {
                    alarms += usize::from(usual.is_silent(at(last), at(time)));
                }
                last = Some(time);
                *counts.entry(hour).or_default() += 1;
            }
        }
        (alarms, usual)
    }

    #[test]
    fn a_vendor_that_goes_on_as_before_is_never_told_of_in_ninety_days() {
        let vendors: [(&str, Vendor); 7] = [
            (
                "one a day",
                Vendor {
                    rate: |_, _| 1.0 / 24.0,
                    dispersion: 1.0,
                },
            ),
            (
                "three a day",
                Vendor {
                    rate: |_, _| 3.0 / 24.0,
                    dispersion: 1.0,
                },
            ),
            (
                "one an hour",
                Vendor {
                    rate: |_, _| 1.0,
                    dispersion: 1.0,
                },
            ),
            (
                "20 an hour by day",
                Vendor {
                    rate: |_, of_day| if (9..18).contains(&of_day) { 20.0 } else { 0.0 },
                    dispersion: 1.0,
                },
            ),
            (
                "working days only",
                Vendor {
                    rate: |days, of_day| match (days, of_day) {
                        (0, 8..=19) => 12.0,
                        (0, _) => 0.5,
                        _ => 0.1,
                    },
                    dispersion: 2.0,
                },
            ),
            (
                "bursts",
                Vendor {
                    rate: |_, _| 30.0,
                    dispersion: 12.0,
                },
            ),
            (
                "100 an hour",
                Vendor {
                    rate: |_, _| 100.0,
                    dispersion: 3.0,
                },
            ),
        ];
        for (name, vendor) in vendors {
            for seed in [7, 11] {
                let (alarms, _) = false_alarms(&vendor, 90, seed);
                assert_eq!(alarms, 0, "{name}");
            }
        }
    }

    #[test]
    fn a_stop_at_noon_is_told_within_two_hours_at_ten_an_hour_and_at_once_at_ten_a_second() {
        let stop = |vendor: &Vendor| {
            let (_, usual) = false_alarms(vendor, 1, 3);
            let usual = usual.expect("enough is known");
            // A Tuesday.
            let noon = at(((BEGINS + 29 * DAY + 12) * 3_600) as f64);
            (1..48 * 60)
                .map(TimeDelta::minutes)
                .find(|silence| usual.is_silent(noon, noon + *silence))
                .map(|silence| silence.num_minutes())
        };
        let flat = Vendor {
            rate: |_, _| 10.0,
            dispersion: 1.0,
        };
        let minutes = stop(&flat).expect("told");
        assert!((80..=120).contains(&minutes), "{minutes}");
        let night = Vendor {
            rate: |_, of_day| if (9..18).contains(&of_day) { 10.0 } else { 0.0 },
            dispersion: 1.0,
        };
        let minutes = stop(&night).expect("told");
        assert!((80..=130).contains(&minutes), "{minutes}");
        // As many as 10 in a second: too many to be made one by one.
        let counts: HashMap<Hour, i64> = (BEGINS..BEGINS + 28 * DAY)
            .map(|hour| (hour, 36_000 + (hour % 7 - 3) * 100))
            .collect();
        let usual = learned(&counts, BEGINS + 28 * DAY).expect("enough is known");
        let noon = at(((BEGINS + 28 * DAY + 12) * 3_600) as f64);
        assert!(!usual.is_silent(noon, noon + TimeDelta::seconds(299)));
        assert!(usual.is_silent(noon, noon + TimeDelta::seconds(300)));
    }

    #[test]
    fn so_unlikely_a_silence_comes_once_in_a_hundred_thousand_days_whatever_the_volume() {
        for per_hour in [0.2, 1.0, 10.0, 600.0, 36_000.0] {
            let usual = Usual {
                rates: [[per_hour; 24]; 2],
                dispersion: LEAST_DISPERSION,
                per_day: per_hour * 24.0,
                zone: Zone::UTC,
                ran: Arc::new((BEGINS..BEGINS + 60 * DAY).collect()),
            };
            // Of Poisson events, the chance of a gap is e to the power of what is expected in it.
            let limit = (CERTAINTY + usual.per_day.max(1.0).ln()) / 0.995;
            let in_a_day = usual.per_day * (-limit).exp();
            assert!(in_a_day <= 1.05e-5, "{per_hour}: {in_a_day}");
            let (from, hours) = (at((BEGINS * 3_600) as f64), limit / per_hour);
            let silence = |part: f64| {
                let ms = (hours * part * 3_600_000.0) as i64;
                from + TimeDelta::milliseconds(ms.max(300_000))
            };
            assert!(usual.is_silent(from, silence(1.01)), "{per_hour}");
            if hours > 0.1 {
                assert!(!usual.is_silent(from, silence(0.99)), "{per_hour}");
            }
        }
    }

    #[test]
    fn too_little_is_known_of_a_few_days_of_a_few_events_and_of_hours_without_a_host() {
        let hourly = |hours: Hour, count: i64| -> HashMap<Hour, i64> {
            (0..hours).map(|hour| (BEGINS + hour, count)).collect()
        };
        let learn = |counts: &HashMap<Hour, i64>| learned(counts, BEGINS + 28 * DAY);
        assert!(
            learn(&hourly(7 * DAY, 10)).is_none(),
            "the first is not whole"
        );
        assert!(learn(&hourly(7 * DAY + 1, 10)).is_some());
        let few: HashMap<Hour, i64> = (0..27).map(|day| (BEGINS + day * DAY, 1)).collect();
        assert!(learn(&few).is_none());
        let every_hour = hourly(27 * DAY, 10);
        let half = |hour: Hour| hour % 2 == 0;
        let usual = Usual::learn(&every_hour, half, Zone::UTC, Arc::default()).expect("enough");
        assert!((usual.per_day - 240.0).abs() < 1.0, "{}", usual.per_day);
        // A night in which no host ran is no silence.
        let ran: HashSet<Hour> = (BEGINS..BEGINS + 28 * DAY - 12).collect();
        let usual = Usual {
            ran: Arc::new(ran),
            ..learn(&every_hour).expect("enough")
        };
        let since = at(((BEGINS + 28 * DAY - 12) * 3_600) as f64);
        let now = at(((BEGINS + 28 * DAY) * 3_600) as f64 + 60.0);
        assert!(!usual.is_silent(since, now));
        assert!(usual.is_silent(since - TimeDelta::hours(12), now));
    }
}

//! Computes the next tick from a scheduler's `repeat` options, as BullMQ's clients write them.
//! Pure.
//!
//! The options are in the job of each tick, and in the scheduler's hash, where all values are
//! texts. They are read as BullMQ's worker on Node reads them, except that it makes one tick of an
//! interval after `endDate` and Patchbay makes none.

use chrono::{DateTime, NaiveDate};
use patchbay_model::schedule::{Zone, next_tick, next_tick_as_node};
use serde_json::{Map, Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Unix milliseconds.
    At(u64),
    /// One interval later; BullMQ's script computes the time.
    AfterInterval,
    /// Never: the last tick was the final one.
    Over,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Repeat {
    rhythm: Rhythm,
    count: u64,
    limit: Option<f64>,
    starts_at: Option<f64>,
    ends_at: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Rhythm {
    Every {
        ms: f64,
        offset: f64,
    },
    Cron {
        pattern: String,
        zone: Option<String>,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The previous tick, Unix milliseconds; 0 for none.
    pub(crate) last: u64,
    pub(crate) now: u64,
    /// For a cron expression that names none.
    pub(crate) default_zone: Zone,
    /// Whether Patchbay made the scheduler. Then croner's rules apply.
    pub(crate) is_ours: bool,
}

impl Repeat {
    /// Fails with what is wrong.
    pub(crate) fn parse(options: &Map<String, Value>) -> Result<Self, String> {
        let text = |name: &str| {
            options
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let every = number(options, "every")?.filter(|every| *every != 0.0);
        let rhythm = match (text("pattern"), every) {
            (Some(_), Some(_)) => {
                return Err("it has both a cron expression and an interval".into());
            }
            (None, None) => return Err("it has neither a cron expression nor an interval".into()),
            (Some(pattern), None) => Rhythm::Cron {
                pattern: pattern.to_owned(),
                zone: text("tz").map(str::to_owned),
            },
            (None, Some(ms)) if ms > 0.0 => Rhythm::Every {
                ms,
                offset: number(options, "offset").ok().flatten().unwrap_or(0.0),
            },
            (None, Some(ms)) => {
                return Err(format!(
                    "its interval is {ms} ms, and must be more than 0 ms"
                ));
            }
        };
        Ok(Self {
            rhythm,
            count: number(options, "count")?.map_or(0, |count| count as u64),
            // A limit that is no number is no limit.
            limit: number(options, "limit").ok().flatten(),
            starts_at: date(options, "startDate")?,
            ends_at: date(options, "endDate")?,
        })
    }

    /// The tick after the last one. Fails with what is wrong.
    pub(crate) fn next(&self, moment: Moment) -> Result<Next, String> {
        let (now, count) = (moment.now as f64, (self.count + 1) as f64);
        let ends_at = self.ends_at.unwrap_or(f64::INFINITY);
        if self.limit.is_some_and(|limit| count > limit) || now > ends_at {
            return Ok(Next::Over);
        }
        match &self.rhythm {
            Rhythm::Every { ms, offset } => {
                let is_over = after_interval(moment, *ms, *offset) > ends_at;
                Ok(if is_over {
                    Next::Over
                } else {
                    Next::AfterInterval
                })
            }
            Rhythm::Cron { pattern, zone } => {
                let start = self.starts_at.map_or(0, |start| start as u64);
                let after = moment.last.max(moment.now).max(start);
                let zone = Zone::named(zone.as_deref(), moment.default_zone)
                    .map_err(|error| error.to_string())?;
                let tick = match moment.is_ours {
                    true => next_tick(pattern, Some(&zone.to_string()), after),
                    false => next_tick_as_node(pattern, zone, after),
                };
                let tick = tick
                    .map_err(|error| error.to_string())?
                    .filter(|tick| *tick as f64 <= ends_at);
                Ok(tick.map_or(Next::Over, Next::At))
            }
        }
    }
}

/// Options that belong to one tick and not to the next.
const OF_ONE_TICK: [&str; 4] = ["delay", "jobId", "timestamp", "prevMillis"];

/// When the next tick is due (0: the script computes it from the interval) and the options of its
/// job. `None` if the last tick was the final one. Fails with what is wrong.
///
/// Uses the last job's own options, as BullMQ does. If they make no sense, uses those of the
/// scheduler, which somebody may have repaired.
pub(crate) fn next_opts(
    mut opts: Map<String, Value>,
    in_scheduler: &Map<String, Value>,
    moment: Moment,
) -> Result<Option<(u64, Value)>, String> {
    for name in OF_ONE_TICK {
        opts.remove(name);
    }
    let mut repeat = opts
        .get("repeat")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let compute = |repeat: &Map<String, Value>| {
        let mut repeat = repeat.clone();
        // The script looks there for it first.
        repeat.extend(
            in_scheduler
                .get("offset")
                .map(|offset| ("offset".to_owned(), offset.clone())),
        );
        Repeat::parse(&repeat)?.next(moment)
    };
    let next = compute(&repeat).or_else(|reason| {
        repeat = in_scheduler.clone();
        compute(&repeat).map_err(|_| reason)
    })?;
    let tick = match next {
        Next::Over => return Ok(None),
        Next::AfterInterval => 0,
        Next::At(tick) => tick,
    };
    let count = number(&repeat, "count")
        .ok()
        .flatten()
        .map_or(0, |count| count as u64)
        + 1;
    repeat.insert("count".into(), count.into());
    opts.insert("repeat".into(), Value::Object(repeat));
    if tick > 0 {
        opts.insert("prevMillis".into(), tick.into());
    }
    Ok(Some((tick, Value::Object(opts))))
}

/// The same formula as in the script that makes the tick.
fn after_interval(moment: Moment, every: f64, offset: f64) -> f64 {
    let (last, now) = (moment.last as f64, moment.now as f64);
    if last + every >= now {
        return last + every;
    }
    let aligned = (now / every).floor() * every + offset;
    if aligned <= now {
        aligned + every
    } else {
        aligned
    }
}

/// A number, or a number as text, as in hashes.
fn number(options: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    let value = match options.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_f64(),
    };
    value
        .filter(|number: &f64| number.is_finite())
        .map(Some)
        .ok_or_else(|| format!("its {name} is not a number"))
}

/// Unix milliseconds, or a date as text.
fn date(options: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    if let Some(text) = options.get(name).and_then(Value::as_str) {
        let day = text
            .parse::<NaiveDate>()
            .ok()
            .map(|day| day.and_time(chrono::NaiveTime::MIN).and_utc());
        if let Some(time) = DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| time.to_utc())
            .or(day)
        {
            return Ok(Some(time.timestamp_millis() as f64));
        }
    }
    number(options, name).map_err(|_| format!("its {name} is not a date"))
}

/// Turns a scheduler's hash into `repeat` options. The hash stores the count under another name.
pub(crate) fn of_hash<'a>(
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Map<String, Value> {
    const NUMBERS: [&str; 6] = ["every", "limit", "startDate", "endDate", "offset", "ic"];
    let mut options = Map::new();
    for (name, text) in fields {
        let number = text
            .parse::<f64>()
            .ok()
            .filter(|number| NUMBERS.contains(&name) && number.is_finite());
        let whole = number
            .filter(|number| number.fract() == 0.0 && number.abs() < 9e15)
            .map(|number| json!(number as i64));
        let value = whole
            .or(number.map(|number| json!(number)))
            .unwrap_or_else(|| json!(text));
        match name {
            "ic" => drop(options.insert("count".into(), value)),
            "pattern" | "tz" => drop(options.insert(name.into(), value)),
            _ if NUMBERS.contains(&name) => drop(options.insert(name.into(), value)),
            _ => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_390_000_000;

    fn next_of(options: Value, last: u64) -> Result<Next, String> {
        let Value::Object(options) = options else {
            unreachable!("an object was given")
        };
        let moment = Moment {
            last,
            now: NOW,
            default_zone: "Asia/Kolkata".parse().expect("a zone"),
            is_ours: false,
        };
        Repeat::parse(&options)?.next(moment)
    }

    #[test]
    fn a_schedule_ends_at_its_limit_and_has_no_tick_after_its_end() {
        let of = |options| next_of(options, NOW);
        assert_eq!(
            of(json!({ "every": 5, "count": 1, "limit": 2 })),
            Ok(Next::AfterInterval)
        );
        assert_eq!(
            of(json!({ "every": 5, "count": 2, "limit": 2 })),
            Ok(Next::Over)
        );
        assert_eq!(of(json!({ "every": 5, "limit": 0 })), Ok(Next::Over));
        assert_eq!(
            of(json!({ "every": 5, "limit": "x" })),
            Ok(Next::AfterInterval)
        );
        assert_eq!(
            of(json!({ "every": 5, "endDate": NOW - 1 })),
            Ok(Next::Over)
        );
        assert_eq!(
            of(json!({ "every": 1_000, "endDate": NOW + 999 })),
            Ok(Next::Over)
        );
        assert_eq!(
            of(json!({ "every": 1_000, "endDate": NOW + 1_000 })),
            Ok(Next::AfterInterval)
        );
        assert_eq!(
            of(json!({ "pattern": "* * * * *", "endDate": NOW + 59_999 })),
            Ok(Next::Over)
        );
        assert_eq!(
            of(json!({ "pattern": "* * * * *", "endDate": NOW + 60_000 })),
            Ok(Next::At(NOW + 60_000))
        );
        assert_eq!(
            of(json!({ "pattern": "* * * * *", "endDate": 8.64e15 })),
            Ok(Next::At(NOW + 60_000))
        );
        assert_eq!(
            of(json!({ "pattern": "* * * * *", "endDate": "2025-01-01" })),
            Ok(Next::Over)
        );
        assert_eq!(of(json!({ "pattern": "0 0 31 2 *" })), Ok(Next::Over));
    }

    #[test]
    fn a_late_interval_is_aligned_before_its_end_is_looked_at() {
        let late = |end: u64| {
            next_of(
                json!({ "every": 60_000, "offset": 7_000, "endDate": end }),
                NOW - 600_000,
            )
        };
        assert_eq!(late(NOW + 7_000), Ok(Next::AfterInterval));
        assert_eq!(late(NOW + 6_999), Ok(Next::Over));
    }

    #[test]
    fn a_cron_expression_without_a_zone_has_the_default_one_and_starts_after_its_start() {
        let of = |options| next_of(options, 0);
        // 04:20 UTC is 09:50 in Kolkata.
        assert_eq!(
            of(json!({ "pattern": "50 9 * * *" })),
            Ok(Next::At(NOW + 86_400_000))
        );
        assert_eq!(
            of(json!({ "pattern": "50 9 * * *", "tz": "utc" })),
            Ok(Next::At(NOW + 19_800_000))
        );
        let start = NOW + 3_600_000;
        assert_eq!(
            of(json!({ "pattern": "0 * * * * *", "startDate": start })),
            Ok(Next::At(start + 60_000))
        );
        assert_eq!(
            next_of(json!({ "pattern": "0 * * * * *" }), start),
            Ok(Next::At(start + 60_000))
        );
    }

    #[test]
    fn what_cannot_be_computed_says_why() {
        for (options, says) in [
            (json!({}), "neither a cron expression nor an interval"),
            (json!({ "every": 0 }), "neither"),
            (json!({ "every": "often" }), "its every is not a number"),
            (json!({ "every": -5 }), "its interval is -5 ms"),
            (json!({ "every": 5, "pattern": "* * * * *" }), "both"),
            (
                json!({ "pattern": "RRULE:FREQ=DAILY" }),
                "cannot read the cron expression",
            ),
            (
                json!({ "pattern": "* * * * *", "tz": "Asia/Calcuta" }),
                "no time zone",
            ),
            (
                json!({ "pattern": "* * * * *", "endDate": "soon" }),
                "its endDate is not a date",
            ),
        ] {
            let answer = next_of(options.clone(), 0).expect_err("it is refused");
            assert!(answer.contains(says), "{options}: {answer}");
        }
    }

    #[test]
    fn the_next_tick_keeps_the_jobs_options_and_counts() {
        let next = |opts: Value, in_scheduler: Value| {
            let (Value::Object(opts), Value::Object(in_scheduler)) = (opts, in_scheduler) else {
                unreachable!("objects")
            };
            let moment = Moment {
                last: 960_000,
                now: 1_000_000,
                default_zone: Zone::UTC,
                is_ours: false,
            };
            next_opts(opts, &in_scheduler, moment)
        };
        let (tick, opts) = next(
            json!({
                "repeat": { "pattern": "* * * * *", "count": 3 }, "attempts": 2, "delay": 5, "jobId": "repeat:a:1", "prevMillis": 960_000
            }),
            json!({}),
        )
        .expect("it is computed")
        .expect("there is a next one");
        assert_eq!(tick, 1_020_000);
        assert_eq!(
            opts,
            json!({ "repeat": { "pattern": "* * * * *", "count": 4 }, "attempts": 2, "prevMillis": 1_020_000 })
        );
        let broken = json!({ "repeat": { "pattern": "every day" }, "attempts": 2 });
        assert!(next(broken.clone(), json!({ "pattern": "every day" })).is_err());
        let mended =
            next(broken, json!({ "pattern": "* * * * *", "count": 7 })).expect("it is computed");
        assert_eq!(
            mended,
            Some((
                1_020_000,
                json!({ "repeat": { "pattern": "* * * * *", "count": 8 }, "attempts": 2, "prevMillis": 1_020_000 })
            ))
        );
    }

    #[test]
    fn a_hash_is_read_as_options_of_a_job_are() {
        let options = of_hash([
            ("name", "n"),
            ("pattern", "5"),
            ("ic", "3"),
            ("endDate", "1764390000000"),
            ("limit", "x"),
        ]);
        assert_eq!(
            Value::Object(options),
            json!({ "pattern": "5", "count": 3, "endDate": NOW, "limit": "x" })
        );
    }
}

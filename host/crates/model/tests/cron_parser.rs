//! Random cron expressions have the same ticks here as in npm's cron-parser, which BullMQ uses.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use patchbay_model::schedule::{Zone, next_tick_as_node};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::Value;

const CASES: usize = 2_500;
const HOUR_MS: i64 = 3_600_000;
/// Zones with shifts of an hour, half an hour, two hours, at midnight, in both hemispheres; without
/// shifts; offsets; unusual letter case.
const ZONES: [&str; 24] = [
    "Europe/Berlin",
    "America/New_York",
    "europe/london",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "AUSTRALIA/SYDNEY",
    "Pacific/Chatham",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Havana",
    "Antarctica/Troll",
    "America/Nuuk",
    "Asia/Kolkata",
    "asia/kathmandu",
    "America/Sao_Paulo",
    "Asia/Tokyo",
    "UTC",
    "gmt",
    "EST",
    "US/Pacific",
    "Etc/GMT-5",
    "UTC+5",
    "utc-3:30",
];
/// Patterns that a random draw might miss.
const PATTERNS: &str = "0/3 * * * * *|30 2 * * *|*/10 2 * * *|0 0 * * *|0 1-3 * * *|*/15 * * * *|0 0 L * *|0 0 * * 5L|0 0 * * 1L,3|\
    0 12 * * 5#3|0 0 29 2 *|0 0 13 * 5|0 0 */2 * 1|0 0 ? * MON-fri|@daily|@weekly|@weekdays|@hourly|5|1 5|* 6 0|9 * * *|\
    0 0 * jan-mar sun|0 0 1 * 0-7|59 59 23 31 12 *|0 0,30 1,2,3 * * *|0 0 15,L * *|0 30 23 * * 7";

#[derive(Debug, Serialize)]
struct Case {
    pattern: String,
    tz: String,
    from: i64,
}

#[test]
fn ticks_are_those_of_cron_parser() {
    let given = std::env::var("PATCHBAY_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("PATCHBAY_TEST_SEED={seed}");
    let mut lot = StdRng::seed_from_u64(seed);
    let mut cases: Vec<Case> = (0..CASES).map(|_| case(&mut lot)).collect();
    // A pattern that never matches costs Node thousands of steps, so it is here only once.
    cases.push(Case {
        pattern: "0 0 31 2 *".into(),
        tz: "UTC".into(),
        from: 0,
    });
    let answers = ask_node(&cases);
    assert_eq!(answers.len(), cases.len());
    let mut compared = 0;
    let mut differences = Vec::new();
    for (case, theirs) in cases.iter().zip(answers) {
        // We may read what it refuses.
        let Value::Array(theirs) = theirs else {
            continue;
        };
        let theirs: Vec<i64> = theirs.iter().filter_map(Value::as_i64).collect();
        compared += 1;
        match ours(case, theirs.len().max(1)) {
            Ok(ours) if ours == theirs => {}
            ours => {
                let ours = ours.map_or_else(|why| why, |ours| shown(&ours));
                differences.push(format!(
                    "{case:?}\n  theirs {}\n  ours   {ours}",
                    shown(&theirs)
                ));
            }
        }
    }
    println!("{compared} of {} compared", cases.len());
    assert!(
        compared > CASES / 2,
        "the lot draws too much that nobody takes: {compared}"
    );
    let some = differences[..differences.len().min(12)].join("\n");
    assert!(
        differences.is_empty(),
        "{} of {compared} differ, for example:\n{some}",
        differences.len()
    );
}

fn shown(ticks: &[i64]) -> String {
    let time = |ms: &i64| {
        DateTime::from_timestamp_millis(*ms).map_or_else(String::new, |at| at.to_rfc3339())
    };
    ticks.iter().map(time).collect::<Vec<_>>().join(" ")
}

fn ours(case: &Case, most: usize) -> Result<Vec<i64>, String> {
    let zone: Zone = case.tz.parse().map_err(|error| format!("{error}"))?;
    let (mut at, mut found) = (case.from as u64, Vec::new());
    while found.len() < most {
        let next = next_tick_as_node(&case.pattern, zone, at).map_err(|error| error.to_string())?;
        let Some(next) = next else { break };
        at = next;
        found.push(at as i64);
    }
    Ok(found)
}

fn ask_node(cases: &[Case]) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/interop");
    let mut node = Command::new("node")
        .arg("cron.mjs")
        .current_dir(folder)
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs: `scripts/setup test` installs it");
    let mut stdin = node.stdin.take().expect("it is piped");
    stdin
        .write_all(&serde_json::to_vec(cases).expect("JSON"))
        .expect("node reads");
    drop(stdin);
    let output = node.wait_with_output().expect("node ends");
    assert!(
        output.status.success(),
        "cron.mjs failed: run `scripts/setup test`"
    );
    serde_json::from_slice(&output.stdout).expect("cron.mjs prints JSON")
}

fn pick<'a>(lot: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(lot).copied().unwrap_or_default()
}

fn case(lot: &mut StdRng) -> Case {
    let tz = pick(lot, &ZONES).to_owned();
    let patterns: Vec<&str> = PATTERNS.split('|').collect();
    let pattern = if lot.random_bool(0.25) {
        pick(lot, &patterns).to_owned()
    } else {
        pattern(lot)
    };
    // 2024 to 2029.
    let mut from = lot.random_range(1_704_067_200_000_i64..1_893_456_000_000);
    if lot.random_bool(0.6) {
        from = near_a_shift(&tz, from) + lot.random_range(-30 * HOUR_MS..6 * HOUR_MS);
    }
    if lot.random_bool(0.5) {
        from = from / 60_000 * 60_000;
    }
    Case { pattern, tz, from }
}

/// The next change of the zone's offset, or the same time if there is none.
fn near_a_shift(tz: &str, from: i64) -> i64 {
    let Ok(Zone::Iana(zone)) = tz.parse::<Zone>() else {
        return from;
    };
    let offset = |zone: Tz, ms: i64| {
        let at = DateTime::from_timestamp_millis(ms)
            .expect("a time")
            .naive_utc();
        zone.offset_from_utc_datetime(&at).fix().local_minus_utc()
    };
    let start = from / HOUR_MS * HOUR_MS;
    let mut days = (0..400).map(|day| start + day * 24 * HOUR_MS);
    let Some(day) = days.find(|ms| offset(zone, *ms) != offset(zone, *ms + 24 * HOUR_MS)) else {
        return from;
    };
    let mut hours = (0..24).map(|hour| day + hour * HOUR_MS);
    hours
        .find(|ms| offset(zone, *ms) != offset(zone, *ms + HOUR_MS))
        .map_or(from, |ms| ms + HOUR_MS)
}

fn pattern(lot: &mut StdRng) -> String {
    let fields = *[1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 6]
        .choose(lot)
        .expect("counts");
    let days = match lot.random_bool(0.1) {
        true => pick(lot, &["L", "?", "15,L", "L,1"]).to_owned(),
        false => field(lot, 1, 31, 0.6),
    };
    let months = match lot.random_bool(0.15) {
        true => pick(
            lot,
            &["JAN", "mar,Oct", "feb-jun", "mar-nov/2", "oct-DEC", "11/1"],
        )
        .to_owned(),
        false => field(lot, 1, 12, 0.7),
    };
    let odd_weekdays = "sun MON-Fri 7 5L 2#1 fri#5 0L 6L,1 5-7 1/2 ? sat,SUN 0#2 7#1 */3 7L";
    let weekdays = match lot.random_bool(0.25) {
        true => pick(lot, &odd_weekdays.split(' ').collect::<Vec<_>>()).to_owned(),
        false => field(lot, 0, 7, 0.6),
    };
    let all = [
        field(lot, 0, 59, 0.5),
        field(lot, 0, 59, 0.3),
        field(lot, 0, 23, 0.3),
        days,
        months,
        weekdays,
    ];
    all[6 - fields..].join(pick(lot, &[" ", " ", " ", "  "]))
}

fn field(lot: &mut StdRng, least: u32, most: u32, any: f64) -> String {
    if lot.random_bool(any) {
        return "*".into();
    }
    let start = lot.random_range(least..=most);
    let end = lot.random_range(start..=most);
    let step = lot.random_range(1..=most);
    match lot.random_range(0..9) {
        0..=2 => start.to_string(),
        3 => format!("{start:02}"),
        4 => format!("{end},{start}"),
        5 => format!("{start}-{end}"),
        6 => format!("*/{step}"),
        7 => format!("{start}/{step}"),
        _ => format!("{start}-{end}/{step},{least}"),
    }
}

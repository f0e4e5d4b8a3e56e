//! Thresholds as people write them: `5m`, `90%`, or a number in the unit of the rule.

use patchbay_api::alerts::Threshold;

/// Units of time, in seconds. `ms` comes first, because it ends with another one.
const TIMES: [(&str, f64); 5] = [
    ("ms", 0.001),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3_600.0),
    ("d", 86_400.0),
];

/// The number in the unit of a rule. Fails with what may be written.
pub(super) fn read(wanted: &Threshold, unit: &str) -> Result<f64, String> {
    let text = match wanted {
        Threshold::Number(number) => return Ok(*number),
        Threshold::Text(text) => text.trim(),
    };
    let number = |text: &str| text.trim_end().parse::<f64>().ok();
    let read = match unit {
        "%" => number(text.strip_suffix('%').unwrap_or(text)),
        "s" => time(text, 1.0),
        "d" => time(text, 86_400.0),
        _ => number(text.strip_suffix(unit).unwrap_or(text)),
    };
    read.ok_or_else(|| {
        let form = match unit {
            "%" => "this rule has a percentage. Write it as 90% or 90".to_owned(),
            "s" => {
                "this rule has a time. Write a number of seconds, or one with a unit: 90s, 5m or 2h"
                    .to_owned()
            }
            "d" => "this rule has a time. Write a number of days, or one with a unit: 36h or 180d"
                .to_owned(),
            unit => format!("this rule has a number of {unit}. Write it without a unit, such as 5"),
        };
        format!("threshold: {form}")
    })
}

/// Of a text with or without a unit, in `unit` seconds.
fn time(text: &str, unit: f64) -> Option<f64> {
    let with_unit = TIMES
        .iter()
        .find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)));
    let (number, seconds) = with_unit.unwrap_or((text, unit));
    Some(number.trim_end().parse::<f64>().ok()? * seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_read_in_the_unit_of_its_rule() {
        let read = |text: &str, unit| read(&Threshold::Text(text.into()), unit);
        for (text, unit, number) in [
            ("5m", "s", 300.0),
            ("1.5 h", "s", 5_400.0),
            ("90", "s", 90.0),
            ("500ms", "s", 0.5),
            ("90%", "%", 90.0),
            ("90 %", "%", 90.0),
            ("0.5", "%", 0.5),
            ("36h", "d", 1.5),
            ("180d", "d", 180.0),
            ("21", "d", 21.0),
            ("5 jobs", "jobs", 5.0),
        ] {
            assert_eq!(read(text, unit), Ok(number), "{text} in {unit}");
        }
        for (text, unit, part) in [
            ("90%", "s", "a number of seconds"),
            ("5m", "%", "90% or 90"),
            ("5m", "jobs", "a number of jobs"),
            ("soon", "d", "a number of days"),
            ("", "s", "a number of seconds"),
        ] {
            let refused = read(text, unit).expect_err("refused");
            assert!(
                refused.starts_with("threshold: ") && refused.contains(part),
                "{refused}"
            );
        }
    }
}

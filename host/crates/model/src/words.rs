//! Numbers in messages: a count with its noun, a length of time with its unit.

use std::time::Duration;

/// `1 job`, `2 jobs`. The plural of `noun` must be formed with an `s`.
pub fn counted<N>(count: N, noun: &str) -> String
where
    N: std::fmt::Display + PartialEq + From<u8>,
{
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// As precise as a reader needs: `450 ms`, `12 s`, `5 min`, `2 h 5 min`, `3 d 4 h`. Rounded down.
pub fn lasted(length: Duration) -> String {
    let two = |whole: u64, unit: &str, part: u64, part_unit: &str| match part {
        0 => format!("{whole} {unit}"),
        part => format!("{whole} {unit} {part} {part_unit}"),
    };
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => two(s / 3_600, "h", s % 3_600 / 60, "min"),
        s => two(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_its_noun_in_the_right_number() {
        assert_eq!(
            [0_u64, 1, 2].map(|count| counted(count, "job")),
            ["0 jobs", "1 job", "2 jobs"]
        );
    }

    #[test]
    fn a_length_has_a_unit_and_no_more_digits_than_a_reader_needs() {
        let shown = [0, 450, 12_900, 119_000, 300_000, 7_200_000, 7_530_000]
            .map(|ms| lasted(Duration::from_millis(ms)));
        assert_eq!(
            shown,
            [
                "0 ms",
                "450 ms",
                "12 s",
                "119 s",
                "5 min",
                "2 h",
                "2 h 5 min"
            ]
        );
        assert_eq!(lasted(Duration::from_secs(273_600)), "3 d 4 h");
    }
}

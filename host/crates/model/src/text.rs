//! Texts for people that several layers share: counts with their noun, and lengths of time.

use std::time::Duration;

/// A count with its noun: `1 job`, `2 jobs`. The plural of the noun must end with a plain `s`.
pub fn counted<N>(count: N, noun: &str) -> String
where
    N: std::fmt::Display + PartialEq + From<u8>,
{
    let s = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// A length of time, rounded down to the precision that a person needs: `850 ms`, `12 s`,
/// `5 min`, `3 h`, `2 d`.
pub fn length(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_its_noun_in_the_right_number() {
        assert_eq!(counted(1_u64, "job"), "1 job");
        assert_eq!(counted(0_u64, "job"), "0 jobs");
        assert_eq!(counted(2_i64, "attempt"), "2 attempts");
    }

    #[test]
    fn a_length_has_a_unit() {
        let of = |ms| length(Duration::from_millis(ms));
        assert_eq!(
            [0, 850, 5_000, 130_000, 7_300_000, 200_000_000].map(of),
            ["0 ms", "850 ms", "5 s", "2 min", "2 h", "2 d"]
        );
    }
}

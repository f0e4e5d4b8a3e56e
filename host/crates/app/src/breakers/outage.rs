//! What a breaker that is not closed means, in words. Pure.

use std::time::Duration;

use patchbay_model::words::{counted, lasted};

/// An outside host that its plugin does not reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outage<'a> {
    pub plugin: &'a str,
    /// `scheme://host:port`.
    pub host: &'a str,
    /// Time since the breaker opened.
    pub open_for: Option<Duration>,
    pub last_failure: Option<&'a str>,
    /// Jobs of the plugin that wait, and those that are delayed.
    pub jobs: Option<(u64, u64)>,
    pub next_try: NextTry,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextTry {
    #[default]
    Unknown,
    /// One call tries now, or the next one does.
    Now,
    In(Duration),
}

impl NextTry {
    /// `half_open`: the breaker lets one call through.
    pub fn of(wait_ms: Option<u64>, half_open: bool) -> Self {
        match wait_ms {
            Some(ms) => Self::In(Duration::from_millis(ms)),
            None if half_open => Self::Now,
            None => Self::Unknown,
        }
    }
}

impl Outage<'_> {
    /// `email cannot reach smtp://mail:587 for 5 min (connection refused); 61 jobs wait. Next try in
    /// 12 s`
    pub fn text(&self) -> String {
        let next = match self.next_try {
            NextTry::Unknown => String::new(),
            NextTry::Now => ". The next call tests whether it works again".to_owned(),
            NextTry::In(wait) => format!(". Next try in {} s", wait.as_millis().div_ceil(1_000)),
        };
        format!("{}{}{next}", self.trouble(PRESENT), self.waiting(PRESENT))
    }

    /// As [`Self::text`], when it is over.
    pub fn past(&self) -> String {
        format!("{}{}", self.trouble(PAST), self.waiting(PAST))
    }

    fn trouble(&self, tense: Tense) -> String {
        let failure = self.last_failure.map(in_words);
        let verb = match &failure {
            Some(failure) if failure.contains("answered") => tense.gets_errors_from,
            _ => tense.cannot_reach,
        };
        let length = self
            .open_for
            .map(|length| format!(" for {}", lasted(length)))
            .unwrap_or_default();
        let failure = failure
            .map(|failure| format!(" ({failure})"))
            .unwrap_or_default();
        format!("{} {verb} {}{length}{failure}", self.plugin, self.host)
    }

    fn waiting(&self, tense: Tense) -> String {
        let Some((waiting, delayed)) = self.jobs else {
            return String::new();
        };
        let verb = |count, [one, many]: [&'static str; 2]| if count == 1 { one } else { many };
        let waits = format!(
            "; {} {}",
            counted(waiting, "job"),
            verb(waiting, tense.waits)
        );
        match delayed {
            0 => waits,
            delayed => format!("{waits}, {delayed} {} delayed", verb(delayed, tense.is)),
        }
    }
}

/// Verbs; those of jobs for one and for many.
#[derive(Clone, Copy)]
struct Tense {
    cannot_reach: &'static str,
    gets_errors_from: &'static str,
    waits: [&'static str; 2],
    is: [&'static str; 2],
}

const PRESENT: Tense = Tense {
    cannot_reach: "cannot reach",
    gets_errors_from: "gets errors from",
    waits: ["waits", "wait"],
    is: ["is", "are"],
};
const PAST: Tense = Tense {
    cannot_reach: "could not reach",
    gets_errors_from: "got errors from",
    waits: ["waited", "waited"],
    is: ["was", "were"],
};

/// A failure as a breaker keeps it, without what only programmers read.
fn in_words(failure: &str) -> String {
    let failure = failure.strip_prefix("connect: ").unwrap_or(failure);
    let end = failure
        .rfind(" (os error ")
        .filter(|_| failure.ends_with(')'))
        .unwrap_or(failure.len());
    let text = &failure[..end];
    match text.strip_prefix("Connection ") {
        Some(rest) => format!("connection {rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTAGE: Outage<'_> = Outage {
        plugin: "email",
        host: "smtp://mail:587",
        open_for: Some(Duration::from_secs(301)),
        last_failure: Some("connect: Connection refused (os error 111)"),
        jobs: Some((61, 0)),
        next_try: NextTry::In(Duration::from_millis(11_001)),
    };

    #[test]
    fn an_outage_is_told_with_its_length_its_cause_its_jobs_and_its_next_try() {
        assert_eq!(
            OUTAGE.text(),
            "email cannot reach smtp://mail:587 for 5 min (connection refused); 61 jobs wait. Next try in 12 s"
        );
        assert_eq!(
            OUTAGE.past(),
            "email could not reach smtp://mail:587 for 5 min (connection refused); 61 jobs waited"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_answers_was_reached() {
        let little = Outage {
            plugin: "email",
            host: "https://api:443",
            ..Outage::default()
        };
        assert_eq!(little.text(), "email cannot reach https://api:443");
        let answered = Outage {
            last_failure: Some("answered with status 503"),
            jobs: Some((1, 2)),
            next_try: NextTry::of(None, true),
            ..OUTAGE
        };
        assert!(
            answered.text().starts_with(
                "email gets errors from smtp://mail:587 for 5 min (answered with status 503); 1 job waits, 2 are delayed. The next call tests"
            ),
            "{}",
            answered.text()
        );
    }
}

//! What somebody types to find jobs: `queue:emailQueue code:smtp-451 since:2h "connection refused"`.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// Names and values of a filter.
pub(crate) type Pairs = Vec<(String, String)>;

/// What was typed, read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Names and values, as the API's filters have them; without `state`.
    pub(crate) filter: Pairs,
    /// Of jobs in Redis; absent: the history is searched.
    pub(crate) state: Option<String>,
    /// Words without a name before them.
    pub(crate) words: Vec<String>,
}

/// Names whose values never name a person, so that they may stand in an address.
const PLAIN: [&str; 14] = [
    "queue",
    "job",
    "name",
    "from",
    "to",
    "outcome",
    "verdict",
    "code",
    "plugin",
    "revision",
    "correlation-id",
    "platform",
    "dead-letter",
    "state",
];

/// Names that take an age, and what they are in a filter.
const AGES: [(&str, &str); 2] = [("since", "from"), ("until", "to")];

pub(crate) fn is_plain(name: &str) -> bool {
    PLAIN.contains(&name)
}

fn is_name(text: &str) -> bool {
    let is_known = is_plain(text) || text == "text" || AGES.iter().any(|(name, _)| *name == text);
    is_known || (text.starts_with("data.") && text.len() > "data.".len())
}

/// Splits at white space, but not between quotes.
fn parts(typed: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let (mut part, mut quoted, mut any) = (String::new(), false, false);
    for c in typed.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            c if c.is_whitespace() && !quoted => {
                if any || !part.is_empty() {
                    parts.push(std::mem::take(&mut part));
                }
                any = false;
            }
            c => part.push(c),
        }
    }
    if any || !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// `90s`, `30m`, `2h`, `7d`.
fn age(text: &str) -> Option<TimeDelta> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok().filter(|number| *number >= 0)?;
    match unit {
        "s" => TimeDelta::try_seconds(number),
        "m" => TimeDelta::try_minutes(number),
        "h" => TimeDelta::try_hours(number),
        "d" => TimeDelta::try_days(number),
        _ => None,
    }
}

impl Wanted {
    pub(crate) fn read(typed: &str, now: DateTime<Utc>) -> Self {
        let mut wanted = Self::default();
        for part in parts(typed) {
            let named = part
                .split_once([':', '='])
                .filter(|(name, _)| is_name(name));
            match named {
                Some((name, value)) => wanted.add(name, value, now),
                None => wanted.words.push(part),
            }
        }
        wanted
    }

    pub(crate) fn add(&mut self, name: &str, value: &str, now: DateTime<Utc>) {
        if name == "state" {
            self.state = Some(value.to_owned());
            return;
        }
        let aged = AGES.iter().find(|(named, _)| *named == name);
        let (name, value) = match aged {
            Some((_, name)) => {
                let at = age(value).and_then(|age| now.checked_sub_signed(age));
                let time = at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
                // What is no age may be a time, and the API says what is wrong with another.
                (*name, time.unwrap_or_else(|| value.to_owned()))
            }
            None => (name, value.to_owned()),
        };
        self.filter.push((name.to_owned(), value));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filter.is_empty() && self.state.is_none() && self.words.is_empty()
    }

    /// Whether all of it may stand in an address.
    pub(crate) fn is_plain(&self) -> bool {
        self.words.is_empty() && self.filter.iter().all(|(name, _)| is_plain(name))
    }

    /// The filter, with the words as a part of the failure's message.
    pub(crate) fn pairs(&self) -> Pairs {
        let mut pairs = self.filter.clone();
        if !self.words.is_empty() {
            pairs.push(("text".to_owned(), self.words.join(" ")));
        }
        pairs
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let found = self.filter.iter().find(|(named, _)| named == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As somebody would type it.
    pub(crate) fn typed(&self) -> String {
        let state = self.state.iter().map(|state| ("state", state.as_str()));
        let named = self
            .filter
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let quoted = |value: &str| match value.is_empty() || value.contains(char::is_whitespace) {
            true => format!("\"{value}\""),
            false => value.to_owned(),
        };
        let named = state
            .chain(named)
            .map(|(name, value)| format!("{name}:{}", quoted(value)));
        let words = self.words.iter().map(|word| quoted(word));
        named.chain(words).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &str) -> Wanted {
        let now = DateTime::from_timestamp(1_767_225_600, 0).expect("a time");
        Wanted::read(typed, now)
    }

    #[test]
    fn names_values_quotes_and_words_are_told_apart() {
        let wanted =
            read(r#"queue:emailQueue state:failed data.to:ann@x.y "connection refused" a:b"#);
        assert_eq!(wanted.state.as_deref(), Some("failed"));
        assert_eq!(wanted.value("queue"), Some("emailQueue"));
        assert_eq!(wanted.value("data.to"), Some("ann@x.y"));
        assert_eq!(wanted.words, ["connection refused", "a:b"]);
        assert!(!wanted.is_plain() && read("queue:a state:failed").is_plain());
        assert!(!read("text:x").is_plain() && read("  ").is_empty());
        assert_eq!(read(r#"name:"""#).value("name"), Some(""));
    }

    #[test]
    fn an_age_is_a_time_and_what_was_typed_can_be_typed_again() {
        let wanted = read("since:2h code=smtp-451 name:\"two words\"");
        assert_eq!(wanted.value("from"), Some("2025-12-31T22:00:00Z"));
        let typed = wanted.typed();
        assert_eq!(
            typed,
            "from:2025-12-31T22:00:00Z code:smtp-451 name:\"two words\""
        );
        assert_eq!(read(&typed), wanted);
        assert_eq!(read("since:yesterday").value("from"), Some("yesterday"));
    }
}

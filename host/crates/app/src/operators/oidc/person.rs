//! Who the provider says somebody is, and what that person is called here.

use serde_json::Value;

/// Most groups that are looked at.
const MOST_GROUPS: usize = 1_000;
const LONGEST_NAME: usize = 50;
/// Names that are tried, as ada, ada-2, ada-3.
const TRIES: usize = 50;

/// A person whose ID token is genuine.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) subject: String,
    /// For people to read. Nothing is decided on it.
    pub(super) email: Option<String>,
    pub(super) username: Option<String>,
    pub(super) groups: Vec<String>,
    /// How the person was recognised (RFC 8176).
    pub(super) methods: Vec<String>,
}

/// The groups in a claim: a list of texts, or one text.
pub(super) fn groups(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(group)) => vec![group.clone()],
        Some(Value::Array(groups)) => groups
            .iter()
            .take(MOST_GROUPS)
            .filter_map(|group| group.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

impl Person {
    /// Names that the person may get here, the best one first. The provider's name, or the address
    /// before the `@`, without what names of operators cannot have.
    pub(super) fn names(&self) -> Vec<String> {
        let told = self.username.iter().chain(&self.email);
        let name = told
            .filter_map(|text| plain(text))
            .next()
            .unwrap_or_else(|| "operator".to_owned());
        let mut names = vec![name.clone()];
        names.extend((2..=TRIES).map(|n| format!("{name}-{n}")));
        names
    }
}

fn plain(told: &str) -> Option<String> {
    let local = told.split('@').next().unwrap_or_default();
    let mut name = String::new();
    for c in local.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' => name.push(c),
            _ if name.is_empty() => {}
            '0'..='9' | '.' | '_' | '-' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() == LONGEST_NAME {
            break;
        }
    }
    let name = name.trim_end_matches(['-', '.', '_']);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(username: Option<&str>, email: Option<&str>) -> String {
        let person = Person {
            subject: "1".to_owned(),
            email: email.map(str::to_owned),
            username: username.map(str::to_owned),
            groups: Vec::new(),
            methods: Vec::new(),
        };
        person.names().swap_remove(0)
    }

    #[test]
    fn a_person_gets_a_name_that_operators_can_have() {
        for (username, email, expected) in [
            (Some("Ada"), None, "ada"),
            (Some("ada.lovelace@example.com"), None, "ada.lovelace"),
            (None, Some("bob+ops@example.com"), "bob-ops"),
            (Some("  "), Some("carol@example.com"), "carol"),
            (Some("007 James Bond"), None, "james-bond"),
            (Some("größe"), None, "gr-e"),
            (None, None, "operator"),
            (Some("\u{4f60}"), Some("\u{4f60}@x"), "operator"),
        ] {
            assert_eq!(name(username, email), expected, "{username:?} {email:?}");
        }
        assert_eq!(name(Some(&"a".repeat(200)), None).len(), LONGEST_NAME);
    }

    #[test]
    fn groups_are_a_list_or_one_text() {
        assert_eq!(groups(Some(&json!(["a", 1, "b", null]))), ["a", "b"]);
        assert_eq!(groups(Some(&json!("a"))), ["a"]);
        assert_eq!(groups(Some(&json!({ "a": true }))), Vec::<String>::new());
        assert_eq!(groups(None), Vec::<String>::new());
    }
}

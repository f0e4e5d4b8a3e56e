//! Suggestions for misspelt names.

use patchbay_model::PluginName;
use patchbay_model::shell::word;
use patchbay_store::Store;

use crate::Error;

/// A name that differs by more letters is no typo.
const MAX_TYPOS: usize = 3;

/// Numbers that are suggested at once.
const MAX_NUMBERS: usize = 3;

/// ` Did you mean emailQueue?`, with a space in front, or nothing.
pub(crate) fn meant<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let name = nearest(wanted, known).map(|name| format!(" Did you mean {}?", word(name)));
    name.unwrap_or_default()
}

/// A message such as `There is no schedule nightli. See: …`, with the name that may be meant in front
/// of `See`.
pub(crate) fn suggesting<'a>(
    message: String,
    wanted: &str,
    known: impl Iterator<Item = &'a str>,
) -> String {
    with_suggestion(message, &meant(wanted, known))
}

/// As [`suggesting`], for an error.
pub(crate) fn suggested<'a>(
    error: Error,
    wanted: &str,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    Error {
        message: suggesting(error.message, wanted, known),
        ..error
    }
}

/// As [`suggesting`], for a number: one that begins with the same digits is meant before one that
/// differs in few.
pub(crate) fn suggesting_number(message: String, wanted: i64, known: &[i64]) -> String {
    let (wanted, known) = (wanted.to_string(), known.iter().map(i64::to_string));
    let known: Vec<String> = known.collect();
    let begins = |one: &&String| one.starts_with(&wanted) || wanted.starts_with(one.as_str());
    let alike: Vec<&str> = known
        .iter()
        .filter(begins)
        .take(MAX_NUMBERS)
        .map(String::as_str)
        .collect();
    match alike.is_empty() {
        true => suggesting(message, &wanted, known.iter().map(String::as_str)),
        false => with_suggestion(message, &format!(" Did you mean {}?", alike.join(" or "))),
    }
}

fn with_suggestion(message: String, suggestion: &str) -> String {
    match message.split_once(" See: ") {
        Some((what, see)) => format!("{what}{suggestion} See: {see}"),
        None => message,
    }
}

/// That there is no such plugin, with the one that may be meant.
pub(crate) async fn unknown_plugin(store: &Store, plugin: &PluginName) -> String {
    // The suggestion may fail; the answer is the same.
    let names = store.plugin_names().await.unwrap_or_default();
    // One whose revisions were all deleted has kept its name.
    let others = names.iter().map(String::as_str);
    let others = others.filter(|name| *name != plugin.as_str());
    format!(
        "No plugin is called {plugin}.{} To list plugins: patchbay plugin list",
        meant(plugin.as_str(), others)
    )
}

/// The known name that differs least from `wanted`, if it may be a typo of it.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    let typos = |known: &'a str| {
        let exact = strsim::damerau_levenshtein(known, wanted);
        // In another case it is the same word.
        let alike = strsim::damerau_levenshtein(&known.to_lowercase(), &lower);
        (exact.min(alike), known)
    };
    known
        .map(typos)
        .min_by_key(|(typos, _)| *typos)
        // A name of three letters is another word after three typos.
        .filter(|(typos, known)| *typos <= MAX_TYPOS && *typos < known.chars().count())
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_meant_stands_before_the_command_that_lists_all() {
        let message = || "There is no schedule x. See: patchbay schedule list".to_owned();
        let told =
            |wanted: &str| suggesting(message(), wanted, ["nightly", "my report"].into_iter());
        assert_eq!(
            told("nightli"),
            "There is no schedule x. Did you mean nightly? See: patchbay schedule list"
        );
        assert!(told("my reprot").contains("Did you mean 'my report'?"));
        assert_eq!(told("other"), message());
        let without = "Schedule x was removed".to_owned();
        assert_eq!(suggesting(without.clone(), "x", ["y"].into_iter()), without);
    }

    #[test]
    fn of_numbers_those_that_begin_alike_are_meant() {
        let told =
            |wanted, known: &[i64]| suggesting_number("No 1. See: all".into(), wanted, known);
        assert_eq!(
            told(12, &[120, 7, 123]),
            "No 1. Did you mean 120 or 123? See: all"
        );
        assert_eq!(told(1203, &[120]), "No 1. Did you mean 120? See: all");
        assert_eq!(told(131, &[121, 7]), "No 1. Did you mean 121? See: all");
        assert_eq!(told(12, &[]), "No 1. See: all");
    }
}

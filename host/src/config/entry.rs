//! A key as operators see it.

/// The source of a value that nobody set.
pub(super) const DEFAULT: &str = "default";

/// A key as it stands, for `patchbay config`.
#[derive(Debug, serde::Serialize)]
pub struct ConfigEntry {
    /// Section and name.
    pub key: &'static str,
    /// As it is given, or `(set)` for secrets.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// The variable that sets it.
    pub variable: String,
    /// What it means.
    pub about: &'static str,
    /// Others that do.
    #[serde(skip)]
    pub(super) other_variables: Vec<&'static str>,
    /// Otherwise the setting has its default.
    #[serde(skip)]
    pub(super) is_readable: bool,
}

impl ConfigEntry {
    pub(super) fn is_set(&self) -> bool {
        self.source.as_deref().is_some_and(|source| source != DEFAULT)
    }
}

/// The nearest known key, when a typo is likely.
pub(super) fn suggestion(key: &str, entries: &[&ConfigEntry]) -> String {
    let known = entries.iter().map(|entry| (strsim::damerau_levenshtein(entry.key, key), entry.key));
    let nearest = known.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= 3);
    nearest.map_or_else(String::new, |(_, key)| format!("; did you mean {key}?"))
}

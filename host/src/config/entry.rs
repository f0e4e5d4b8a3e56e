//! A configuration key as operators see it.

/// The source of a value that nobody set.
pub(super) const DEFAULT: &str = "default";

/// A key with its present value, for `patchbay config`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ConfigEntry {
    /// Section and name.
    pub key: &'static str,
    /// As it was given, or `(set)` for secrets.
    pub value: Option<String>,
    pub source: Option<String>,
    /// The environment variable that sets it.
    pub variable: String,
    /// The key's meaning.
    pub about: &'static str,
    /// Other variables that set it.
    #[serde(skip)]
    pub(super) other_variables: Vec<&'static str>,
    /// False: the setting has its default instead.
    #[serde(skip)]
    pub(super) is_readable: bool,
}

impl ConfigEntry {
    pub(super) fn is_set(&self) -> bool {
        self.source
            .as_deref()
            .is_some_and(|source| source != DEFAULT)
    }
}

/// The most similar known key, when a typo is likely.
pub(super) fn suggestion(key: &str, entries: &[&ConfigEntry]) -> String {
    let known = entries
        .iter()
        .map(|entry| (strsim::damerau_levenshtein(entry.key, key), entry.key));
    let nearest = known
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3);
    nearest.map_or_else(String::new, |(_, key)| format!("; did you mean {key}?"))
}

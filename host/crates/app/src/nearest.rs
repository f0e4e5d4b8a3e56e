//! Suggestions for misspelt names.

use patchbay_model::PluginName;
use patchbay_model::shell::word;
use patchbay_store::Store;

/// A name that differs by more letters is no typo.
const MAX_TYPOS: usize = 3;

/// ` Did you mean emailQueue?`, with a space in front, or nothing.
pub(crate) fn meant<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    let name = nearest(wanted, known).map(|name| format!(" Did you mean {}?", word(name)));
    name.unwrap_or_default()
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
    let typos = |known: &'a str| (strsim::damerau_levenshtein(known, wanted), known);
    known
        .map(typos)
        .min_by_key(|(typos, _)| *typos)
        // A name of three letters is another word after three typos.
        .filter(|(typos, known)| *typos <= MAX_TYPOS && *typos < known.chars().count())
        .map(|(_, known)| known)
}

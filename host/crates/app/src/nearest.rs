//! Suggestions for misspelt names.

/// A name that differs by more letters is no typo.
const MAX_TYPOS: usize = 3;

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

//! The query of a search: a filter, a cursor and a limit.

use patchbay_store::MAX_FOUND;

use crate::Error;

/// Default number of rows of a page.
const DEFAULT_LIMIT: usize = 50;

pub(crate) struct PagedFilter {
    /// All pairs of the query except those of the page.
    pub(crate) filter: Vec<(String, String)>,
    pub(crate) cursor: Option<String>,
    pub(crate) limit: usize,
}

impl PagedFilter {
    pub(crate) fn new(pairs: Vec<(String, String)>) -> Result<Self, Error> {
        let mut asked = Self {
            filter: Vec::new(),
            cursor: None,
            limit: DEFAULT_LIMIT,
        };
        for (key, value) in pairs {
            match key.as_str() {
                "cursor" => asked.cursor = Some(value),
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_FOUND).contains(limit));
                    asked.limit = limit.ok_or_else(|| {
                        Error::invalid(format!("limit: must be from 1 to {MAX_FOUND}"))
                    })?;
                }
                _ => asked.filter.push((key, value)),
            }
        }
        Ok(asked)
    }

    /// Takes a pair out of the query that is not part of a filter.
    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.filter.iter().position(|(name, _)| name == key)?;
        Some(self.filter.remove(at).1)
    }
}

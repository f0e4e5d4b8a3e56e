//! Prepares an operator's filter for the history: values of job data become terms, and paths that
//! no plugin declares searchable are refused.

use std::collections::BTreeSet;

use patchbay_model::filter::Filter;
use patchbay_model::{DataPath, QueueName};
use patchbay_store::{Selection, Store, StoreError, Term};

use crate::plugins::Plugins;

#[derive(Debug)]
pub struct HistoryFilter {
    pub filter: Filter,
    terms: Vec<Term>,
}

#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The history keeps no term of the path.
    #[error(
        "data.{path}: no active plugin declares it searchable{}; {}",
        of(queue),
        declared(paths)
    )]
    Undeclared {
        path: String,
        /// The queue of the filter.
        queue: Option<QueueName>,
        paths: BTreeSet<DataPath>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// That no plugin declares the path searchable, with those that are.
pub(crate) fn unsearchable(
    path: &DataPath,
    queue: Option<&QueueName>,
    paths: &BTreeSet<DataPath>,
) -> String {
    format!(
        "path: nothing was found, and no active plugin declares {path} searchable{}; {}",
        of(&queue.cloned()),
        declared(paths).replace("data.", "")
    )
}

fn of(queue: &Option<QueueName>) -> String {
    queue
        .as_ref()
        .map(|queue| format!(" for {queue}"))
        .unwrap_or_default()
}

fn declared(paths: &BTreeSet<DataPath>) -> String {
    if paths.is_empty() {
        return "no path is searchable (in plugin.toml: searchable = [\"customer.id\"] in [[queues]])"
            .into();
    }
    let paths: Vec<String> = paths.iter().map(|path| format!("data.{path}")).collect();
    format!("searchable paths: {}", paths.join(", "))
}

impl HistoryFilter {
    pub async fn new(
        store: &Store,
        plugins: &Plugins,
        filter: Filter,
    ) -> Result<Self, SelectError> {
        let mut terms = Vec::with_capacity(filter.data.len());
        if !filter.data.is_empty() {
            let paths = plugins.searchable(filter.queue.as_ref());
            let key = store.term_key().await?;
            for (path, value) in &filter.data {
                let Some(known) = paths.iter().find(|known| known.as_str() == path) else {
                    return Err(SelectError::Undeclared {
                        path: path.clone(),
                        queue: filter.queue.clone(),
                        paths,
                    });
                };
                terms.push(key.term(known, value));
            }
        }
        Ok(Self { filter, terms })
    }

    /// `prefix` is BullMQ's.
    pub fn selection<'a>(&'a self, prefix: &'a str) -> Selection<'a> {
        Selection {
            prefix,
            filter: &self.filter,
            terms: &self.terms,
        }
    }
}

impl From<SelectError> for crate::Error {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Undeclared { .. } => Self::invalid(error.to_string()),
            SelectError::Store(error) => error.into(),
        }
    }
}

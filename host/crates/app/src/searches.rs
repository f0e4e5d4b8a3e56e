//! Use cases of searches: searching and counting in the history, and saved searches.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use patchbay_api::answer::Page;
use patchbay_api::searches::{
    Count, CountHistory, Found, FoundAttempt, NamedSearch, RunSearch, SavedSearch, SearchHistory,
    SearchesForget, SearchesSave, SearchesUndo, UndoneSearch,
};
use patchbay_model::filter::Filter;
use patchbay_model::redaction::REDACTED;
use patchbay_queue::Broker;
use patchbay_store::{SavedSearchRow, SearchCursor, Store, UnknownCursor};
use serde_json::{Value, json};

use crate::actions::{Actions, Caller};
use crate::dead_letters::unknown_group;
use crate::error::Error;
use crate::history::PagedFilter;
use crate::history::views::found_view;
use crate::history_filter::HistoryFilter;
use crate::jobs::Jobs;
use crate::nearest::suggested;
use crate::plugins::Plugins;
use crate::queues::Catalog;
use crate::{Parts, redacted};

/// A user waits for the answer.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);
/// The rest of a second is for the network.
const COUNT_LIMIT: Duration = Duration::from_millis(800);
/// In characters.
const MAX_NAME: usize = 64;
/// A hundred years in milliseconds: no history is older.
const MAX_SINCE_MS: u64 = 100 * 366 * 86_400_000;

#[derive(Clone)]
pub struct Searches {
    broker: Broker,
    store: Store,
    plugins: Arc<Plugins>,
    actions: Actions,
    jobs: Jobs,
    catalog: Catalog,
}

impl Searches {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            broker: parts.broker.clone(),
            store: parts.store.clone(),
            plugins: Arc::clone(&parts.plugins),
            actions: parts.actions.clone(),
            jobs: Jobs::new(parts),
            catalog: Catalog::new(
                parts.broker.clone(),
                parts.store.clone(),
                Arc::clone(&parts.plugins),
            ),
        }
    }

    /// Finds finished attempts, newest first.
    pub async fn attempts(&self, asked: SearchHistory) -> Result<Page<FoundAttempt>, Error> {
        let asked = PagedFilter::new(asked.0)?;
        let filter = Filter::from_pairs(asked.filter)?;
        self.attempts_of(filter, asked.cursor, asked.limit).await
    }

    async fn attempts_of(
        &self,
        filter: Filter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<FoundAttempt>, Error> {
        let after: Option<SearchCursor> = cursor
            .map(|cursor| cursor.parse())
            .transpose()
            .map_err(|error: UnknownCursor| Error::invalid(error.to_string()))?;
        let selected = HistoryFilter::new(&self.store, &self.plugins, filter).await?;
        let selection = selected.selection(self.broker.prefix());
        let found = self
            .store
            .search(selection, after.as_ref(), limit, SEARCH_LIMIT)
            .await;
        let found = match found {
            Ok(found) => found,
            Err(error) => return Err(self.of_group(error.into(), &selected.filter).await),
        };
        if found.rows.is_empty() && after.is_none() && !found.partial {
            let Filter { queue, plugin, .. } = &selected.filter;
            self.catalog
                .check_filter(queue.as_ref(), plugin.as_ref())
                .await?;
        }
        let items = redacted::found(found.rows)
            .into_iter()
            .map(found_view)
            .collect();
        Ok(Page {
            items,
            next_cursor: found.next.map(|place| place.to_string()),
            partial: found.partial,
        })
    }

    /// Counts the attempts that a search would find.
    pub async fn count(&self, asked: CountHistory) -> Result<Count, Error> {
        let filter = Filter::from_pairs(asked.0)?;
        let selected = HistoryFilter::new(&self.store, &self.plugins, filter).await?;
        let count = self
            .store
            .count(selected.selection(self.broker.prefix()), COUNT_LIMIT)
            .await;
        let count = match count {
            Ok(count) => count,
            Err(error) => return Err(self.of_group(error.into(), &selected.filter).await),
        };
        if count.attempts == 0 && count.exact {
            let Filter { queue, plugin, .. } = &selected.filter;
            self.catalog
                .check_filter(queue.as_ref(), plugin.as_ref())
                .await?;
        }
        Ok(Count {
            jobs: count.jobs,
            attempts: count.attempts,
            exact: count.exact,
            estimate: count.estimate,
        })
    }

    /// Lists every saved search, by name.
    pub async fn list(&self) -> Result<Vec<NamedSearch>, Error> {
        let rows = self.store.saved_searches(self.broker.prefix()).await?;
        Ok(rows.into_iter().map(|row| self.view(row)).collect())
    }

    pub async fn save(
        &self,
        who: &Caller,
        name: &str,
        search: SavedSearch,
    ) -> Result<NamedSearch, Error> {
        let name = checked(name)?;
        self.check_runnable(&search).await?;
        // Values of job data may be personal: the record contains only their paths.
        let mut details = serde_json::to_value(&search).unwrap_or_default();
        for (path, _) in &search.filter.data {
            details["filter"][format!("data.{path}")] = "…".into();
        }
        let act = async {
            Ok(self.view(
                self.store
                    .save_search(self.broker.prefix(), name, &search, &who.actor)
                    .await?,
            ))
        };
        self.actions
            .record_as::<SearchesSave, _>(who, name, details, act, |_| Value::Null)
            .await
    }

    /// Refuses to save a search that cannot be run.
    async fn check_runnable(&self, search: &SavedSearch) -> Result<(), Error> {
        if let Some((path, _)) = search
            .filter
            .data
            .iter()
            .find(|(_, value)| value == REDACTED)
        {
            return Err(Error::invalid(format!(
                "data.{path}: replace {REDACTED} by the value itself"
            )));
        }
        let SavedSearch {
            filter,
            since_ms,
            until_ms,
            ..
        } = search;
        for (age, ms, time, at) in [
            ("sinceMs", since_ms, "from", filter.from),
            ("untilMs", until_ms, "to", filter.to),
        ] {
            if ms.is_some() && at.is_some() {
                return Err(Error::invalid(format!(
                    "{age} and {time} cannot be given together. Use one of them"
                )));
            }
            if ms.is_some_and(|ms| ms > MAX_SINCE_MS) {
                return Err(Error::invalid(format!("{age}: must be at most 100 years")));
            }
        }
        match search.state {
            Some(_) if search.filter.queue.is_none() => {
                Err(Error::invalid("queue: must be given when state is given"))
            }
            Some(_) => Ok(()),
            None => {
                HistoryFilter::new(&self.store, &self.plugins, search.filter.clone()).await?;
                Ok(())
            }
        }
    }

    pub async fn forget(&self, who: &Caller, name: &str) -> Result<(), Error> {
        let name = checked(name)?;
        let act = async {
            let forgotten = self
                .store
                .forget_search(self.broker.prefix(), name, &who.actor)
                .await;
            match forgotten {
                Ok(()) => Ok(()),
                Err(error) => Err(self.suggested(error.into(), name).await),
            }
        };
        self.actions
            .record::<SearchesForget, _>(who, name, json!({}), act)
            .await
    }

    /// Undoes the last change of a saved search.
    pub async fn undo(&self, who: &Caller, name: &str) -> Result<UndoneSearch, Error> {
        let name = checked(name)?;
        let act = async {
            let undone = self
                .store
                .undo_search(self.broker.prefix(), name, &who.actor)
                .await;
            match undone {
                Ok(search) => Ok(search),
                Err(error) => Err(self.suggested(error.into(), name).await),
            }
        };
        let search = self
            .actions
            .record_as::<SearchesUndo, _>(who, name, json!({}), act, |_| Value::Null)
            .await?;
        let shown = |search: SavedSearch| SavedSearch {
            filter: self.redacted(search.filter),
            ..search
        };
        Ok(UndoneSearch(search.map(|search| shown(search.0))))
    }

    pub async fn run(
        &self,
        who: &Caller,
        name: &str,
        page: RunSearch,
    ) -> Result<Page<Found>, Error> {
        let asked = PagedFilter::new(page.0)?;
        if let Some((key, _)) = asked.filter.first() {
            return Err(Error::invalid(format!(
                "{key}: cannot be given, because a saved search has its own filter"
            )));
        }
        let name = checked(name)?;
        let saved = self.store.saved_search(self.broker.prefix(), name).await;
        let SavedSearch {
            mut filter,
            state,
            since_ms,
            until_ms,
        } = match saved {
            Ok(saved) => saved.search.0,
            Err(error) => return Err(self.suggested(error.into(), name).await),
        };
        if filter.text.is_some() {
            who.operator.refuse_data(
                "this search compares messages of failures, which may quote it: filter by code instead",
            )?;
        }
        if !filter.data.is_empty() {
            who.operator
                .refuse_data("this search compares it: the answer would tell what it is")?;
        }
        let now = Utc::now();
        let ago = |ms: u64| {
            let ago = TimeDelta::milliseconds(i64::try_from(ms.min(MAX_SINCE_MS)).unwrap_or(0));
            now.checked_sub_signed(ago)
        };
        filter.from = since_ms.and_then(ago).or(filter.from);
        filter.to = until_ms.and_then(ago).or(filter.to);
        match (state, filter.queue.clone()) {
            (Some(state), Some(queue)) => {
                let page = self
                    .jobs
                    .search_state(queue.as_str(), state, &filter, asked.cursor, asked.limit)
                    .await?;
                Ok(either(page, Found::Job))
            }
            _ => {
                let page = self.attempts_of(filter, asked.cursor, asked.limit).await?;
                Ok(either(page, |attempt| Found::Attempt(Box::new(attempt))))
            }
        }
    }

    /// The error with the group of dead letters that may be meant by the filter.
    async fn of_group(&self, error: Error, filter: &Filter) -> Error {
        match filter.dead_letter {
            Some(id) => unknown_group(&self.store, self.broker.prefix(), id, error).await,
            None => error,
        }
    }

    /// The error with the saved search that may be meant.
    async fn suggested(&self, error: Error, name: &str) -> Error {
        // The suggestion may fail; the answer is the same.
        let known = self.store.saved_searches(self.broker.prefix()).await;
        let known = known.unwrap_or_default();
        suggested(error, name, known.iter().map(|saved| saved.name.as_str()))
    }

    /// Redacts hidden values of job data.
    fn redacted(&self, filter: Filter) -> Filter {
        let redaction = self.plugins.redaction_of(filter.queue.as_ref());
        redacted::filter(filter, &redaction)
    }

    fn view(&self, row: SavedSearchRow) -> NamedSearch {
        let SavedSearch {
            filter,
            state,
            since_ms,
            until_ms,
        } = row.search.0;
        NamedSearch {
            name: row.name,
            filter: self.redacted(filter).into(),
            state,
            since_ms,
            until_ms,
            created_at: row.created_at,
            created_by: row.created_by,
            changed_at: row.changed_at,
            changed_by: row.changed_by,
        }
    }
}

fn either<T>(page: Page<T>, found: impl Fn(T) -> Found) -> Page<Found> {
    let Page {
        items,
        next_cursor,
        partial,
    } = page;
    Page {
        items: items.into_iter().map(found).collect(),
        next_cursor,
        partial,
    }
}

/// Refuses a name that a saved search must not have.
fn checked(name: &str) -> Result<&str, Error> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count())
        && name.trim() == name
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || " -_.".contains(c));
    let rule = format!(
        "name: must have 1 to {MAX_NAME} characters: letters, digits, spaces (not at its ends), - _ and ."
    );
    if fits {
        Ok(name)
    } else {
        Err(Error::invalid(rule))
    }
}

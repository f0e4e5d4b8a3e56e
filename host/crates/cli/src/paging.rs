//! Lists that a host answers page by page.

use clap::Args;
use patchbay_api::body::NoBody;
use patchbay_api::operation::Endpoint;
use patchbay_model::shell::option;
use patchbay_model::words::counted;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::client::{Client, ClientError, Pages, ReceivedPage};
use super::input::whole;
use super::output::Output;

/// Maximum number of rows per page that a host returns.
const LARGEST_PAGE: u16 = 200;

/// How much of a list is shown.
#[derive(Args)]
pub struct Paging {
    /// Maximum number of rows, 1 to 200
    #[arg(long, default_value_t = 50, value_parser = whole::<u16>(1, LARGEST_PAGE.into()))]
    limit: u16,
    /// All rows, page by page
    #[arg(long, conflicts_with = "limit")]
    pub(super) all: bool,
    /// Cursor that the page before has printed
    #[arg(long, conflicts_with = "all")]
    cursor: Option<String>,
}

impl Paging {
    /// Requests the page that is asked for, or all of them. `query_of` makes the query from the
    /// number of rows of a page and its cursor.
    pub(super) async fn ask<E, T>(
        &self,
        client: &Client,
        path: &E::Path,
        query_of: impl Fn(u16, Option<String>) -> E::Query,
    ) -> Result<ReceivedPage<T>, ClientError>
    where
        E: Endpoint<Body = NoBody, Answer: Pages<T>>,
        T: ToSchema + Serialize + DeserializeOwned + 'static,
    {
        if self.all {
            let page = |cursor, _| Some(query_of(LARGEST_PAGE, cursor));
            return client.ask_up_to::<E, T>(path, page).await;
        }
        let query = query_of(self.limit, self.cursor.clone());
        client.ask_page::<E, T>(path, &query).await
    }
}

impl<T> ReceivedPage<T> {
    /// Says what the list has left out. `noun` is one of its rows.
    pub(super) fn note(&self, noun: &str, output: Output) {
        let Some(cursor) = &self.next_cursor else {
            if self.items.is_empty() {
                output.note(&format!("No {noun}s"));
            }
            return;
        };
        let shown = counted(self.items.len() as u64, noun);
        let why = match self.partial {
            true => format!("{shown}. The search reached its time limit"),
            false => format!("{shown}; there may be more"),
        };
        let next = option("--cursor", cursor);
        output.note(&format!("{why}. Next page: {next}; all: --all"));
    }
}

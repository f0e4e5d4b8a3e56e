//! Streams the history as a file.
//!
//! Pages come newest first. Each is made when the one before has been sent, and when the client
//! leaves, the export ends. Attempts that end after the beginning are left out, so that no attempt
//! appears twice.

mod csv;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use futures::stream::BoxStream;
use patchbay_api::searches::{ExportHistory, FoundAttempt};
use patchbay_model::DataPath;
use patchbay_model::filter::Filter;
use patchbay_model::redaction::Mask;
use patchbay_store::{MAX_FOUND, SearchCursor, Selection, Term};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::views::found_view;
use super::{History, Reader, RedactedBody};
use crate::actions::Caller;
use crate::error::Error;
use crate::redacted;

/// Limit of one page. A page that ends early is continued.
const PAGE_LIMIT: Duration = Duration::from_secs(5);
/// Pages that wait for a slow client.
const PAGES_AHEAD: usize = 2;

pub struct Export {
    pub name: String,
    pub content_type: &'static str,
    /// Yields an error where something is missing.
    pub lines: BoxStream<'static, io::Result<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jsonl,
    Csv,
}

struct Request {
    format: Format,
    bodies: bool,
    reveal: bool,
    /// Whether messages and stacks are shown, which may quote data.
    shows_failures: bool,
    filter: Filter,
    terms: Vec<Term>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    attempt: FoundAttempt,
    #[serde(flatten)]
    body: Option<RedactedBody>,
}

impl History {
    /// Begins to stream the history. Records who exports, and how it ended.
    pub async fn export(&self, who: &Caller, asked: ExportHistory) -> Result<Export, Error> {
        let request = Request {
            shows_failures: who.operator.may_see_data,
            ..self.export_request(asked.0).await?
        };
        let (format, bodies) = (request.format, request.bodies);
        let details = json!({
            "filter": request.filter.without_data(), "bodies": bodies, "reveal": request.reveal, "format": format.name(),
        });
        let action = self
            .actions
            .begin(who, "history.export", "history", details)
            .await?;
        let (pages, sent) = mpsc::channel(PAGES_AHEAD);
        let history = self.clone();
        tokio::spawn(async move {
            let mut rows = 0;
            let end = match history.write(&request, &pages, &mut rows).await {
                Ok(true) => Ok(json!({ "attempts": rows })),
                Ok(false) => Err(format!("the client left after {rows} attempts")),
                Err(error) => {
                    // This aborts the transfer, so that the client knows that something is missing.
                    pages
                        .send(Err(io::Error::other(error.message.clone())))
                        .await
                        .ok();
                    Err(error.message)
                }
            };
            if let Err(error) = history.store.finish_action(action, &end).await {
                tracing::error!(%error, "the end of an export could not be recorded");
            }
        });
        let lines =
            futures::stream::unfold(
                sent,
                |mut sent| async move { Some((sent.recv().await?, sent)) },
            );
        let name = format!("history.{}", format.name());
        Ok(Export {
            name,
            content_type: format.content_type(),
            lines: lines.boxed(),
        })
    }

    async fn export_request(&self, asked: Vec<(String, String)>) -> Result<Request, Error> {
        let (mut format, mut bodies, mut reveal, mut pairs) =
            (Format::Jsonl, false, false, Vec::new());
        for (key, value) in asked {
            match (key.as_str(), value.as_str()) {
                ("format", "jsonl") => format = Format::Jsonl,
                ("format", "csv") => format = Format::Csv,
                ("format", _) => return Err(Error::invalid("format: must be jsonl or csv")),
                ("bodies", "true") => bodies = true,
                ("bodies", "false") => bodies = false,
                ("bodies", _) => return Err(Error::invalid("bodies: must be true or false")),
                ("reveal", "true") => reveal = true,
                ("reveal", "false") => reveal = false,
                ("reveal", _) => return Err(Error::invalid("reveal: must be true or false")),
                _ => pairs.push((key, value)),
            }
        }
        let mut filter = Filter::from_pairs(pairs)?;
        let now = Utc::now();
        filter.to = Some(filter.to.map_or(now, |to| to.min(now)));
        let mut terms = Vec::new();
        for (path, value) in &filter.data {
            let path: DataPath = path
                .parse()
                .map_err(|error| Error::invalid(format!("data.{path}: {error}")))?;
            terms.push(self.store.term_key().await?.term(&path, value));
        }
        if reveal && !bodies {
            return Err(Error::invalid("reveal: can only be given with bodies=true"));
        }
        if filter.dead_letter.is_some() {
            // A group that is not there is told as an answer; once the file has begun, it could
            // only break off.
            let selection = Selection {
                prefix: self.broker.prefix(),
                filter: &filter,
                terms: &terms,
            };
            self.store.search(selection, None, 1, PAGE_LIMIT).await?;
        }
        Ok(Request {
            format,
            bodies,
            reveal,
            shows_failures: false,
            filter,
            terms,
        })
    }

    /// Returns whether everything was written. `false` when the client left.
    async fn write(
        &self,
        request: &Request,
        pages: &mpsc::Sender<io::Result<String>>,
        rows: &mut u64,
    ) -> Result<bool, Error> {
        let prefix = self.broker.prefix();
        let selection = Selection {
            prefix,
            filter: &request.filter,
            terms: &request.terms,
        };
        let mut reader = Reader::new(
            &self.parts.bodies,
            &self.plugins,
            &self.broker,
            request.reveal,
        );
        let mut after: Option<SearchCursor> = None;
        let mut text = match request.format {
            Format::Jsonl => String::new(),
            Format::Csv => csv::head(request.bodies),
        };
        loop {
            let found = self
                .store
                .search(selection, after.as_ref(), MAX_FOUND, PAGE_LIMIT)
                .await?;
            let mut shown = HashMap::new();
            if request.bodies {
                for row in self.store.bodies_of(prefix, &found.rows).await? {
                    let key = (
                        row.queue.clone(),
                        row.job_id.clone(),
                        row.job_created_ms,
                        row.started,
                    );
                    shown.insert(key, reader.show(row).await?);
                }
            }
            *rows += found.rows.len() as u64;
            for mut row in redacted::found(found.rows) {
                if !request.shows_failures {
                    redacted::attempt(&mut row.attempt, &Mask::of_everything());
                }
                let key = (
                    row.queue.clone(),
                    row.job_id.clone(),
                    row.job_created_ms,
                    row.attempt.started,
                );
                let line = Line {
                    body: shown.remove(&key),
                    attempt: found_view(row),
                };
                match request.format {
                    Format::Jsonl => {
                        text.push_str(&serde_json::to_string(&line).unwrap_or_default());
                        text.push('\n');
                    }
                    Format::Csv => csv::line(
                        &mut text,
                        &serde_json::to_value(&line).unwrap_or(Value::Null),
                        request.bodies,
                    ),
                }
            }
            if !text.is_empty() && pages.send(Ok(std::mem::take(&mut text))).await.is_err() {
                return Ok(false);
            }
            match found.next {
                _ if pages.is_closed() => return Ok(false),
                Some(next) => after = Some(next),
                None => return Ok(true),
            }
        }
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }
}

//! /api/admin/history/export: the history as a file, streamed.
//!
//! Page by page, newest first, each made when the one before has gone out; a client that leaves ends it. What happens after the beginning is
//! left out, so that nothing stands there twice.

mod csv;

use std::collections::HashMap;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures::StreamExt;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use patchbay_app::history::{Reader, Shown};
use patchbay_app::redacted;
use patchbay_model::DataPath;
use patchbay_model::filter::Filter;
use patchbay_store::{FoundRow, MAX_FOUND, Place, Selection, Term};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::auth::Actor;
use crate::error::{ApiError, ErrorBody};

/// For one page; one that ends early is gone on with.
const PAGE_LIMIT: Duration = Duration::from_secs(5);
/// Pages that wait for a slow client.
const PAGES_AHEAD: usize = 2;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(export))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jsonl,
    Csv,
}

/// What to write, and of which attempts.
struct Wanted {
    format: Format,
    bodies: bool,
    reveal: bool,
    filter: Filter,
    terms: Vec<Term>,
}

/// One line.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    row: FoundRow,
    #[serde(flatten)]
    shown: Option<Shown>,
}

/// Export the history: `format` is `jsonl` or `csv`; `bodies=true` adds data and results, without what manifests redact; all other parameters
/// are those of a search. Who exports is recorded.
#[utoipa::path(get, path = "/history/export", tag = "history", security(("operator" = [])),
    params(("format" = Option<String>, Query, description = "`jsonl` (default) or `csv`"),
        ("bodies" = Option<bool>, Query, description = "With data and results"),
        ("reveal" = Option<bool>, Query, description = "With what manifests redact and with secrets, too; recorded"),
        ("filter" = Option<String>, Query, description = "Any of queue, job, name, from, to, outcome, verdict, code, text, data.<path>, plugin, revision, correlation-id, platform, dead-letter")),
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 400, body = ErrorBody)))]
async fn export(
    State(state): State<AppState>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wanted = wanted(&state, query.as_deref().unwrap_or_default()).await?;
    let (format, bodies) = (wanted.format, wanted.bodies);
    let details = json!({
        "filter": wanted.filter.without_data(), "bodies": bodies, "reveal": wanted.reveal, "format": format.name(),
    });
    let action = state.store.begin_action(&actor.0, "history.export", "history", &details).await?;
    let (pages, sent) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(async move {
        let mut rows = 0;
        let end = match write(&state, &wanted, &pages, &mut rows).await {
            Ok(true) => Ok(json!({ "attempts": rows })),
            Ok(false) => Err(format!("the client left after {rows} attempts")),
            Err(error) => {
                let message = error.message().to_owned();
                // Breaks the transfer off, so that the client knows that something is missing.
                pages.send(Err(std::io::Error::other(message.clone()))).await.ok();
                Err(message)
            }
        };
        if let Err(error) = state.store.finish_action(action, &end).await {
            tracing::error!(%error, "the end of an export is not recorded");
        }
    });
    let body = futures::stream::unfold(sent, |mut sent| async move { Some((sent.recv().await?, sent)) });
    let name = format!("attachment; filename=\"history.{}\"", format.name());
    Ok((
        [(CONTENT_TYPE, format.content_type().to_owned()), (CONTENT_DISPOSITION, name)],
        Body::from_stream(body.boxed()),
    )
        .into_response())
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

async fn wanted(state: &AppState, query: &str) -> Result<Wanted, ApiError> {
    let (mut format, mut bodies, mut reveal, mut pairs) = (Format::Jsonl, false, false, Vec::new());
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()).into_owned() {
        match (key.as_str(), value.as_str()) {
            ("format", "jsonl") => format = Format::Jsonl,
            ("format", "csv") => format = Format::Csv,
            ("format", _) => return Err(ApiError::invalid("format: jsonl or csv")),
            ("bodies", "true") => bodies = true,
            ("bodies", "false") => bodies = false,
            ("bodies", _) => return Err(ApiError::invalid("bodies: true or false")),
            ("reveal", "true") => reveal = true,
            ("reveal", "false") => reveal = false,
            ("reveal", _) => return Err(ApiError::invalid("reveal: true or false")),
            _ => pairs.push((key, value)),
        }
    }
    let mut filter = Filter::from_pairs(pairs).map_err(|error| ApiError::invalid(error.to_string()))?;
    let now = Utc::now();
    filter.to = Some(filter.to.map_or(now, |to| to.min(now)));
    let mut terms = Vec::new();
    for (path, value) in &filter.data {
        let path: DataPath = path.parse().map_err(|error| ApiError::invalid(format!("data.{path}: {error}")))?;
        terms.push(state.store.term_key().await?.term(&path, value));
    }
    if reveal && !bodies {
        return Err(ApiError::invalid("reveal: it is for bodies=true"));
    }
    Ok(Wanted { format, bodies, reveal, filter, terms })
}

/// Whether it went to the end; not when the client left.
async fn write(
    state: &AppState,
    wanted: &Wanted,
    pages: &mpsc::Sender<std::io::Result<Bytes>>,
    rows: &mut u64,
) -> Result<bool, ApiError> {
    let prefix = state.queues.prefix();
    let selection = Selection { prefix, filter: &wanted.filter, terms: &wanted.terms };
    let mut reader = Reader::new(&state.history.bodies, &state.plugins, &state.queues, wanted.reveal);
    let mut after: Option<Place> = None;
    let mut text = match wanted.format {
        Format::Jsonl => String::new(),
        Format::Csv => csv::head(wanted.bodies),
    };
    loop {
        let found = state.store.search(selection, after.as_ref(), MAX_FOUND, PAGE_LIMIT).await?;
        let mut shown = HashMap::new();
        if wanted.bodies {
            for row in state.store.bodies_of(prefix, &found.rows).await? {
                let key = (row.queue.clone(), row.job_id.clone(), row.job_created_ms, row.started);
                shown.insert(key, reader.show(row).await?);
            }
        }
        *rows += found.rows.len() as u64;
        for row in redacted::found(found.rows) {
            let key = (row.queue.clone(), row.job_id.clone(), row.job_created_ms, row.attempt.started);
            let line = Line { shown: shown.remove(&key), row };
            match wanted.format {
                Format::Jsonl => {
                    text.push_str(&serde_json::to_string(&line).unwrap_or_default());
                    text.push('\n');
                }
                Format::Csv => csv::line(&mut text, &serde_json::to_value(&line).unwrap_or(Value::Null), wanted.bodies),
            }
        }
        if !text.is_empty() && pages.send(Ok(std::mem::take(&mut text).into())).await.is_err() {
            return Ok(false);
        }
        match found.next {
            _ if pages.is_closed() => return Ok(false),
            Some(next) => after = Some(next),
            None => return Ok(true),
        }
    }
}

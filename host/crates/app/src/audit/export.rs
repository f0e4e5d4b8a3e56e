//! Entries as CSV, page by page, newest first.

use std::io;

use futures::StreamExt;
use futures::stream::BoxStream;
use patchbay_api::audit::{AuditEntry, ExportQuery};
use patchbay_store::AuditFilter;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Audit, entry, year_checked};
use crate::Error;
use crate::actions::Caller;
use crate::csv_cell::cell;

/// Entries that one file has at most.
const MAX_ROWS: usize = 1_000_000;
const PAGE: i64 = 200;
/// Pages that wait for a slow client.
const PAGES_AHEAD: usize = 2;
const HEAD: &str = "id,at,trail,actorKind,actorId,actorName,action,entity,address,platform,plugin,revision,queue,jobId,correlationId,entryKey,origin,entry\r\n";

pub struct EntriesFile {
    pub name: String,
    /// Yields an error where something is missing.
    pub lines: BoxStream<'static, io::Result<String>>,
}

impl Audit {
    /// Begins to stream entries. Records who does, and how it ended.
    pub async fn export(&self, who: &Caller, asked: ExportQuery) -> Result<EntriesFile, Error> {
        if asked
            .format
            .as_deref()
            .is_some_and(|format| format != "csv")
        {
            return Err(Error::invalid("format: must be csv"));
        }
        let filter = AuditFilter {
            trail: asked.trail.as_ref().map(|name| name.parse()).transpose()?,
            actor: asked.actor.clone(),
            action: asked.action.clone(),
            entity: asked.entity.clone(),
            since: year_checked("since", asked.since)?,
            until: year_checked("until", asked.until)?,
            ..AuditFilter::default()
        };
        let details = serde_json::to_value(&asked).unwrap_or_default();
        let target = asked.trail.unwrap_or_else(|| "all".into());
        self.stream(who, filter, &target, details).await
    }

    pub(super) async fn stream(
        &self,
        who: &Caller,
        mut filter: AuditFilter,
        target: &str,
        details: Value,
    ) -> Result<EntriesFile, Error> {
        let action = self
            .actions
            .begin(who, "audit.export", target, details)
            .await?;
        let (pages, sent) = mpsc::channel::<io::Result<String>>(PAGES_AHEAD);
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut rows = 0;
            let mut text = HEAD.to_owned();
            let end = loop {
                let page = match store.audit_entries(&filter, PAGE).await {
                    Ok(page) => page,
                    Err(error) => {
                        let error = Error::from(error);
                        // This aborts the transfer, so that the client knows that something is
                        // missing.
                        pages
                            .send(Err(io::Error::other(error.message.clone())))
                            .await
                            .ok();
                        break Err(error.message);
                    }
                };
                let is_last = (page.len() as i64) < PAGE;
                filter.before = page.last().map(|row| row.id);
                for row in page {
                    rows += 1;
                    line(&mut text, &entry(row));
                }
                if !text.is_empty() && pages.send(Ok(std::mem::take(&mut text))).await.is_err() {
                    break Err(format!("the client left after {rows} entries"));
                }
                if is_last {
                    break Ok(json!({ "entries": rows }));
                }
                if rows >= MAX_ROWS {
                    let message = format!(
                        "a file has at most {MAX_ROWS} entries: ask for less by since and until"
                    );
                    pages
                        .send(Err(io::Error::other(message.clone())))
                        .await
                        .ok();
                    break Err(message);
                }
            };
            if let Err(error) = store.finish_action(action, &end).await {
                tracing::error!(%error, "the end of an export could not be recorded");
            }
        });
        let lines =
            futures::stream::unfold(
                sent,
                |mut sent| async move { Some((sent.recv().await?, sent)) },
            );
        Ok(EntriesFile {
            name: format!("audit-{target}.csv"),
            lines: lines.boxed(),
        })
    }
}

fn line(out: &mut String, entry: &AuditEntry) {
    let (id, at) = (entry.id.to_string(), entry.at.to_rfc3339());
    let content = entry.entry.to_string();
    let cells = [
        Some(id.as_str()),
        Some(&at),
        Some(&entry.trail),
        entry.actor_kind.as_deref(),
        entry.actor_id.as_deref(),
        entry.actor_name.as_deref(),
        entry.action.as_deref(),
        entry.entity.as_deref(),
        entry.address.as_deref(),
        entry.platform.as_deref(),
        entry.plugin.as_deref(),
        entry.revision.as_deref(),
        entry.queue.as_deref(),
        entry.job_id.as_deref(),
        entry.correlation_id.as_deref(),
        Some(&entry.entry_key),
        Some(&entry.origin),
        Some(&content),
    ];
    for (place, text) in cells.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        if let Some(text) = text {
            cell(out, text);
        }
    }
    out.push_str("\r\n");
}

//! The newest batch of each trail, noted outside of Postgres: in Redis, in a file, in the log. A
//! restored or cut database is shorter than they are.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use patchbay_model::audit_chain::Anchor;
use patchbay_queue::{Broker, QueueError};
use patchbay_store::BatchRow;
use tracing::{error, info, warn};

/// Where anchors are.
#[derive(Clone)]
pub struct Anchors {
    queues: Broker,
    file: Option<PathBuf>,
}

/// The anchor of a batch.
pub(crate) fn of(batch: &BatchRow) -> Anchor {
    Anchor::new(&batch.trail, (batch.epoch, batch.n), &batch.chain).sealed_at(batch.sealed_at)
}

/// The anchors of a file; lines that are none are skipped.
pub fn read_file(path: &Path) -> std::io::Result<Vec<Anchor>> {
    let mut found = Vec::new();
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        // A file that a full disk has cut may end within a character.
        match line {
            Ok(line) => found.extend(Anchor::read(&line)),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
        if found.len() > 10_000 {
            found = Anchor::newest(found);
        }
    }
    Ok(Anchor::newest(found))
}

impl Anchors {
    pub fn new(queues: Broker, file: Option<PathBuf>) -> Self {
        Self { queues, file }
    }

    /// All that this host can read. Fails when Redis does not answer; a file that cannot be read is
    /// told in the log.
    pub async fn known(&self) -> Result<Vec<Anchor>, QueueError> {
        let noted = self.queues.audit_anchors().await?;
        let mut anchors: Vec<Anchor> = noted
            .values()
            .filter_map(|text| Anchor::read(text))
            .collect();
        if let Some(path) = self.file.clone() {
            let read = tokio::task::spawn_blocking(move || (read_file(&path), path)).await;
            match read {
                Ok((Ok(read), _)) => anchors.extend(read),
                Ok((Err(error), _)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Ok((Err(error), path)) => {
                    warn!(%error, path = %path.display(), "the file of audit.anchor_file cannot be read");
                }
                Err(_) => {}
            }
        }
        Ok(Anchor::newest(anchors))
    }

    /// Notes the newest batches in Redis. What fails is repeated with the next batch.
    pub async fn note(&self, heads: &[Anchor]) {
        let texts: Vec<(String, String)> = heads
            .iter()
            .map(|head| (head.trail.clone(), head.to_string()))
            .collect();
        if let Err(error) = self.queues.note_audit_anchors(&texts).await {
            warn!(%error, "the newest batches of audit trails were not noted in Redis; they will be with the next batch");
        }
    }

    /// Writes lines to the log and to the file.
    pub async fn publish(&self, heads: Vec<Anchor>) {
        for head in &heads {
            let sealed = head.sealed_at.map(|at| at.to_rfc3339());
            info!(
                trail = head.trail,
                epoch = head.epoch,
                batch = head.n,
                chain = head.chain,
                sealed,
                "audit anchor"
            );
        }
        let Some(path) = self.file.clone() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || {
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)?;
            let mut text = String::new();
            for head in &heads {
                text.push_str(&format!("{head}\n"));
            }
            file.write_all(text.as_bytes())?;
            file.sync_data()
        });
        if let Ok(Err(error)) = written.await {
            error!(%error, "the file of audit.anchor_file cannot be written: a cut of the database would be seen only by Redis and the log");
        }
    }
}

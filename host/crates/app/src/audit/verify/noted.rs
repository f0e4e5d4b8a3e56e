//! Compares a trail with what was noted of it outside of the database.

use patchbay_api::audit::MissingBatches;
use patchbay_model::audit_chain::Anchor;
use patchbay_model::words::counted;
use patchbay_store::BatchRow;

use super::Trail;

impl Trail<'_> {
    pub(super) fn compare_with_anchors(&mut self) {
        let head = self.report.head.clone();
        let place = head.as_ref().map_or((0, 0), Anchor::place);
        for anchor in std::mem::take(&mut self.anchors) {
            if let Some(chain) = self.chains.get(&anchor.place()) {
                if anchor.hash().is_some_and(|noted| noted[..] != chain[..]) {
                    let message = format!(
                        "Batch {} of epoch {} is not the one that was noted outside of the database: the chain was computed anew",
                        anchor.n, anchor.epoch
                    );
                    let at = BatchRow {
                        epoch: anchor.epoch,
                        n: anchor.n,
                        ..empty(&anchor.trail)
                    };
                    self.problem("anchor-differs", Some(&at), None, message);
                }
                continue;
            }
            let is_accepted = self.report.accepted_gaps.iter().any(|gap| {
                let present = gap.present.as_ref().map(Anchor::place);
                anchor.place() <= gap.lost.place() && present < Some(anchor.place())
            });
            if is_accepted || anchor.place() <= place && anchor.epoch == place.0 {
                // The latter is a batch missing in between, which is told already.
                continue;
            }
            let batches = match &head {
                Some(head) if head.epoch == anchor.epoch => Some(anchor.n - head.n),
                None if anchor.epoch == 1 => Some(anchor.n),
                _ => None,
            };
            let what = batches.map_or("Batches".to_owned(), |batches| {
                counted(batches.unsigned_abs(), "batch")
            });
            let until = anchor
                .sealed_at
                .map(|at| format!(" up to {}", at.to_rfc3339()))
                .unwrap_or_default();
            let verb = if batches == Some(1) { "is" } else { "are" };
            let message = format!(
                "{what}{until} {verb} missing: batch {} of epoch {} was noted outside of the database. It was restored from an older dump, or its end was cut off",
                anchor.n, anchor.epoch
            );
            self.report.missing = Some(MissingBatches {
                batches,
                anchor,
                message,
            });
        }
    }
}

fn empty(trail: &str) -> BatchRow {
    BatchRow {
        trail: trail.to_owned(),
        epoch: 0,
        n: 0,
        ids: Vec::new(),
        count: 0,
        root: Vec::new(),
        chain: Vec::new(),
        mac: None,
        kid: None,
        sealed_at: chrono::DateTime::UNIX_EPOCH,
    }
}

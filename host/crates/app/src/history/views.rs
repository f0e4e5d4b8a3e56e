//! Views of the history's rows.

use patchbay_api::attempts::Attempt;
use patchbay_api::history::{
    DefaultRetention, LastPrune, Partition, Pruned, QueueRetention, RecordedErasure, Retention,
};
use patchbay_api::searches::FoundAttempt;
use patchbay_model::attempt::OutsideCall;
use patchbay_store::{AttemptRow, ErasureRow, FoundRow, KeepAttempts, PartitionRow, PrunedRow};
use serde_json::Value;

pub(crate) fn attempt_view(row: AttemptRow) -> Attempt {
    Attempt {
        calls: row.calls.map(calls),
        started: row.started,
        attempt: row.attempt,
        name: row.name,
        plugin: row.plugin,
        revision: row.revision,
        host: row.host,
        started_at: row.started_at,
        finished_at: row.finished_at,
        outcome: row.outcome,
        verdict: row.verdict,
        code: row.code,
        message: row.message,
        stack: row.stack,
        correlation_id: row.correlation_id,
        source: row.source,
        platform: row.platform,
        parent: row.parent,
        erased_at: row.erased_at,
    }
}

/// Reads outside calls in their stored form.
pub(crate) fn calls(stored: Value) -> Vec<OutsideCall> {
    serde_json::from_value(stored).unwrap_or_else(|error| {
        tracing::error!(%error, "outside calls of an attempt cannot be read");
        Vec::new()
    })
}

pub(crate) fn found_view(row: FoundRow) -> FoundAttempt {
    FoundAttempt {
        queue: row.queue,
        job_id: row.job_id,
        job_created_ms: row.job_created_ms,
        dead_letter: row.dead_letter,
        attempt: attempt_view(row.attempt),
    }
}

pub(super) fn partition_view(row: PartitionRow) -> Partition {
    Partition {
        name: row.name,
        rows: row.rows,
        bytes: row.bytes,
    }
}

pub(super) fn last_prune_view(row: PrunedRow) -> LastPrune {
    LastPrune {
        started_at: row.started_at,
        ended_at: row.ended_at,
        attempts: row.attempts,
        partitions: row.partitions,
        error: row.error,
    }
}

pub(super) fn retention_view(stored: patchbay_store::Retention) -> Retention {
    let queues = stored.queues.into_iter().map(|row| QueueRetention {
        queue: row.queue,
        outcome: row.outcome,
        days: row.days,
        changed_at: row.changed_at,
        changed_by: row.changed_by,
    });
    let KeepAttempts {
        completed_days,
        other_days,
    } = stored.default;
    Retention {
        default: DefaultRetention {
            completed_days,
            other_days,
        },
        queues: queues.collect(),
    }
}

pub(super) fn pruned_view(done: patchbay_store::Pruned) -> Pruned {
    Pruned {
        partitions: done.partitions,
        attempts_in_partitions: done.attempts_in_partitions,
        attempts: done.attempts,
        and_more: done.and_more,
        dead_letters: done.dead_letters,
    }
}

pub(super) fn erasure_view(row: ErasureRow) -> RecordedErasure {
    RecordedErasure {
        id: row.id,
        path: row.path,
        queue: row.queue,
        job_id: row.job_id,
        unfinished: row.unfinished,
        actor: row.actor,
        reason: row.reason,
        began_at: row.began_at,
        ended_at: row.ended_at,
        listed_at: row.listed_at,
        done: row.done,
        to_come: row.to_come,
        left: row.left,
        counts: row.counts,
    }
}

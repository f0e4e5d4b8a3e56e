//! Calls that take one job out of its state: removed, with a copy for undoing, or moved back to
//! waiting.

use std::time::Duration;

use bullmq::QueueKeys;
use patchbay_model::job::JobState;
use patchbay_model::{JobId, QueueName};
use redis::{Cmd, Pipeline};

use crate::opts::JobOpts;
use crate::scripts::{self, Call};

/// A removal can be undone within an hour of the operation's end, and the operation itself takes
/// time.
pub(crate) const COPIES_STAY: Duration = Duration::from_secs(2 * 3_600);

/// Moves a finished job back to waiting. `None` if the job is not finished.
pub(crate) fn reprocessing(
    keys: &QueueKeys,
    id: &JobId,
    state: JobState,
    opts: &JobOpts,
) -> Option<Call> {
    let (set, property, previous) = match state {
        JobState::Failed => (keys.failed(), "failedReason", "failed"),
        JobState::Completed => (keys.completed(), "returnvalue", "completed"),
        _ => return None,
    };
    let names = [
        keys.job_key(id.as_str()),
        keys.events(),
        set,
        keys.wait(),
        keys.meta(),
        keys.active(),
        keys.marker(),
        keys.prioritized(),
        keys.pc(),
    ];
    let call = Call::new(&scripts::REPROCESS, &names)
        .arg(id.as_str())
        .arg(opts.push())
        .arg(property)
        .arg(previous);
    // Resets the attempts made, but not the attempts started: those distinguish the attempts in the
    // history.
    Some(call.arg("1").arg("0"))
}

/// Removes a job without its children.
pub(crate) fn removal(keys: &QueueKeys, id: &JobId) -> Call {
    let call = Call::new(
        &scripts::REMOVE_JOB,
        &[keys.job_key(id.as_str()), keys.repeat()],
    );
    call.arg(id.as_str()).arg("0").arg(keys.key_prefix())
}

/// Key of the copy of a job that a bulk operation has removed.
pub(crate) fn copy_key(own_prefix: &str, bulk: i64, queue: &QueueName, id: &JobId) -> String {
    format!("{own_prefix}:bulk:{bulk}:{queue}:{id}")
}

/// Set of the ids of a queue's waiting jobs that a bulk operation has marked as removed. It may hold
/// ids that another BullMQ client's worker has taken.
pub(crate) fn marked_key(own_prefix: &str, queue: &QueueName) -> String {
    format!("{own_prefix}:removed:{queue}")
}

/// Exists while the queue's waiting jobs are drained or cleaned; then none is marked.
pub(crate) fn clearing_key(own_prefix: &str, queue: &QueueName) -> String {
    format!("{own_prefix}:clearing:{queue}")
}

/// Copies the job's hash and log, for undoing.
pub(crate) fn copying(
    own_prefix: &str,
    bulk: i64,
    queue: &QueueName,
    id: &JobId,
    job: &str,
) -> Vec<Cmd> {
    let copy = copy_key(own_prefix, bulk, queue, id);
    let mut commands = Vec::new();
    for part in ["", ":logs"] {
        let (from, to) = (format!("{job}{part}"), format!("{copy}{part}"));
        let mut copy = redis::cmd("COPY");
        copy.arg(from).arg(&to).arg("REPLACE");
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(to).arg(COPIES_STAY.as_secs());
        commands.extend([copy, expire]);
    }
    commands
}

/// Removes a job that its worker has found marked as removed. A copy stays for undoing.
pub(crate) fn taking_away(
    own_prefix: &str,
    bulk: i64,
    keys: &QueueKeys,
    queue: &QueueName,
    id: &JobId,
) -> Pipeline {
    let job = keys.job_key(id.as_str());
    let mut pipe = redis::pipe();
    pipe.atomic();
    for command in copying(own_prefix, bulk, queue, id, &job) {
        pipe.add_command(command);
    }
    // BullMQ's script does not touch a locked job, and here this worker holds the lock.
    pipe.del(format!("{job}:lock"))
        .srem(keys.stalled(), id.as_str())
        .srem(marked_key(own_prefix, queue), id.as_str());
    pipe.add_command(removal(keys, id).command());
    pipe
}

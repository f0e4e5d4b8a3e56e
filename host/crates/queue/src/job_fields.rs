//! Names of fields in a job's hash.

/// Fields of BullMQ 5 and 6. None of them is also a field of `meta`.
pub(crate) const BULLMQ: [&str; 20] = [
    "name",
    "data",
    "opts",
    "timestamp",
    "delay",
    "priority",
    "processedOn",
    "finishedOn",
    "failedReason",
    "stacktrace",
    "returnvalue",
    "progress",
    "parent",
    "parentKey",
    "atm",
    "ats",
    "stc",
    "pb",
    "rjk",
    "deid",
];

/// Patchbay's own field: the bulk operation that has cancelled the job.
pub(crate) const CANCELLED: &str = "pcx";

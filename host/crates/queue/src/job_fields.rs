//! Fields of a job's hash.

/// BullMQ's, 5 and 6; none of them is one of `meta`.
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

/// Ours: the operation that has cancelled it.
pub(crate) const CANCELLED: &str = "pcx";

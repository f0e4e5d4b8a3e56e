//! How far the mirror has read a queue.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorCursor {
    /// Jobs that completed at this time or later are still to be read. Unix milliseconds, by the
    /// clocks of the workers.
    pub completed_from_ms: u64,
    /// The same for failed jobs.
    pub failed_from_ms: u64,
    /// The last event of the queue's stream that was read.
    pub event: String,
}

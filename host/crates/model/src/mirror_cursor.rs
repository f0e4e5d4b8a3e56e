//! How far the mirror has looked at a queue.

/// From where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorCursor {
    /// Jobs that completed at this time or later have yet to be looked at. Unix milliseconds, by the clocks of the workers.
    pub completed_from_ms: u64,
    /// Likewise, jobs that failed.
    pub failed_from_ms: u64,
    /// The last event of the queue's stream that was looked at.
    pub event: String,
}

//! Decides whether an attempt is recorded, and whether its job's data and result (the body) are
//! recorded with it.
//!
//! The stream is in Redis's memory, which jobs need more. While it holds more than its share,
//! bodies are left out and outcomes are still recorded. The size of the stream is sampled; between
//! two samples, this process adds what it has written itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use patchbay_queue::Broker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Largest body, data and result together. Larger ones are left out.
pub const MAX_BODY_BYTES: usize = 256 << 10;
/// Interval of samples. A sample that is requested earlier waits at least `SAMPLE_AT_MOST_EVERY`.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const SAMPLE_AT_MOST_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub struct Recording {
    pub attempts: bool,
    /// Whether the operator wants bodies.
    pub bodies: bool,
    /// Whether there is a key to seal bodies with.
    pub has_key: bool,
    /// How much the stream may hold before bodies are left out.
    pub buffer_bytes: u64,
}

/// Why bodies are left out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBodies {
    /// Nothing is recorded at all.
    Off,
    /// The operator does not want bodies.
    Unwanted,
    /// There is no key to seal them.
    NoKey,
    /// The stream holds too much.
    Full,
}

impl NoBodies {
    /// What the operator can do about it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Off => "history.enabled is false: nothing is recorded",
            Self::Unwanted => "history.bodies is false",
            Self::NoKey => "no master key: set secrets.key_file on every host, and restart",
            Self::Full => {
                "the stream in Redis holds more than history.buffer_mb: Postgres is too slow, or does not answer"
            }
        }
    }
}

/// Shared by all jobs of this process.
pub struct BodyBudget {
    recording: Recording,
    sampled: AtomicU64,
    written: AtomicU64,
    full: AtomicBool,
    sample: Notify,
}

impl BodyBudget {
    pub fn new(recording: Recording) -> Self {
        Self {
            recording,
            sampled: AtomicU64::new(0),
            written: AtomicU64::new(0),
            full: AtomicBool::new(false),
            sample: Notify::new(),
        }
    }

    pub fn recording(&self) -> Recording {
        self.recording
    }

    /// Why bodies of any size are left out now, if they are.
    pub fn no_bodies(&self) -> Option<NoBodies> {
        let Recording {
            attempts,
            bodies,
            has_key,
            ..
        } = self.recording;
        let reasons = [
            (!attempts, NoBodies::Off),
            (!bodies, NoBodies::Unwanted),
            (!has_key, NoBodies::NoKey),
            (self.full.load(Ordering::Relaxed), NoBodies::Full),
        ];
        reasons
            .into_iter()
            .find_map(|(is_so, why)| is_so.then_some(why))
    }

    /// Whether there is room for a body of this size. Reserves the room if so.
    pub fn takes(&self, bytes: usize) -> bool {
        let Recording {
            attempts,
            bodies,
            has_key,
            buffer_bytes,
        } = self.recording;
        if !(attempts && bodies && has_key) || bytes > MAX_BODY_BYTES {
            return false;
        }
        let bytes = bytes as u64;
        let written = self.written.load(Ordering::Relaxed) + bytes;
        let fits = self.sampled.load(Ordering::Relaxed) + written <= buffer_bytes;
        if fits {
            self.written.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.full.store(true, Ordering::Relaxed);
        }
        if !fits || written > buffer_bytes / 4 {
            self.sample.notify_one();
        }
        fits
    }

    fn sampled(&self, bytes: u64) {
        self.sampled.store(bytes, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        self.full
            .store(bytes > self.recording.buffer_bytes, Ordering::Relaxed);
    }

    /// Samples the size of the stream until cancelled.
    pub async fn watch(self: std::sync::Arc<Self>, queues: Broker, stop: CancellationToken) {
        loop {
            // While Redis is away, the last sample stays valid, because nothing is written.
            if let Ok(bytes) = queues.attempts_bytes().await {
                self.sampled(bytes);
            }
            let asked = async {
                tokio::time::sleep(SAMPLE_AT_MOST_EVERY).await;
                let _in_time = tokio::time::timeout(SAMPLE_EVERY, self.sample.notified()).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = asked => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Recording = Recording {
        attempts: true,
        bodies: true,
        has_key: true,
        buffer_bytes: 1_000,
    };

    #[test]
    fn bodies_stay_out_once_the_stream_holds_its_share_and_come_back() {
        let budget = BodyBudget::new(ALL);
        assert!(
            budget.takes(600) && !budget.takes(600),
            "what was written since the sample counts"
        );
        assert_eq!(budget.no_bodies(), Some(NoBodies::Full));
        budget.sampled(500);
        assert!(budget.takes(400) && budget.no_bodies().is_none());
        budget.sampled(1_001);
        assert_eq!(
            (budget.takes(1), budget.no_bodies()),
            (false, Some(NoBodies::Full))
        );
        budget.sampled(0);
        assert!(budget.takes(1));
    }

    #[test]
    fn no_body_without_a_key_nor_against_the_operators_will_nor_beyond_the_limit() {
        for (recording, why) in [
            (
                Recording {
                    has_key: false,
                    ..ALL
                },
                NoBodies::NoKey,
            ),
            (
                Recording {
                    bodies: false,
                    ..ALL
                },
                NoBodies::Unwanted,
            ),
            (
                Recording {
                    attempts: false,
                    ..ALL
                },
                NoBodies::Off,
            ),
        ] {
            let budget = BodyBudget::new(recording);
            assert_eq!((budget.takes(1), budget.no_bodies()), (false, Some(why)));
        }
        let budget = BodyBudget::new(Recording {
            buffer_bytes: u64::MAX,
            ..ALL
        });
        assert!(budget.takes(MAX_BODY_BYTES) && !budget.takes(MAX_BODY_BYTES + 1));
    }
}

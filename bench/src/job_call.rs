//! A call of a job, as measurements make it.

use patchbay_runtime::JobCall;
use tokio_util::sync::CancellationToken;

pub fn call(name: &str, data: &str) -> JobCall {
    JobCall {
        id: "1".into(),
        queue: "hostileQueue".into(),
        name: name.into(),
        data: data.into(),
        attempt: 1,
        max_attempts: 1,
        enqueued_at_ms: 0,
        idempotency_key: "key".into(),
        correlation_id: "correlation".into(),
        platform: "platform".into(),
        schedule_id: None,
        first_deferred_at_ms: None,
        occupancy: Default::default(),
        cancel: CancellationToken::new(),
    }
}

//! WIT 0.1: the generated bindings.

use crate::report::JobCall;

#[allow(unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.1",
        // Exports are looked up one by one, since a component has only some of them.
        world: "integration",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(super) use bindings::exports::patchbay::plugin as exports;
pub use bindings::patchbay::plugin::*;

pub(super) fn job(call: JobCall, deadline: u64) -> exports::jobs::Job {
    exports::jobs::Job {
        id: call.id,
        queue: call.queue,
        name: call.name,
        data: call.data,
        attempt: call.attempt,
        max_attempts: call.max_attempts,
        enqueued_at: call.enqueued_at_ms,
        deadline,
        idempotency_key: call.idempotency_key,
        correlation_id: call.correlation_id,
        platform: call.platform,
        schedule_id: call.schedule_id,
    }
}

//! WIT 0.2, a draft: the generated bindings, adapted once to `Capabilities` of the model.

// Compiled against the types of each version.
#[allow(clippy::duplicate_mod)]
#[path = "interfaces/mod.rs"]
mod interfaces;

use wasmtime::component::{HasSelf, Linker};

use crate::report::JobCall;
use crate::state::State;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.2",
        // Its exports are looked up one by one, since a component has some of them.
        world: "integration",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

use bindings::exports::patchbay::plugin::jobs::Job;

pub(crate) use interfaces::Component;

/// What a component of this version may import.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    bindings::Integration::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

fn job(call: JobCall, deadline: u64) -> Job {
    Job {
        id: call.id,
        queue: call.queue,
        name: call.name,
        data: call.data,
        attempt: call.attempt,
        max_attempts: call.max_attempts,
        enqueued_at: call.enqueued_at_ms,
        first_deferred_at: call.first_deferred_at_ms,
        deadline,
        idempotency_key: call.idempotency_key,
        correlation_id: call.correlation_id,
        platform: call.platform,
        schedule_id: call.schedule_id,
    }
}

//! Decides whose fault it is that a call ended without a result.
//!
//! Whatever a running guest ends with is the guest's fault, even if the host's side of an interface
//! refuses: the same call would end the same way again, and only failures that cost an attempt ever
//! end. The host's faults are failures that the host itself has marked ([`HostError`]), and an
//! instance that could not be made before the guest ran at all.

use std::time::Duration;

use patchbay_model::outcome::{MAX_WHOLE_MESSAGE_BYTES, Outcome, truncate};
use wasmtime::component::ResourceTableError;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::last_words;
use crate::memory::{Account, MAX_HANDLES};

/// Most frames that are kept of a guest's backtrace. Recursion has thousands, and the first ones
/// show the cause.
const MAX_FRAMES: usize = 50;

/// A fault of the host during a call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostError(pub(crate) &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The instance is being made. Start functions of the guest run in this phase.
    Starting,
    Running,
}

pub(crate) struct Broken<'a> {
    pub(crate) error: &'a wasmtime::Error,
    pub(crate) phase: Phase,
    pub(crate) memory: &'a Account,
    pub(crate) limit: Duration,
    /// What the guest printed last.
    pub(crate) printed: &'a str,
}

impl Broken<'_> {
    /// The outcome, and the guest's stack: its last output, then the functions on its stack.
    pub(crate) fn judge(&self) -> (Outcome, Option<String>) {
        let outcome = self.outcome();
        let printed = match outcome {
            Outcome::Trapped(_) | Outcome::MemoryLimit(_) => self.printed,
            _ => "",
        };
        let frames = self
            .error
            .downcast_ref::<WasmBacktrace>()
            .map(frames)
            .unwrap_or_default();
        let stack = [printed, &frames]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        (outcome, (!stack.is_empty()).then_some(stack))
    }

    fn outcome(&self) -> Outcome {
        let Self {
            error,
            phase,
            memory,
            limit,
            ..
        } = *self;
        if let Some(HostError(reason)) = error.downcast_ref() {
            return Outcome::HostFault((*reason).to_owned());
        }
        let trap = error.downcast_ref::<Trap>();
        if memory.is_exceeded() {
            return Outcome::MemoryLimit(memory.limit() as u64);
        }
        if trap == Some(&Trap::Interrupt) {
            return Outcome::Deadline(limit);
        }
        if memory.ran_out() {
            return Outcome::MemoryLimit(memory.limit() as u64);
        }
        let ran = trap.is_some() || error.is::<WasmBacktrace>();
        let reason = error.root_cause().to_string();
        match phase {
            _ if ran => Outcome::Trapped(self.trapped()),
            Phase::Starting => Outcome::HostFault(format!("no instance could be made: {reason}")),
            // The guest's own allocator decides where its arguments are written into its memory, so
            // a wrong place is its fault.
            Phase::Running if reason.starts_with("realloc return") => {
                Outcome::Trapped(self.trapped())
            }
            // The guest has returned.
            Phase::Running => Outcome::InvalidResult(format!("it cannot be read: {reason}")),
        }
    }

    /// The panic or exception if the guest printed one, else what stopped it.
    fn trapped(&self) -> String {
        let mut message = match (
            self.error.downcast_ref::<I32Exit>(),
            last_words::failure(self.printed),
        ) {
            (_, Some(failure)) => failure,
            (Some(I32Exit(code)), None) => format!("it called exit({code}) instead of returning"),
            (None, None) => self.stopped_by(),
        };
        truncate(&mut message, MAX_WHOLE_MESSAGE_BYTES);
        message
    }

    fn stopped_by(&self) -> String {
        // The other limit counts handles in the guest's own tables; its error has no public type.
        let cause = self.error.root_cause().to_string();
        if matches!(self.error.downcast_ref(), Some(ResourceTableError::Full))
            || cause.contains("handle limit exceeded")
        {
            return format!(
                "it held more than {MAX_HANDLES} resources at once (streams, pollables, requests, header lists)"
            );
        }
        let place = self
            .error
            .downcast_ref::<WasmBacktrace>()
            .and_then(|trace| trace.frames().first().map(place));
        match (self.error.downcast_ref::<Trap>(), place) {
            (Some(trap), Some(place)) => format!("{trap} at {place}"),
            (Some(trap), None) => trap.to_string(),
            (None, _) => cause,
        }
    }
}

fn place(frame: &wasmtime::FrameInfo) -> String {
    let name = frame.func_name().map_or_else(
        || format!("function {}", frame.func_index()),
        |name| rustc_demangle::demangle(name).to_string(),
    );
    format!(
        "{name} (+0x{:x})",
        frame.module_offset().unwrap_or_default()
    )
}

fn frames(backtrace: &WasmBacktrace) -> String {
    let lines = backtrace
        .frames()
        .iter()
        .take(MAX_FRAMES)
        .map(|frame| format!("    at {}", place(frame)));
    lines.collect::<Vec<_>>().join("\n")
}

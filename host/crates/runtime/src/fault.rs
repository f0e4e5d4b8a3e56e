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
/// Frames without names that tell one place from another: a panic has about five before the
/// guest's own.
const MAX_NAMELESS: usize = 8;

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
    /// As far as it went to standard error.
    pub(crate) stderr: &'a str,
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
            Phase::Starting => {
                Outcome::HostFault(format!("no instance could be created: {reason}"))
            }
            // The guest's own allocator decides where its arguments are written into its memory, so
            // a wrong place is its fault.
            Phase::Running if reason.starts_with("realloc return") => {
                Outcome::Trapped(self.trapped())
            }
            // The guest has returned.
            Phase::Running => {
                Outcome::InvalidResult(format!("the result cannot be read: {reason}"))
            }
        }
    }

    /// The panic or exception if the guest printed one. Of a guest that ended itself and whose
    /// language is not known: its last line, and what stopped it. Else only what stopped it.
    fn trapped(&self) -> String {
        let mut message = last_words::failure(self.printed).unwrap_or_else(|| {
            let stopped_by = self.stopped_by();
            match last_words::last_line(self.stderr).filter(|_| self.ended_itself()) {
                Some(line) => format!("{line} ({stopped_by})"),
                None => stopped_by,
            }
        });
        truncate(&mut message, MAX_WHOLE_MESSAGE_BYTES);
        message
    }

    fn ended_itself(&self) -> bool {
        self.error.is::<I32Exit>()
            || self.error.downcast_ref::<Trap>() == Some(&Trap::UnreachableCodeReached)
    }

    fn stopped_by(&self) -> String {
        if let Some(I32Exit(code)) = self.error.downcast_ref() {
            return format!("it called exit({code}) instead of returning");
        }
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
            .and_then(top_frames);
        match (self.error.downcast_ref::<Trap>(), place) {
            (Some(trap), Some(place)) => format!("{trap} at {place}"),
            (Some(trap), None) => trap.to_string(),
            (None, _) => cause,
        }
    }
}

/// Where the guest's own code was: the first frame that is not of its language's runtime. Where no
/// frame has a name, that is not known, and several frames together say it.
fn top_frames(backtrace: &WasmBacktrace) -> Option<String> {
    let frames = backtrace.frames();
    if frames.iter().all(|frame| frame.func_name().is_none()) {
        let places: Vec<String> = frames.iter().take(MAX_NAMELESS).map(place).collect();
        return (!places.is_empty()).then(|| places.join(" < "));
    }
    let is_own = |frame: &&wasmtime::FrameInfo| {
        frame
            .func_name()
            .is_some_and(|name| !is_of_a_language(&demangled(name)))
    };
    frames.iter().find(is_own).or(frames.first()).map(place)
}

/// Beginnings of names in the runtimes of languages, through which every panic or abort goes.
const OF_LANGUAGES: [&str; 14] = [
    "std::", "core::", "alloc::", "<std::", "<core::", "<alloc::", "rust_", "__rust", "__rg_",
    "__rdl_", "__assert", "__cxa_", "__wasi_", "runtime.",
];
/// Functions of the C library that end a program.
const ENDS: [&str; 5] = ["abort", "_abort", "__abort", "exit", "_Exit"];

fn is_of_a_language(name: &str) -> bool {
    ENDS.contains(&name) || OF_LANGUAGES.iter().any(|start| name.starts_with(start))
}

/// Without the hash of the compiler, which says nothing to a reader.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

fn place(frame: &wasmtime::FrameInfo) -> String {
    let name = frame
        .func_name()
        .map_or_else(|| format!("function {}", frame.func_index()), demangled);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_the_guests_own_code_and_not_by_its_languages_runtime() {
        for name in [
            "__rust_start_panic",
            "rust_panic",
            "std::panicking::begin_panic_handler",
            "core::option::unwrap_failed",
            "<core::option::Option<T>>::expect",
            "abort",
            "runtime.abort",
        ] {
            assert!(is_of_a_language(name), "{name}");
        }
        for name in [
            "hostile::panic_here",
            "<hostile::Hostile as jobs::Guest>::run",
            "main.run",
            "post",
            "abort_payment",
        ] {
            assert!(!is_of_a_language(name), "{name}");
        }
        assert_eq!(
            demangled("_ZN7hostile10panic_here17h0123456789abcdefE"),
            "hostile::panic_here"
        );
    }
}

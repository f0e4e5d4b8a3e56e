//! `[runtime]`: the sandbox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use patchbay_runtime::{CompilerCommand, HostLimits, RuntimeConfig};

use super::environment::Environment;
use super::key::{key, section};
use super::kind::{mebibytes, milliseconds, number, seconds, text};
use crate::cache_key::cache_key;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// The default limits of the contract.
const MAX_RESULT_BYTES: usize = 1 << 20;
const MAX_LOG_BYTES: usize = 1 << 20;

section! {
    /// The sandbox.
    pub struct Runtime {
        /// Maximum number of plugin calls at the same time
        max_calls: usize = key("runtime.max_calls", number(1..=10_000)).default("100");
        /// Threads that plugins run on; default: one per processor
        threads: usize = key("runtime.threads", number(1..=1_024)).otherwise(|_| processors());
        /// Memory of a call whose manifest names none
        memory_mb: u32 = key("runtime.memory_mb", number(1..=4_096)).default("64");
        /// Maximum memory that a manifest may ask for
        max_memory_mb: u32 = key("runtime.max_memory_mb", number(1..=4_096)).default("512");
        /// Deadline of a call whose manifest names none
        deadline: Duration = key("runtime.deadline_ms", milliseconds(1..=DAY_MS)).default("30000");
        /// Maximum deadline that a manifest may ask for
        max_deadline: Duration = key("runtime.max_deadline_ms", milliseconds(1..=DAY_MS)).default("300000");
        /// Largest component file
        max_component: usize = key("runtime.max_component_mb", mebibytes(1..=1_024)).default("64");
        /// Directory of compiled plugins; default: $CACHE_DIRECTORY (systemd), else $XDG_CACHE_HOME
        /// or ~/.cache, /patchbay
        cache_dir: PathBuf = key("runtime.cache_dir", text()).otherwise(default_cache_dir);
        /// Time limit for a compilation
        compile_timeout: Duration = key("runtime.compile_timeout_s", seconds(1..=3_600)).default("120");
        /// Address space of the compiler
        compile_memory: u64 = key("runtime.compile_memory_mb", mebibytes(256..=65_536)).default("4096");
    }
}

impl Runtime {
    /// Makes the cache directory and its key. `draft_wit`: whether plugins may use versions of the
    /// contract that may still change.
    pub fn sandbox(&self, draft_wit: bool) -> anyhow::Result<RuntimeConfig> {
        let compiler = CompilerCommand {
            program: std::env::current_exe()
                .context("cannot find the path of this program, which also compiles plugins")?,
            args: vec!["__compile".into()],
        };
        let cache_key = cache_key(&self.cache_dir)?;
        Ok(RuntimeConfig {
            cache_dir: self.cache_dir.clone(),
            compiler: Some(compiler),
            compile_timeout: *self.compile_timeout,
            compile_memory_bytes: *self.compile_memory,
            max_calls: *self.max_calls,
            worker_threads: *self.threads,
            limits: HostLimits {
                default_memory_mb: *self.memory_mb,
                max_memory_mb: *self.max_memory_mb,
                default_deadline: *self.deadline,
                max_deadline: *self.max_deadline,
                max_result_bytes: MAX_RESULT_BYTES,
                max_log_bytes: MAX_LOG_BYTES,
                max_component_bytes: *self.max_component,
            },
            draft_wit,
            cache_key,
        })
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn default_cache_dir(environment: &Environment<'_>) -> PathBuf {
    if let Some(dir) = environment.get("CACHE_DIRECTORY") {
        return PathBuf::from(dir);
    }
    let home = || {
        environment
            .get("HOME")
            .map(|home| Path::new(home).join(".cache"))
    };
    let base = environment
        .get("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home);
    base.unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("patchbay")
}

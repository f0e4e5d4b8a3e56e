//! The engine. Only this module builds a wasmtime `Config`, so that the compiler process and the
//! host agree on every setting.

use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::RuntimeError;

/// Length of one epoch, which bounds how late a spinning guest is noticed.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// A typical Rust guest dirties 67 KiB per call.
const KEEP_RESIDENT: usize = 128 * 1024;
/// The pool is counted in core instances, and a component has several (Rust 3, C 4, JS 4, QuickJS
/// 9, CPython 14). A call takes at least this many, so that as many calls fit as are configured.
pub(crate) const LEAST_WEIGHT: u32 = 4;
/// A component with more core instances is refused at staging, not when its first call finds the
/// pool too small.
pub(crate) const MOST_WEIGHT: u32 = 16;

/// Weight of all calls that may run at once.
pub(crate) fn capacity(calls: u32) -> u32 {
    calls.saturating_mul(LEAST_WEIGHT).max(MOST_WEIGHT)
}

fn config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    // WASI 0.2 only: without the machinery of 0.3 a call costs half.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // Reading DWARF costs milliseconds of CPU per panic and per cancelled call. Names come from the
    // name section for free.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    config
}

pub(crate) fn compiler() -> Result<Engine, RuntimeError> {
    Engine::new(&config()).map_err(|error| RuntimeError::Engine(format!("{error:#}")))
}

/// An engine for running: pooled where the address space allows, else on demand. Both run the same
/// compiled code.
pub(crate) fn runner(calls: u32, max_memory_bytes: usize) -> Result<Engine, RuntimeError> {
    let mut pool = PoolingAllocationConfig::default();
    let capacity = capacity(calls);
    let calls = capacity / LEAST_WEIGHT;
    pool.total_component_instances(calls)
        .total_core_instances(capacity)
        .total_memories(capacity / 2)
        .total_tables(capacity)
        .total_stacks(calls)
        .max_core_instances_per_component(MOST_WEIGHT)
        .max_memories_per_component(MOST_WEIGHT / 2)
        .max_tables_per_component(MOST_WEIGHT)
        .table_elements(20_000)
        // Clears what a small guest dirtied by writing, instead of asking the system for fresh
        // pages. This saves two system calls per memory and call; at most this much stays resident
        // per slot.
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(wasmtime::Enabled::Auto)
        .max_memory_size(max_memory_bytes);
    let mut pooled = config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    match Engine::new(&pooled) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "Instances cannot be pooled on this machine; calls take slightly longer"
            );
            compiler()
        }
    }
}

/// Advances the epoch from a separate thread, so that work on async threads never delays it. The
/// thread ends with the engine.
pub(crate) fn start_ticker(engine: &Engine) -> Result<(), RuntimeError> {
    let weak = engine.weak();
    let ticker = move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(ticker)
        .map(drop)
        .map_err(|source| RuntimeError::Io {
            what: "cannot start the epoch thread",
            source,
        })
}

//! What a wasmtime store holds for one call, and how a guest's calls reach the host's threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use patchbay_model::capability::Capabilities;
use patchbay_model::sql::SqlTransaction;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::fault::{Ours, Phase};
use crate::log_budget::LogBudget;
use crate::memory::{Account, MAX_HANDLES};
use crate::output::Output;
use crate::wasi_http::{Hooks, weigh};

/// Weighing what the host holds takes time: at most one part of so many of a call's.
const WEIGHING: u32 = 4;
pub(crate) const PANICKED: &str = "the host panicked in a call that this guest made; please report it";

/// A store's data.
pub(crate) struct State {
    pub(crate) capabilities: Arc<dyn Capabilities>,
    /// Where capabilities run: connections belong to the host's own threads.
    pub(crate) host: tokio::runtime::Handle,
    pub(crate) log: Arc<LogBudget>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) transactions: Transactions,
    pub(crate) memory: Account,
    pub(crate) phase: Phase,
    /// wasi:http was called since the host's part of the memory was weighed last.
    is_heavier: bool,
    weigh_after: Instant,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.is_heavier = true;
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl State {
    pub(crate) fn new(
        capabilities: Arc<dyn Capabilities>,
        host: tokio::runtime::Handle,
        log: Arc<LogBudget>,
        memory: Account,
        (stdout, stderr): (&Output, &Output),
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            wasi: wasi(stdout, stderr),
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(Arc::clone(&capabilities), host.clone(), memory.clone()),
            capabilities,
            host,
            log,
            table,
            transactions: Transactions::default(),
            memory,
            phase: Phase::Starting,
            is_heavier: false,
            weigh_after: Instant::now(),
        }
    }

    /// Runs a capability on the host's threads; it ends when the guest's call does.
    pub(crate) async fn outside<T: Send + 'static>(
        &mut self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> wasmtime::Result<T> {
        AbortOnDropHandle::new(self.host.spawn(act)).await.map_err(|error| match error.is_panic() {
            // Not marked as ours: this guest has found a way to it, and would find it again each second for a day.
            true => wasmtime::format_err!("{PANICKED}"),
            false => Ours("the host is shutting down").into(),
        })
    }

    /// Looks how much the host holds for the guest. What comes between two looks is bounded by what a guest can copy in that time.
    pub(crate) fn weigh(&mut self) {
        let now = Instant::now();
        if self.is_heavier && now >= self.weigh_after {
            self.is_heavier = false;
            self.memory.weigh(weigh(&mut self.table));
            self.weigh_after = now + now.elapsed() * WEIGHING;
        }
    }
}

/// Transactions that the guest holds, by the number that it knows them by.
#[derive(Default)]
pub(crate) struct Transactions {
    pub(crate) open: HashMap<u32, Arc<dyn SqlTransaction>>,
    pub(crate) last: u32,
}

/// Nothing but clocks and randomness: no environment, no arguments, no files, no sockets, no names.
fn wasi(stdout: &Output, stderr: &Output) -> WasiCtx {
    WasiCtx::builder()
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .socket_addr_check(|_, _| Box::pin(async { false }))
        .max_random_size(1 << 20)
        .build()
}

//! What a wasmtime store holds for one call, and how a guest's calls reach the host's threads.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::call_log::CallLog;
use crate::context::{CallContext, LogLevel};
use crate::fault::{HostError, Phase};
use crate::memory::{Account, MAX_HANDLES};
use crate::output::Output;
use crate::wasi_http::{Hooks, weigh};

/// Measuring what the host holds takes time: at most one part in this many of a call's time.
const WEIGHING: u32 = 4;
pub(crate) const PANICKED: &str =
    "the host panicked in a call that this guest made; please report it";

pub struct State {
    context: Option<Arc<dyn CallContext>>,
    /// The runtime for capabilities, because connections belong to the host's own threads.
    host: tokio::runtime::Handle,
    log: Arc<CallLog>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) memory: Account,
    pub(crate) phase: Phase,
    /// Whether wasi:http was called since the host's part of the memory was last measured.
    is_heavier: bool,
    weigh_after: Instant,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.is_heavier = true;
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl State {
    pub(crate) fn new(
        context: Option<Arc<dyn CallContext>>,
        host: tokio::runtime::Handle,
        log: Arc<CallLog>,
        memory: Account,
        (stdout, stderr): (&Output, &Output),
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            wasi: wasi(stdout, stderr),
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(context.clone(), host.clone(), memory.clone()),
            context,
            host,
            log,
            table,
            memory,
            phase: Phase::Starting,
            is_heavier: false,
            weigh_after: Instant::now(),
        }
    }

    /// The context of this call; `None` if nothing outside is reachable.
    pub fn context(&self) -> Option<&Arc<dyn CallContext>> {
        self.context.as_ref()
    }

    /// Resources of the host that the guest holds.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Writes a line to the guest's log, within the call's log limit.
    pub fn log(&self, level: LogLevel, message: String, fields: &[(String, String)]) {
        self.log.line(level, message, fields);
    }

    /// Runs a capability on the host's threads. It ends when the guest's call does.
    pub async fn outside<T: Send + 'static>(
        &mut self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> wasmtime::Result<T> {
        AbortOnDropHandle::new(self.host.spawn(act))
            .await
            .map_err(|error| match error.is_panic() {
                // Not marked as the host's fault: this guest has found a way to cause the panic,
                // and would cause it again each second for a day.
                true => wasmtime::format_err!("{PANICKED}"),
                false => HostError("the host is shutting down").into(),
            })
    }

    /// Measures how much the host holds for the guest. Between two measurements, it can grow only
    /// by what a guest can copy in that time.
    pub(crate) fn weigh(&mut self) {
        let now = Instant::now();
        if self.is_heavier && now >= self.weigh_after {
            self.is_heavier = false;
            self.memory.weigh(weigh(&mut self.table));
            self.weigh_after = now + now.elapsed() * WEIGHING;
        }
    }
}

/// Only clocks and randomness: no environment, no arguments, no files, no sockets, no names.
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

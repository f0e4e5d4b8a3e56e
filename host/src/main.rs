//! `patchbay`: see `patchbay --help`.

use std::process::ExitCode;

/// Gives freed memory back to the system by itself, also that of threads that have nothing to do any more: after a burst of large results,
/// the C library's allocator keeps tens of megabytes, and mimalloc keeps an idle thread's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc at its start. A second is long against a burst and short against what operators look at.
// SAFETY: the symbol is jemalloc's documented way to be configured; its prefix and its form (a pointer to text that ends with NUL, which
// the first word of a slice is) are those of tikv-jemallocator.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    // Two providers are linked (ring, aws-lc); without a choice the first TLS connection would panic. The error means that one is installed.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    patchbay::command::main()
}

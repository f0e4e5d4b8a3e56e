use std::process::ExitCode;

/// It returns freed memory to the system by itself, even that of idle threads. After a burst of
/// large results, the C library's allocator keeps tens of megabytes, and mimalloc keeps the memory
/// of idle threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc reads this at its start. A second is long compared with a burst, and short compared
/// with the times that operators look at.
// SAFETY: the symbol is jemalloc's documented way of configuration. Its prefix and its form (a
// pointer to a text that ends with NUL; a slice begins with such a pointer) are those of
// tikv-jemallocator.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    // Two providers are linked (ring, aws-lc); without a choice the first TLS connection would
    // panic. An error means that one is already installed.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    patchbay::command::main()
}

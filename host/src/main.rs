//! `patchbay`: see `patchbay --help`.

use std::process::ExitCode;

/// Gives freed memory back to the system: after a burst of large results the C library's allocator keeps tens of megabytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two providers are linked (ring, aws-lc); without a choice the first TLS connection would panic. The error means that one is installed.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    patchbay::cli::main()
}

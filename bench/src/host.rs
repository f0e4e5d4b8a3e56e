//! The host's own binary, built by this workspace.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    patchbay::command::main()
}

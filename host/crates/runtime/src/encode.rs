//! Turns a core module into a component, for toolchains that make none, such as clang with
//! wasi-libc.

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::Parser;
use wit_component::ComponentEncoder;

use crate::Rejection;

/// Returns a component unchanged. A core module must contain the bindings of its world
/// (`wit-bindgen c` writes them).
pub fn encode(file: Vec<u8>) -> Result<Vec<u8>, Rejection> {
    if !Parser::is_core_wasm(&file) {
        return Ok(file);
    }
    let broken = |error| Rejection::Encode(format!("{error:#}"));
    let (_, bindings) = wit_component::metadata::decode(&file).map_err(broken)?;
    if bindings.resolve.worlds[bindings.world].exports.is_empty() {
        return Err(Rejection::Encode(
            "it has no WIT world: link the file *_component_type.o that `wit-bindgen c` writes"
                .into(),
        ));
    }
    let (name, adapter) = (
        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
        WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    );
    let encoder = ComponentEncoder::default().module(&file).map_err(broken)?;
    let mut encoder = encoder.adapter(name, adapter).map_err(broken)?;
    encoder.encode().map_err(broken)
}

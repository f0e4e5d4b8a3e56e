//! The contract with guests: its versions, the bindings of what a component may import, and calling what it exports, whichever version it was
//! built for.

mod exports;
pub mod v0_1;
pub mod v0_2;
mod version;

use async_trait::async_trait;
use patchbay_model::operation::Answer;
use patchbay_model::outcome::Failure;
use wasmtime::Store;
// For those who implement the bindings: wasmtime is this crate's.
pub use wasmtime::component::{HasData, Linker, Resource};
pub use wasmtime::{Error, Result, format_err};

pub(crate) use exports::exports;
/// The types of every version so far.
pub use v0_1::types;
pub use version::Wit;
pub(crate) use version::interface;

use crate::report::Entry;
use crate::state::State;

/// Links the interfaces of one version that components import.
pub type HostInterfaces = fn(Wit, &mut Linker<State>) -> Result<()>;

/// What a guest gave back, not checked yet.
pub(crate) enum Returned {
    /// The result of a job: JSON.
    Result(String),
    /// The answer of an operation.
    Answer(Answer),
    Passed,
}

/// One component, ready to be instantiated.
#[async_trait]
pub(crate) trait Exports: Send + Sync {
    /// Instantiates and calls. `deadline`: when the call ends at the latest, Unix milliseconds.
    async fn run(
        &self,
        store: &mut Store<State>,
        entry: Entry,
        deadline: u64,
    ) -> Result<std::result::Result<Returned, Failure>>;
}

/// Everything that a component may import, of every version that is accepted.
pub(crate) fn link(linker: &mut Linker<State>, drafts: bool, interfaces: HostInterfaces) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    Wit::ALL.into_iter().filter(|wit| drafts || !wit.is_draft()).try_for_each(|wit| interfaces(wit, linker))
}
